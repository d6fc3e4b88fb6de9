import pytest

from cxr_data.errors import BadInput
from cxr_data.readers import covidx, recognise

TRAIN = "3 SARS-10.jpg pneumonia cohen\nANON1 a b.png COVID-19 actmed\nc7 c7.png normal rsna\n"
TEST = "19 ARDS-1.jpg pneumonia cohen\n94 COVID(1).png COVID-19 sirm\n"


@pytest.fixture
def release(tmp_path, write_images):
    (tmp_path / "train_split.txt").write_text(TRAIN)
    (tmp_path / "test_split.txt").write_text(TEST)
    (tmp_path / "train_notes.txt").write_text("hello\n")
    names = ["train/SARS-10.jpg", "train/a b.png", "train/c7.png", "test/ARDS-1.jpg", "test/COVID(1).png"]
    return write_images(tmp_path, names)


def test_lists(release):
    assert recognise(release) == "covidx"
    listing = covidx.read(release)
    assert (listing.task, listing.labels) == ("multiclass", ("normal", "COVID-19", "pneumonia"))
    rows = {row["path"]: row for row in listing.table.iter_rows(named=True)}
    assert {path: row["split"] for path, row in rows.items()} == {path: path.split("/")[0] for path in rows}
    spaced = rows["train/a b.png"]
    assert (spaced["patient"], spaced["origin"], spaced["label:COVID-19"]) == ("ANON1", "actmed", 1)
    assert rows["test/ARDS-1.jpg"]["label:pneumonia"] == 1


def test_binary_lists_with_val_and_flat_images(tmp_path, write_images):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text(
            f"{split}1 {split}.png positive rsna\n{split}2 {split}2.png negative rsna\n"
        )
    write_images(tmp_path, [f"all/{split}{n}.png" for split in ("train", "val", "test") for n in ("", "2")])
    listing = covidx.read(tmp_path)
    assert listing.labels == ("negative", "positive")
    assert sorted(listing.table["split"]) == ["test", "test", "train", "train", "val", "val"]


def test_bad_lists(release):
    (release / "train_COVIDx9B.txt").write_text(TRAIN)
    with pytest.raises(BadInput, match="one train list, found train_COVIDx9B"):
        covidx.read(release)
    (release / "train_COVIDx9B.txt").unlink()
    (release / "train_split.txt").write_text(TRAIN + "5 x.png fracture rsna\n")
    with pytest.raises(BadInput, match=r"(?s)'5 x.png fracture rsna'.*line 4"):
        covidx.read(release)
