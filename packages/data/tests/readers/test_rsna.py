import pytest

from cxr_data.errors import BadInput
from cxr_data.readers import recognise, rsna, tables

HEADER = "patientId,x,y,width,height,Target"
ROWS = ["a1,,,,,0", "b2,264.0,152.0,213.0,379.0,1", "b2,562.0,152.0,256.0,453.0,1", "c3,1,2,3,4,1", "gone,,,,,0"]


@pytest.fixture
def release(tmp_path, write_images):
    (tmp_path / "stage_2_train_labels.csv").write_text("\n".join([HEADER, *ROWS]))
    return write_images(tmp_path, [f"stage_2_train_images/{name}.png" for name in ("a1", "b2", "c3", "extra")])


def test_boxes_become_images(release):
    assert recognise(release) == "rsna"
    listing = rsna.read(release)
    assert (listing.task, listing.labels) == ("multiclass", ("No Lung Opacity", "Lung Opacity"))
    assert listing.table["patient"].to_list() == ["a1", "b2", "c3"]
    assert listing.table["label:Lung Opacity"].to_list() == [0, 1, 1]
    assert listing.table["label:No Lung Opacity"].to_list() == [1, 0, 0]
    assert listing.table["boxes"].to_list() == [0, 2, 1]
    assert listing.table["split"].null_count() == 3
    assert any("ChestX-ray14" in note for note in listing.notes)
    assert "1 images of stage_2_train_labels.csv are not there and were left out" in listing.notes


def test_details(release):
    (release / "stage_2_detailed_class_info.csv").write_text(
        "patientId,class\na1,No Lung Opacity / Not Normal\nb2,Lung Opacity\nb2,Lung Opacity\nc3,Lung Opacity\n"
    )
    assert rsna.read(release).table["detail"].to_list() == [
        "No Lung Opacity / Not Normal",
        "Lung Opacity",
        "Lung Opacity",
    ]


def test_an_image_with_two_targets_is_refused(release):
    (release / "stage_2_train_labels.csv").write_text("\n".join([HEADER, *ROWS, "a1,1,2,3,4,1"]))
    with pytest.raises(BadInput, match="several or none for a1"):
        rsna.read(release)


@pytest.mark.slow
def test_the_official_table(official_tables, tmp_path, monkeypatch):
    table = tmp_path / "stage_2_train_labels.csv"
    table.write_bytes(official_tables("kaggle_stage_2_train_labels.csv.zip"))
    names = sorted({line.split(",")[0] for line in table.read_text().splitlines()[1:]})
    monkeypatch.setattr(tables, "image_files", lambda _: [f"{name}.dcm" for name in names])
    listing = rsna.read(tmp_path)
    assert listing.table.height == 26_684
    assert listing.table["label:Lung Opacity"].sum() == 6_012
