import gzip

import numpy as np
import pytest

from cxr_data.cohorts.cohort import label_matrix
from cxr_data.errors import BadInput
from cxr_data.readers import chestxray14, recognise

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = [
    "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,AP,2894,2729,0.143,0.143",
    "00000002_000.png,No Finding,0,2,414Y,F,PA,2500,2048,0.171,0.171",
    "00000003_000.png,Pleural_Thickening,0,3,006M,F,PA,2500,2048,0.171,0.171",
    "00000004_000.png,Hernia,0,4,80,F,PA,2500,2048,0.171,0.171",
]
IMAGES = ["images_001/images/00000001_000.png", "images_001/images/00000001_001.png"]
IMAGES += ["images_002/images/00000002_000.png", "images_002/images/00000003_000.png"]


@pytest.fixture
def release(tmp_path, write_images):
    write_images(tmp_path, IMAGES)
    # The first edition ends every line with a comma more.
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([HEADER + ",", *(row + "," for row in ROWS)]) + "\n")
    return tmp_path


def test_the_official_release(release, write_images):
    (release / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000003_000.png\n")
    (release / "test_list.txt").write_text("00000002_000.png\n00000004_000.png\n")
    write_images(release, ["images_002/images/99999999_000.png"])
    assert recognise(release) == "chestxray14"
    listing = chestxray14.read(release)
    assert listing.task == "multilabel"
    assert len(listing.labels) == 14
    table = listing.table
    assert table["path"].to_list() == IMAGES
    assert table["split"].to_list() == ["train", "train", "test", "train"]
    assert table["patient"].to_list() == ["1", "1", "2", "3"]
    assert table["age"].to_list() == [57, 58, None, 0.5]
    assert table["sex"].to_list() == ["M", "M", "F", "F"]
    assert table["projection"].to_list() == ["PA", "AP", "PA", "PA"]
    targets = label_matrix(table, listing.labels)
    positive = [[listing.labels[i] for i in np.flatnonzero(row)] for row in targets]
    assert positive == [["Cardiomegaly"], ["Cardiomegaly", "Emphysema"], [], ["Pleural_Thickening"]]
    assert "1 images of Data_Entry_2017.csv are not there and were left out" in listing.notes
    assert "1 images are not in Data_Entry_2017.csv and were left out" in listing.notes


def test_without_the_lists_there_is_no_split(release):
    listing = chestxray14.read(release)
    assert listing.table["split"].null_count() == 4
    assert any("not the official split" in note for note in listing.notes)


def test_lists_that_leave_nothing_to_test_are_not_used(release):
    (release / "train_val_list.txt").write_text("\n".join(row.split(",")[0] for row in ROWS))
    (release / "test_list.txt").write_text("00000009_000.png\n")
    listing = chestxray14.read(release)
    assert listing.table["split"].null_count() == 4
    assert any("without an image here" in note for note in listing.notes)


def test_images_in_neither_list_are_left_out(release):
    (release / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (release / "test_list.txt").write_text("00000002_000.png\n")
    listing = chestxray14.read(release)
    assert listing.table.height == 3
    assert "1 images are in neither official list and were left out" in listing.notes


def test_a_gzipped_table_and_flat_images(tmp_path, write_images):
    write_images(tmp_path, [row.split(",")[0] for row in ROWS])
    (tmp_path / "Data_Entry_2017_v2020.csv.gz").write_bytes(gzip.compress("\n".join([HEADER, *ROWS]).encode()))
    assert recognise(tmp_path) == "chestxray14"
    assert chestxray14.read(tmp_path).table.height == 5


def test_a_table_of_paths_wins_and_its_leaking_split_folders_are_not_used(release, write_images):
    write_images(release, ["train/00000001_000.png", "valid/00000001_001.png", "test/00000002_000.png"])
    lines = [f"file,split,{HEADER}"]
    for folder, row in zip(("train", "valid", "test"), ROWS, strict=False):
        lines.append(f"{folder}/{row.split(',')[0]},{folder},{row}")
    (release / "labels.csv").write_text("\n".join(lines))
    listing = chestxray14.read(release)
    assert listing.table["path"].to_list() == [
        "test/00000002_000.png",
        "train/00000001_000.png",
        "valid/00000001_001.png",
    ]
    assert listing.table["split"].null_count() == 3
    assert "the split folders share 1 of 2 patients: not used" in listing.notes


def test_images_without_an_entry_are_unknown_not_healthy(tmp_path, write_images):
    write_images(tmp_path, ["00000001_000.png", "00000002_000.png"])
    rows = [ROWS[2].replace("00000002_000", "00000001_000"), "00000002_000.png,,0,2,60,F,PA,1,1,1,1"]
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([HEADER, *rows]))
    listing = chestxray14.read(tmp_path)
    targets = label_matrix(listing.table, listing.labels)
    assert (targets[0] == 0).all()
    assert np.isnan(targets[1]).all()


def test_bad_tables(release, tmp_path):
    table = release / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("Pleural_Thickening", "Hernja"))
    with pytest.raises(BadInput, match="Hernja"):
        chestxray14.read(release)
    (release / "labels.csv").write_text(f"file,{HEADER}\n../../x.png,{ROWS[0]}\n")
    with pytest.raises(BadInput, match="paths inside the folder"):
        chestxray14.read(release)
    (release / "labels.csv").write_text(f"file,{HEADER}\nelsewhere/x.png,{ROWS[0]}\n")
    with pytest.raises(BadInput, match="none of them"):
        chestxray14.read(release)
    (tmp_path / "bare").mkdir()
    with pytest.raises(BadInput, match="a table with the columns"):
        chestxray14.read(tmp_path / "bare")
