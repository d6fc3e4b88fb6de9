"""The readers against real releases; every count here is from the data sets' own descriptions."""

import csv
from collections import Counter

import numpy as np
import polars as pl
import pytest

from cxr_data import BrokenImage, Cohort, open_cohort, prepare, read_image
from cxr_data.cohorts.cohort import load, save
from cxr_data.errors import BadInput
from cxr_data.preparation.splits import label_fraction
from cxr_data.readers import chestxray14, recognise, tables

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def kermany(shared_data, tmp_path_factory) -> Cohort:
    out = tmp_path_factory.mktemp("kermany") / "cohort"
    return prepare(shared_data / "kermany_pneumonia", out, pixel_size=128, show=False)


@pytest.fixture(scope="module")
def nih(shared_data, tmp_path_factory) -> Cohort:
    out = tmp_path_factory.mktemp("nih") / "cohort"
    return prepare(shared_data / "nih_1000_64", out, pixel_size=64, show=False)


def test_kermany_counts(kermany, shared_data):
    assert recognise(shared_data / "kermany_pneumonia") == "kermany"
    assert len(kermany) == 5856
    assert kermany.broken == ()
    assert kermany.targets.sum(axis=0).tolist() == [1341 + 8 + 234, 3875 + 8 + 390]
    where = kermany.table.select(pl.col("image").str.split("/").list.first().alias("folder"), "subtype")
    counts = Counter(where.rows())
    assert counts["train", "bacteria"], counts["train", "virus"] == (2530, 1345)
    assert (counts["test", "bacteria"], counts["test", "virus"]) == (242, 148)


def test_kermany_test_is_the_official_one(kermany):
    official = kermany.table["image"].str.starts_with("test/")
    assert (kermany.table["split"] == "test").to_list() == official.to_list()
    assert kermany.targets[kermany.rows("test")].sum(axis=0).tolist() == [234, 390]


def test_kermany_val_is_whole_training_patients(kermany):
    train, val = kermany.rows("train"), kermany.rows("val")
    patients = kermany.table["patient"]
    assert not set(patients.gather(train)) & set(patients.gather(val))
    assert not np.intersect1d(kermany.groups[train], kermany.groups[val]).size
    assert kermany.table["image"].gather(val).str.starts_with("val/").sum() == 16
    assert len(val) - 16 == pytest.approx(521, abs=5)
    share = [kermany.targets[rows, 1].mean() for rows in (train, val)]
    assert share[0] == pytest.approx(share[1], abs=0.01)
    note = next(note for note in kermany.notes if "validation" in note)
    assert "16 images" in note


def test_kermany_patients_across_the_official_split_are_told(kermany):
    crossing = [int(note.split()[0]) for note in kermany.notes if "in both" in note and "test" in note]
    assert sum(crossing) == 170


def test_kermany_duplicates_are_the_known_ones(kermany, shared_data):
    with open(shared_data / "kermany_pneumonia" / "manifest.csv") as file:
        known = {row["file"]: row["duplicate_group"] for row in csv.DictReader(file) if row["duplicate_group"]}
    assert "62 images in 30 groups are identical: each group stays together when splitting" in kermany.notes
    by_group: dict[str, set[int]] = {}
    for image, group in zip(kermany.table["image"], kermany.groups, strict=True):
        if image in known:
            by_group.setdefault(known[image], set()).add(int(group))
    assert len(by_group) == 30
    assert all(len(groups) == 1 for groups in by_group.values())


def test_kermany_pixels_are_those_of_the_files(kermany, shared_data):
    for row in (0, 3000, 5855):
        file = shared_data / "kermany_pneumonia" / kermany.table["image"][row]
        np.testing.assert_array_equal(kermany.pixels[row], read_image(file, 128))
    mean, std = kermany.mean_std()
    counts = np.bincount(kermany.pixels[kermany.rows("train")].ravel(), minlength=256) / (4694 * 128**2)
    expected = counts @ np.arange(256) / 255
    assert mean == pytest.approx(expected, abs=1e-9)
    assert std == pytest.approx((counts @ (np.arange(256) / 255 - expected) ** 2) ** 0.5, abs=1e-9)


def test_kermany_of_three_classes(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path))
    folder = shared_data / "kermany_pneumonia"
    cohort = open_cohort(f"{folder}#NORMAL,BACTERIAL,VIRAL", pixel_size=32, show=False)
    assert (cohort.task, cohort.labels) == ("multiclass", ("NORMAL", "BACTERIAL", "VIRAL"))
    assert cohort.targets.sum(axis=0).tolist() == [1341 + 8 + 234, 2530 + 8 + 242, 1345 + 148]
    assert (cohort.targets.sum(axis=1) == 1).all()
    assert cohort.targets[cohort.rows("test")].sum(axis=0).tolist() == [234, 242, 148]
    assert not set(cohort.groups[cohort.rows("val")]) & set(cohort.groups[cohort.rows("train")])
    assert cohort.targets[cohort.rows("val")].sum(axis=0).min() > 100
    save(cohort, tmp_path / "prepared")
    with pytest.raises(BadInput, match="prepared cohort"):
        open_cohort(f"{tmp_path / 'prepared'}#NORMAL,VIRAL", pixel_size=32, show=False)


def test_kermany_label_fractions(kermany):
    small, large = label_fraction(kermany, 0.01, seed=1), label_fraction(kermany, 0.1, seed=1)
    assert set(small) <= set(large)
    assert len(small) == pytest.approx(47, abs=5)
    assert kermany.targets[large, 1].mean() == pytest.approx(0.743, abs=0.02)


def test_nih_counts(nih):
    assert (len(nih), nih.table["patient"].n_unique()) == (795, 226)
    counts = dict(zip(nih.labels, nih.targets.sum(axis=0).astype(int).tolist(), strict=True))
    assert counts == {
        "Infiltration": 135,
        "Effusion": 120,
        "Atelectasis": 72,
        "Cardiomegaly": 71,
        "Nodule": 33,
        "Mass": 33,
        "Emphysema": 31,
        "Pneumothorax": 31,
        "Consolidation": 30,
        "Edema": 28,
        "Pleural_Thickening": 25,
        "Fibrosis": 23,
        "Pneumonia": 9,
        "Hernia": 9,
    }
    assert (nih.targets.sum(axis=1) == 0).sum() == 401
    assert "the split folders share 25 of 226 patients: not used" in nih.notes


def test_nih_is_split_by_patient(nih):
    sizes = [len(nih.rows(split)) / 795 for split in ("train", "val", "test")]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.02)
    patients = [set(nih.table["patient"].gather(nih.rows(split))) for split in ("train", "val", "test")]
    assert sum(map(len, patients)) == 226
    row = nih.table.row(by_predicate=pl.col("image") == "valid/0_normal/00000193_019.png", named=True)
    assert sum(row[f"label:{name}"] for name in nih.labels) > 0  # the table is trusted, not the folder


def test_the_whole_official_table(shared_data):
    columns = ("Image Index", "Finding Labels", "Patient ID", "View Position")
    table = tables.read_columns(shared_data / "nih_1000_64" / "Data_Entry_2017_v2020.csv.gz", columns)
    assert set(table["View Position"]) == {"AP", "PA"}
    assert (table.height, table["Patient ID"].n_unique()) == (112_120, 30_805)
    findings = Counter(table["Finding Labels"].str.split("|").explode().to_list())
    assert set(findings) == {*chestxray14.LABELS, "No Finding"}
    assert (findings["No Finding"], findings["Infiltration"], findings["Hernia"]) == (60_361, 19_894, 227)


def test_covid_collection_patients_come_from_its_metadata(shared_data, tmp_path):
    cohort = prepare(shared_data / "covid_cxr", tmp_path / "cohort", pixel_size=64, show=False)
    assert (len(cohort), cohort.table["patient"].n_unique()) == (130, 83)
    assert cohort.labels[0] == "No_Finding"
    assert cohort.targets.sum(axis=0)[cohort.labels.index("COVID_19")] == 100
    assert {"projection", "sex", "age"} <= set(cohort.table.columns)


def test_monochrome1_is_inverted(shared_data):
    folder = shared_data / "formats" / "dicom"
    normal = read_image(next(file for file in folder.iterdir() if file.name[0].isdigit()), 256)
    inverted = read_image(folder / "Fake_MONOHR1.dcm", 256)
    assert normal.std() > 30
    assert np.abs(255 - normal.astype(int) - inverted).max() <= 1


def test_a_folder_of_dicom_is_read_with_hashed_patients(shared_data, tmp_path):
    cohort = prepare(shared_data / "formats" / "dicom", tmp_path / "cohort", pixel_size=64, show=False)
    assert (cohort.task, cohort.labels, len(cohort)) == (None, (), 2)
    assert cohort.table["patient"].n_unique() == 1
    assert "16d7f894" not in (tmp_path / "cohort" / "cohort.json").read_text() + cohort.table["patient"][0]
    assert cohort.table.row(0, named=True)["projection"] == "PA"
    assert load(tmp_path / "cohort").fingerprint == cohort.fingerprint


def test_full_size_originals_look_like_their_downsized_copies(shared_data):
    for file in sorted((shared_data / "formats" / "kermany_fullsize" / "NORMAL").iterdir()):
        small = read_image(shared_data / "kermany_pneumonia" / "train" / "NORMAL" / file.name, 64)
        assert np.corrcoef(read_image(file, 64).ravel(), small.ravel())[0, 1] > 0.99


def test_a_cut_original_is_named(shared_data, tmp_path):
    whole = next((shared_data / "formats" / "kermany_fullsize" / "NORMAL").iterdir()).read_bytes()
    (tmp_path / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenImage, match="truncated JPEG"):
        read_image(tmp_path / "cut.jpeg", 64)
