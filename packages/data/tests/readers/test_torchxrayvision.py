"""Labels of our readers against those of torchxrayvision's own data sets, image by image, on the official tables."""

import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cxr_data.readers import chestxray14, chexpert, padchest, rsna, tables, vindr_cxr

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that torchxrayvision imports
    datasets = pytest.importorskip("torchxrayvision.datasets")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def theirs(dataset, key: str) -> pl.DataFrame:
    """Labels by image key; spaces and underscores alike."""
    columns = dict(zip(map(same, dataset.pathologies), dataset.labels.T, strict=True))
    return pl.DataFrame({"key": dataset.csv[key].astype(str).to_list(), **columns})


def ours(listing, key) -> pl.DataFrame:
    labels = [pl.col(f"label:{label}").cast(pl.Float64).alias(same(label)) for label in listing.labels]
    return listing.table.select(pl.Series("key", [key(path) for path in listing.table["path"]]), *labels)


def same(label: str) -> str:
    return label.lower().replace("_", " ")


def paired(one: pl.DataFrame, two: pl.DataFrame, label: str) -> tuple[np.ndarray, np.ndarray]:
    both = one.select("key", label).join(two.select("key", pl.col(label).alias("other")), on="key")
    assert both.height == two.height == two["key"].n_unique()
    return both[label].fill_null(np.nan).to_numpy(), both["other"].to_numpy()


def stem(path: str) -> str:
    return Path(path).stem


def official(official_tables, name: str, at: Path, monkeypatch, images) -> None:
    at.write_bytes(official_tables(name))
    lines = at.read_text().splitlines()[1:]
    actual = sorted({images(line.split(",")[0]) for line in lines})
    for module in (tables, chestxray14):
        if hasattr(module, "image_files"):
            monkeypatch.setattr(module, "image_files", lambda _: actual)


def test_chestxray14(official_tables, tmp_path, monkeypatch):
    table = tmp_path / "Data_Entry_2017_v2020.csv"
    official(official_tables, f"{table.name}.gz", table, monkeypatch, lambda name: f"images/{name}")
    read = ours(chestxray14.read(tmp_path), lambda path: Path(path).name)
    other = theirs(datasets.NIH_Dataset(str(tmp_path), views=["*"], unique_patients=False), "Image Index")
    assert other.height == 112_120
    for label in other.columns[1:]:
        np.testing.assert_array_equal(*paired(read, other, label))


def test_chexpert(official_tables, tmp_path, monkeypatch):
    official(official_tables, "chexpert_train.csv.gz", tmp_path / "train.csv", monkeypatch, lambda name: name)
    read = ours(chexpert.read(tmp_path), lambda path: path)
    dataset = datasets.CheX_Dataset(str(tmp_path), views=["*"], unique_patients=False)
    other = theirs(dataset, "Path").rename({"effusion": "pleural effusion"})
    healthy = pl.DataFrame({"key": dataset.csv["Path"].to_list(), "healthy": dataset.csv["No Finding"].to_list()})
    no_finding = read.select("key").join(healthy, on="key")["healthy"].to_numpy() == 1
    for label in other.columns[1:]:
        coded, their = paired(read, other, label)
        # Doubt and silence keep codes of their own until a policy is chosen; theirs are both unknown, but silence
        # about a finding of images with "No Finding" is absence, and overrules even a finding that is named.
        mine = np.where(coded < 0, np.nan, coded)
        if label != "support devices":
            mine[no_finding] = 0
        np.testing.assert_array_equal(mine, their)


def test_rsna(official_tables, tmp_path, monkeypatch):
    table = tmp_path / "stage_2_train_labels.csv"
    official(official_tables, "kaggle_stage_2_train_labels.csv.zip", table, monkeypatch, lambda name: f"{name}.dcm")
    read = ours(rsna.read(tmp_path), stem)
    other = theirs(datasets.RSNA_Pneumonia_Dataset(str(tmp_path), views=["*"]), "patientId")
    assert other.height == 26_684
    np.testing.assert_array_equal(*paired(read, other, "lung opacity"))


def test_vindr(official_tables, tmp_path, monkeypatch):
    table = tmp_path / "train.csv"
    official(official_tables, "vinbigdata-train.csv.gz", table, monkeypatch, lambda name: f"{name}.dicom")
    read = ours(vindr_cxr.read(tmp_path), stem)
    dataset = datasets.VinDr_Dataset(str(tmp_path))
    dataset.csv = dataset.csv.reset_index()
    other = theirs(dataset, "image_id").rename({"effusion": "pleural effusion"})
    assert other.height == 15_000
    for label in other.columns[1:]:
        shares, seen = paired(read, other, label)
        np.testing.assert_array_equal(shares > 0, seen == 1)  # one of the three readers is enough for theirs


def test_padchest(official_tables, tmp_path, monkeypatch):
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    (tmp_path / f"{name}.gz").write_bytes(official_tables(f"{name}.gz", unpack=False))
    images = tables.read_columns(tmp_path / f"{name}.gz", ["ImageID"])["ImageID"].to_list()
    monkeypatch.setattr(tables, "image_files", lambda _: images)
    read = ours(padchest.read(tmp_path), lambda path: path)
    other = theirs(datasets.PC_Dataset(str(tmp_path), views=["*"], unique_patients=False), "ImageID")
    assert other.height == 158_616  # without images of children under ten and some that were missing once
    words = tables.read_columns(tmp_path / f"{name}.gz", ["ImageID", "Labels"]).rename({"ImageID": "key"})
    for label in ("emphysema", "pneumonia", "tuberculosis"):
        both = (
            read.select("key", label)
            .join(other.select("key", pl.col(label).alias("other")), on="key")
            .join(words, on="key")
        )
        both = both.filter(pl.col(label).is_not_nan())  # a report that names nothing says nothing to us
        more = both.filter(pl.col(label) != pl.col("other"))
        # Theirs takes a finding wherever its word occurs, as in "atypical pneumonia" or "tuberculosis sequelae".
        assert set(more[label]) == {0.0}
        longer = more["Labels"].str.extract_all(rf"'[^']*{label}[^']*'").explode().str.strip_chars("' ")
        assert label not in set(longer)
        assert both.filter(pl.col(label) == 1).height > 100
