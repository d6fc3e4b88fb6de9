import numpy as np
import pytest

from cxr_data.cohorts.cohort import label_matrix
from cxr_data.errors import BadInput
from cxr_data.preparation.selection import Selection, select
from cxr_data.readers import chexpert, recognise, tables

HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(chexpert.LABELS)


def row(path, view, ap_pa, **values):
    cells = [values.get(label.replace(" ", "_"), "") for label in chexpert.LABELS]
    return ",".join([f"CheXpert-v1.0-small/{path}", "Female", "68", view, ap_pa, *cells])


TRAIN = [
    row("train/patient00001/study1/view1_frontal.jpg", "Frontal", "AP", No_Finding="1.0", Support_Devices="1.0"),
    row("train/patient00002/study1/view1_frontal.jpg", "Frontal", "PA", Edema="-1.0", Cardiomegaly="-1.0"),
    row("train/patient00002/study1/view2_lateral.jpg", "Lateral", "", Edema="-1.0", Cardiomegaly="-1.0"),
    row("train/patient00003/study2/view1_frontal.jpg", "Frontal", "AP"),
]
VALID = [row("valid/patient64541/study1/view1_frontal.jpg", "Frontal", "AP", Edema="1.0", Pneumonia="0.0")]
IMAGES = [line.split(",")[0] for line in TRAIN + VALID]


def write(folder, train=TRAIN, valid=VALID):
    folder.mkdir(exist_ok=True, parents=True)
    for name, rows in (("train.csv", train), ("valid.csv", valid)):
        (folder / name).write_text("\n".join([HEADER, *rows]) + "\n")


@pytest.mark.parametrize("inside", ["", "CheXpert-v1.0-small/"])
def test_small_layout_from_within_and_from_above(tmp_path, write_images, inside):
    below = [name.removeprefix("CheXpert-v1.0-small/") for name in IMAGES]
    write_images(tmp_path, [inside + name for name in below])
    write(tmp_path / inside)
    assert recognise(tmp_path) == "chexpert"
    listing = chexpert.read(tmp_path)
    assert listing.table["path"].to_list() == [inside + name for name in below]
    assert listing.table["patient"].to_list() == [f"patient{n}" for n in ("00001", "00002", "00002", "00003", "64541")]
    assert listing.table["split"].to_list() == ["train"] * 4 + ["test"]
    assert listing.table["projection"].to_list() == ["AP", "PA", "Lateral", "AP", "AP"]
    assert listing.table["sex"][0] == "F"
    assert listing.table["age"][0] == 68
    assert "valid.csv, labelled by radiologists, is the test part, as in published results" in listing.notes


def test_batches_of_the_full_download(tmp_path, write_images):
    write(tmp_path)
    batches = [
        name.replace("-small/train", " batch 2 (train 1)").replace("-small/valid", " batch 1") for name in IMAGES
    ]
    listing = chexpert.read(write_images(tmp_path, batches))
    assert sorted(batches) == listing.table["path"].to_list()


def test_doubt_silence_and_projections(tmp_path, write_images):
    write(tmp_path)
    listing = chexpert.read(write_images(tmp_path, IMAGES))
    chosen = Selection(
        labels=("Edema", "Cardiomegaly", "Pneumonia"), uncertain={"Edema": "ones", "Cardiomegaly": "zeros"}
    )
    selected, done = select(listing, chosen, tmp_path)
    targets = label_matrix(selected.table, selected.labels)
    assert targets[:2].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert np.isnan(targets[2]).all()  # no observation at all: nobody labelled it
    assert targets[3].tolist() == [1, 0, 0]
    assert done == {
        "projection": "frontal",
        "labels": ["Edema", "Cardiomegaly", "Pneumonia"],
        "uncertain": {"Edema": "ones", "Cardiomegaly": "zeros"},
        "unmentioned": "zeros",
    }
    both, _ = select(listing, Selection(projection="all", unmentioned="ignore"), tmp_path)
    assert both.table.height == 5
    targets = label_matrix(both.table, both.labels)
    assert np.isnan(targets[1]).all()
    assert targets[4, chexpert.LABELS.index("Pneumonia")] == 0


def test_a_test_table_leaves_valid_as_validation(tmp_path, write_images):
    write(tmp_path)
    name = "test/patient64741/study1/view1_frontal.jpg"
    (tmp_path / "test.csv").write_text(f"{HEADER}\n{row(name, 'Frontal', 'AP', Edema='0.0')}\n")
    listing = chexpert.read(write_images(tmp_path, [*IMAGES, f"CheXpert-v1.0-small/{name}"]))
    assert dict(zip(listing.table["patient"], listing.table["split"], strict=True)) == {
        "patient00001": "train",
        "patient00002": "train",
        "patient00003": "train",
        "patient64541": "val",
        "patient64741": "test",
    }


def test_a_part_without_images_is_no_official_split(tmp_path, write_images):
    write(tmp_path)
    listing = chexpert.read(write_images(tmp_path, IMAGES[:4]))
    assert listing.table["split"].null_count() == 4
    assert "1 images of train.csv are not there and were left out" in listing.notes


def test_bad_tables(tmp_path, write_images):
    write_images(tmp_path, IMAGES)
    with pytest.raises(BadInput, match=r"train\.csv with the columns"):
        chexpert.read(tmp_path)
    write(tmp_path, train=[row("train/patient00001/study1/view1_frontal.jpg", "Frontal", "AP", Edema="maybe")])
    with pytest.raises(BadInput, match=r"in the column Edema, found 'maybe'"):
        chexpert.read(tmp_path)


@pytest.mark.slow
def test_the_official_table(official_tables, tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_bytes(official_tables("chexpert_train.csv.gz"))
    paths = [line.split(",")[0] for line in (tmp_path / "train.csv").read_text().splitlines()[1:]]
    monkeypatch.setattr(tables, "image_files", lambda _: paths)
    listing = chexpert.read(tmp_path)
    assert (listing.table.height, listing.table["patient"].n_unique()) == (223_414, 64_540)
    frontal, _ = select(listing, Selection(), tmp_path)
    assert frontal.table.height == 191_027
