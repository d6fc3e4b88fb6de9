import polars as pl
import pytest

from cxr_data.errors import BadInput
from cxr_data.readers import folder, manifest
from cxr_data.readers.naming import as_on_disk, cells

DISK = ["a/1.png", "b/1.png", "b/2.png", "b/3.jpg", "b/3.png", "b/Müller.png", "c/1.2.840.5"]


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ("2.png", "b/2.png"),  # without its folder
        ("2", "b/2.png"),  # nor its ending
        ("Mu\u0308ller", "b/Müller.png"),
        ("1.2.840.5", "c/1.2.840.5"),
        ("b/Mu\u0308ller.png", "b/Müller.png"),
        ("1.png", None),  # of two images
        ("3", None),
        ("b/1", None),  # a folder is said: it is meant
        ("c/2.png", None),
        ("1.2.840", None),  # the last part of an identifier is no ending
        ("b/2.png", None),  # as it is
        ("9.png", None),
    ],
)
def test_a_name_is_understood_where_one_image_has_it(named, place):
    assert as_on_disk([named], DISK) == ({} if place is None else {named: place})


def test_a_table_of_names_alone_beside_a_folder_of_images(tmp_path, write_images):
    write_images(tmp_path, [f"bilder/{number}.png" for number in range(4)])
    table = tmp_path / "labels.csv"
    table.write_text("file,patient,Erguss\n" + "".join(f"{n},{n},{n % 2}\n" for n in range(4)))
    listing = manifest.read(tmp_path)
    assert listing.table["path"].to_list() == [f"bilder/{number}.png" for number in range(4)]
    assert "labels.csv names 4 images without their folder: 0 is bilder/0.png" in [*listing.notes]
    table.write_text("file,Erguss\n1.png,1\nbilder/1.png,0\n")
    with pytest.raises(BadInput, match=r"bilder/1.png twice(.|\n)*one row per image"):
        manifest.read(tmp_path)
    table.write_text("file,Erguss\nimages/1.png,1\nimages/2.png,0\n")
    with pytest.raises(BadInput, match=r"none of them(.|\n)*write them relative to the folder, as bilder/0.png"):
        manifest.read(tmp_path)


def test_what_the_cells_hold_instead_of_labels(tmp_path, write_images):
    assert cells(pl.DataFrame({"a": ["1", None], "b": ["ja", "1"], "c": ["0.7", "0.2"]})) == "a, b (ja), c (0.7, 0.2)"
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "labels.csv").write_text("file,Erguss\n1.png,ja\n2.png,nein\n")
    with pytest.raises(BadInput, match=r"Erguss \(ja, nein\)(.|\n)*write 1 where a finding is present"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("column", ["Pat-ID", "PatNr", "Fallnummer", "fall_id", "Patientennummer"])
def test_columns_that_may_be_patients(tmp_path, write_images, column):
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "labels.csv").write_text(f"file,{column},a\n1.png,7,1\n2.png,7,0\n")
    with pytest.raises(BadInput, match=f"the column {column}, which may be one"):
        manifest.read(tmp_path)


def test_a_spreadsheet_of_labels_is_named(tmp_path, write_images):
    write_images(tmp_path, ["images/1.png", "images/2.png"])
    (tmp_path / "Befunde.xlsx").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"if Befunde.xlsx holds the labels, save it as labels.csv"):
        folder.read(tmp_path)
