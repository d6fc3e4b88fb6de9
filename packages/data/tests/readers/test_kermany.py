import pytest

from cxr_data.errors import BadInput
from cxr_data.preparation.selection import Selection, select
from cxr_data.readers import kermany, recognise

KAGGLE = [
    "train/NORMAL/IM-0115-0001.jpeg",
    "train/NORMAL/NORMAL2-IM-1427-0001.jpeg",
    "train/NORMAL/IM-0115-0001-0002.jpeg",
    "train/PNEUMONIA/person7_bacteria_22.jpeg",
    "train/PNEUMONIA/person7_virus_14.jpeg",
    "train/PNEUMONIA/person447_virus_921_1.jpeg",
    "val/NORMAL/NORMAL2-IM-1440-0001.jpeg",
    "val/PNEUMONIA/person1946_bacteria_4874.jpeg",
    "test/NORMAL/IM-0001-0001.jpeg",
    "test/PNEUMONIA/person1_virus_6.jpeg",
]


@pytest.mark.parametrize("above", ["", "chest_xray/"])
def test_kaggle_edition(tmp_path, write_images, above):
    write_images(tmp_path, [above + name for name in KAGGLE])
    assert recognise(tmp_path) == "kermany"
    listing = kermany.read(tmp_path)
    assert (listing.labels, listing.task, listing.notes) == (("NORMAL", "PNEUMONIA"), "multiclass", ())
    rows = {row["path"].removeprefix(above): row for row in listing.table.iter_rows(named=True)}
    assert sorted(rows) == sorted(KAGGLE)
    assert rows[KAGGLE[3]]["patient"] == rows[KAGGLE[4]]["patient"] == "person7"
    assert [rows[KAGGLE[i]]["subtype"] for i in (0, 3, 4, 5)] == ["normal", "bacteria", "virus", "virus"]
    assert rows[KAGGLE[0]]["patient"] == rows[KAGGLE[2]]["patient"] == "IM-0115"
    assert rows[KAGGLE[1]]["patient"] == "NORMAL2-IM-1427"
    assert rows[KAGGLE[5]]["patient"] == "person447"
    assert rows[KAGGLE[6]]["split"] == "val"
    assert (rows[KAGGLE[9]]["label:NORMAL"], rows[KAGGLE[9]]["label:PNEUMONIA"]) == (0.0, 1.0)


def test_three_classes_can_be_asked_for(tmp_path, write_images):
    write_images(tmp_path, [*KAGGLE, "train/PNEUMONIA/mine.jpeg"])
    listing, done = select(kermany.read(tmp_path), Selection(("NORMAL", "BACTERIAL", "VIRAL")), tmp_path)
    assert (listing.labels, listing.task) == (("NORMAL", "BACTERIAL", "VIRAL"), "multiclass")
    assert done == {"labels": ["NORMAL", "BACTERIAL", "VIRAL"]}
    assert "1 images of other classes were left out" in listing.notes
    rows = {row["path"]: row for row in listing.table.iter_rows(named=True)}
    assert sorted(rows) == sorted(KAGGLE)
    hot = {name: [rows[name][f"label:{label}"] for label in listing.labels] for name in rows}
    assert hot[KAGGLE[0]] == [1, 0, 0]
    assert hot[KAGGLE[3]] == hot[KAGGLE[7]] == [0, 1, 0]
    assert hot[KAGGLE[4]] == hot[KAGGLE[9]] == [0, 0, 1]
    with pytest.raises(BadInput, match="exclude each other"):
        select(kermany.read(tmp_path), Selection(("PNEUMONIA", "VIRAL")), tmp_path)


def test_mendeley_edition_without_val(tmp_path, write_images):
    names = [
        "train/NORMAL/NORMAL-1003233-0001.jpeg",
        "train/PNEUMONIA/BACTERIA-1008087-0001.jpeg",
        "train/PNEUMONIA/BACTERIA-1008087-0002.jpeg",
        "train/PNEUMONIA/VIRUS-1020321-0001.jpeg",
        "test/NORMAL/NORMAL-11419-0001.jpeg",
        "test/PNEUMONIA/VIRUS-14001-0001.jpeg",
    ]
    assert recognise(write_images(tmp_path, names)) == "kermany"
    table = kermany.read(tmp_path).table
    assert table.filter(subtype="bacteria")["patient"].to_list() == ["person1008087"] * 2
    assert table.filter(split="train", subtype="normal")["patient"].to_list() == ["NORMAL-1003233"]


def test_unknown_names_are_patients_of_their_own(tmp_path, write_images):
    kaggle = write_images(tmp_path, [*KAGGLE, "train/PNEUMONIA/mine.jpeg", "train/NORMAL/mine.jpeg"])
    listing = kermany.read(kaggle)
    assert listing.notes == ("2 file names do not say the patient: each counts as one of its own",)
    mine = listing.table.filter(listing.table["path"].str.contains("mine"))
    assert mine["patient"].n_unique() == 2


def test_other_folders_with_the_same_classes_are_not_taken(tmp_path, write_images):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("NORMAL", "PNEUMONIA") for i in range(3)]
    assert recognise(write_images(tmp_path, names)) == "folder"
    (tmp_path / "test" / "NORMAL" / "0.png").unlink()
    with pytest.raises(BadInput, match="found nothing there"):
        kermany.read(tmp_path / "test")
