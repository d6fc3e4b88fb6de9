import numpy as np
import polars as pl
import pytest

from cxr_data.cohort import label_matrix
from cxr_data.errors import BadInput
from cxr_data.readers import manifest, recognise

IMAGES = ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]


@pytest.fixture
def images(tmp_path, write_images):
    return write_images(tmp_path, IMAGES)


def test_labels_side_by_side(images):
    (images / "manifest.csv").write_text(
        "file,patient,split,age,scanner,label:Edema,label:Mass\n"
        "b/3.png,p2,TEST,061Y,x,,1\na/1.png,p1,train,50,x,1.0,0\n./a/2.png,p1,train,50,y,NaN,-1\ngone.png,p9,val,1,z,0,0\n"
    )
    assert recognise(images) == "manifest"
    listing = manifest.read(images)
    assert (listing.task, listing.labels) == ("multilabel", ("Edema", "Mass"))
    assert listing.table["path"].to_list() == ["a/1.png", "a/2.png", "b/3.png"]
    assert listing.table["patient"].to_list() == ["p1", "p1", "p2"]
    assert listing.table["split"].to_list() == ["train", "train", "test"]
    assert listing.table["age"].to_list() == [50, 50, 61]
    np.testing.assert_array_equal(label_matrix(listing.table, listing.labels), [[1, 0], [np.nan, -1], [np.nan, 1]])
    assert listing.notes == (
        "1 images of manifest.csv are not there and were left out",
        "1 images are not in manifest.csv and were left out",
        "columns that are no labels were not used: scanner",
    )


def test_one_class_column(images):
    (images / "labels.csv").write_text("file,class\na/1.png,TB\na/2.png,Normal\nb/3.png,TB\nb/4.png,\n")
    assert recognise(images) == "manifest"
    listing = manifest.read(images)
    assert (listing.task, listing.labels) == ("multiclass", ("Normal", "TB"))
    np.testing.assert_array_equal(
        label_matrix(listing.table, listing.labels), [[0, 1], [1, 0], [0, 1], [np.nan, np.nan]]
    )
    assert listing.table["patient"].to_list() == IMAGES
    assert listing.table["split"].null_count() == 4


def test_parquet_of_any_name_and_plain_columns_when_it_is_forced(images):
    table = {"file": IMAGES, "Edema": [1.0, 0.0, float("nan"), None], "Mass": [True, False, False, True]}
    pl.DataFrame({**table, "year": [2001, 2002, 2003, 2004], "zero": [0] * 4}).write_parquet(images / "mine.parquet")
    assert recognise(images) == "folder"
    listing = manifest.read(images)
    assert listing.labels == ("Edema", "Mass")
    expected = [[1, 1], [0, 0], [np.nan, 0], [np.nan, 1]]
    np.testing.assert_array_equal(label_matrix(listing.table, listing.labels), expected)
    assert listing.notes[-1] == "columns that are no labels were not used: year, zero"


def test_a_manifest_without_labels_is_for_pretraining(images):
    (images / "files.csv").write_text("file\na/1.png\n")
    listing = manifest.read(images)
    assert (listing.task, listing.labels, listing.table.height) == (None, (), 1)


def test_manifests_of_patients_leave_class_folders_to_the_folder_reader(images):
    (images / "manifest.csv").write_text("file,patient,smoker\na/1.png,p1,1\n")
    assert recognise(images) == "folder"
    (images / "manifest.csv").rename(images / "labels.csv")
    assert recognise(images) == "manifest"


@pytest.mark.parametrize("files", ["file", "path", "image", "Image", "filename"])
@pytest.mark.parametrize("label", ["a", "label:a"])
@pytest.mark.parametrize("name", ["labels.csv", "manifest.csv"])
def test_any_usual_name_of_the_column_of_files_and_columns_of_zeros_and_ones(
    tmp_path, write_images, files, label, name
):
    write_images(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / name).write_text(f"{files},{label}\n1.png,1\n2.png,0\n3.png,\n")
    assert recognise(tmp_path) == "manifest"
    listing = manifest.read(tmp_path)
    assert (listing.task, listing.labels) == ("multilabel", ("a",))
    np.testing.assert_array_equal(label_matrix(listing.table, listing.labels), [[1], [0], [np.nan]])


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("labels.csv", b"file;a\n1.png;1\n", "the header 'file;a'"),
        ("labels.csv", "file,a\n1.png,1\n".encode("utf-16"), "bytes that are no UTF-8 text"),
        ("labels.csv", b"", "an empty file"),
        ("labels.csv", bytes(range(256)), "bytes that are no text"),
        ("labels.csv", b"id,a\n1,1\n", "the header 'id,a'"),
        ("labels.csv", b"file,comment\n1.png,good\n", "the columns file, comment"),
        ("labels.csv", b"file,a\n", "none"),
        ("labels.csv", b"file,label:a,label:a\n1.png,1,0\n", "label:a twice"),
        ("labels.csv", b"file,label:\n1.png,1\n", "label: without one"),
        ("labels.parquet", b"PAR1", "a file that is no Parquet table"),
    ],
)
def test_labels_beside_flat_images_are_never_passed_over(tmp_path, write_images, name, data, found):
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / name).write_bytes(data)
    assert recognise(tmp_path) == "manifest"
    with pytest.raises(BadInput) as refused:
        manifest.read(tmp_path)
    assert (refused.value.found, refused.value.where) == (found, tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\n../../etc/passwd,x\n", "paths inside the folder"),
        ("file,class\n/etc/passwd,x\n", "paths inside the folder"),
        ("file,class\na/1.png,x\na//1.png,y\n", "each file once, found a/1.png twice"),
        ("file,class\nz.png,x\n", "none of them"),
        ("file,class\na/1.png,x\n", "at least two classes, found x"),
        ("file,label:E\na/1.png,2\n", "in the column label:E, found '2'"),
        ("file,split,label:E\na/1.png,trian,1\n", "found 'trian'"),
        ("file,split,label:E\na/1.png,train,1\na/2.png,,1\n", "found a blank cell"),
        ("file,class\n", "a table with rows"),
    ],
)
def test_bad_manifests(images, text, message):
    (images / "manifest.csv").write_text(text)
    with pytest.raises(BadInput, match=message):
        manifest.read(images)


def test_no_table_or_two(images):
    with pytest.raises(BadInput, match="a column file, found none"):
        manifest.read(images)
    for name in ("x.csv", "y.csv"):
        (images / name).write_text("file\na/1.png\n")
    with pytest.raises(BadInput, match=r"found x\.csv, y\.csv"):
        manifest.read(images)
