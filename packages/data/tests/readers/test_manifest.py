import unicodedata

import numpy as np
import polars as pl
import pytest

from cxr_data.cohorts.cohort import label_matrix
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
        "1 images of manifest.csv are not there and were left out (gone.png)",
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
        ("labels.csv", b"", "an empty file"),
        ("labels.csv", bytes(range(256)), "bytes that are no text"),
        ("labels.csv", b"id,a\n1,1\n", "the columns id, a"),
        ("labels.csv", b"file,comment\n1.png,good\n", "the columns comment (good)"),
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


def labels_of(folder, text: str | bytes, name: str = "labels.csv"):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(data)
    listing = manifest.read(folder)
    return listing, label_matrix(listing.table, listing.labels).tolist()


@pytest.mark.parametrize(
    "data",
    [
        b"file,a\na/1.png,1\na/2.png,0\n\n\n",
        b"\n\nfile,a\na/1.png,1\n\na/2.png,0\n",
        b"file,a\na/1.png,1\na/2.png,0\n,\n,\n , \n",
        b"file;a\na/1.png;1,0\na/2.png;0,0\n",
        b"sep=;\r\nfile;a\r\na/1.png;1\r\na/2.png;0\r\n",
        b"file\ta\na/1.png\t1\na/2.png\t0\n",
        b"file,a\ra/1.png,1\ra/2.png,0\r",
        b"\xef\xbb\xbffile,a\na/1.png,1\na/2.png,0\n",
        "file,a\na/1.png,1\na/2.png,0\n".encode("utf-16"),
        "file,a,Größe\na/1.png,1,ä\na/2.png,0,ö\n".encode("cp1252"),
        b'file,a\n"a/1.png", True \na/2.png,FALSE\n',
        b"file,a\na/1.png,yes\na/2.png,no\n",
        b"file,a\na/1.png,1.0\na/2.png,0.0\n",
    ],
)
def test_tables_as_programs_write_them(images, data):
    listing, labels = labels_of(images, data)
    assert listing.labels == ("a",)
    assert labels == [[1], [0]]


@pytest.mark.parametrize(
    "word",
    ["", " ", "NA", "N/A", "n/a", "null", "NULL", "-", "NaN", "?", "#N/A", "<NA>", "Unknown", "missing", "#REF!"],
)
@pytest.mark.parametrize("column", ["label:a", "class"])
def test_null_words_are_unknown(images, word, column):
    known = ("1", "0") if column != "class" else ("ILL", "NORMAL")
    listing, labels = labels_of(
        images, f"file,{column},x\na/1.png,{known[0]},u\na/2.png,{known[1]},u\nb/3.png,{word},u\n"
    )
    assert len(listing.labels) == (1 if column != "class" else 2)
    assert np.isnan(labels[2]).all()
    assert not np.isnan(labels[:2]).any()


def test_spellings_of_a_class_are_merged_and_named(images):
    text = "file,class\na/1.png,NORMAL\na/2.png,Normal\nb/3.png,Pneumonia\nb/4.png, pneumonia\n"
    listing, labels = labels_of(images, text)
    assert listing.labels == ("NORMAL", "Pneumonia")
    assert labels == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert [note for note in listing.notes if "merged" in note] == [
        "classes that differ only in spelling were merged: NORMAL, Normal",
        "classes that differ only in spelling were merged: Pneumonia, pneumonia",
    ]


def test_classes_that_are_numbers_with_and_without_decimals_are_one(images):
    listing, labels = labels_of(images, "file,class\na/1.png,1\na/2.png,1.0\nb/3.png,2\nb/4.png,2.00\n")
    assert listing.labels == ("1", "2")
    assert labels == [[1, 0], [1, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize(
    "spellings",
    [("7", "7.0"), ("0007", "7"), ("p7", "P7"), ("0", "0.00"), ("p  7", "P\u00a07"), ("p7", "p\u200b7"), ("p7", "p７")],
)
def test_a_patient_spelled_in_several_ways_is_one(images, spellings):
    text = "file,patient,class\na/1.png,{},A\na/2.png,{},B\nb/3.png,17,A\nb/4.png,70,B\n".format(*spellings)
    listing, _ = labels_of(images, text)
    assert listing.table["patient"].to_list() == [spellings[0], spellings[0], "17", "70"]
    said = f"1 patients are spelled in several ways, such as {spellings[0]} and {spellings[1]}: each counts as one"
    assert said in listing.notes


def test_numbers_that_a_spreadsheet_has_cut_are_said(images):
    text = "file,patient,class\na/1.png,1.2E+05,A\na/2.png,120000,B\nb/3.png,3e12,A\nb/4.png,12e7,B\n"
    listing, _ = labels_of(images, text)
    assert listing.table["patient"].to_list() == ["1.2E+05", "1.2E+05", "3e12", "12e7"]
    assert any(note.startswith("1 patients have numbers such as 1.2E+05, as a spreadsheet") for note in listing.notes)


def test_a_blank_column_of_patients_hides_no_other(images):
    text = "file,patient,subject_id,class\na/1.png,,1,A\na/2.png,,1,B\nb/3.png,,2,A\nb/4.png,-,2,B\n"
    listing, _ = labels_of(images, text)
    assert listing.table["patient"].to_list() == ["1", "1", "2", "2"]
    listing, _ = labels_of(images, text.replace("subject_id", "age"))
    assert "labels.csv has no column patient: each image counts as one patient of its own" in listing.notes


def test_images_without_a_patient_among_others_are_counted(images):
    listing, _ = labels_of(images, "file,patient,class\na/1.png,1,A\na/2.png,,B\nb/3.png,NA,A\nb/4.png,1,B\n")
    assert listing.table["patient"].to_list() == ["1", "a/2.png", "b/3.png", "1"]
    assert "2 images have no patient in labels.csv: each counts as one patient of its own" in listing.notes


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_are_composed_or_not(tmp_path, write_images, on_disk, in_table):
    names = ["Thorax_müller.png", "Thorax_é.png"]
    write_images(tmp_path, [unicodedata.normalize(on_disk, name) for name in names])
    first, second = (unicodedata.normalize(in_table, name) for name in names)
    listing, labels = labels_of(tmp_path, f"file,a\n{first},1\n{second},0\n")
    assert listing.table["path"].to_list() == sorted(unicodedata.normalize(on_disk, name) for name in names)
    assert sorted(labels) == [[0], [1]]


@pytest.mark.parametrize(
    "cells",
    [
        ("Effusion|Mass", "No Finding", "mass", ""),
        ("Effusion; Mass", "normal", "Mass;", "N/A"),
        ('"Effusion,Mass"', "normal", "Mass", "-"),
    ],
)
@pytest.mark.parametrize("column", ["class", "Finding Labels", "Diagnosis"])
def test_several_findings_in_a_class_column(images, cells, column):
    more = "a/5.png,Effusion\n" if "," in cells[0] else ""
    if more:
        (images / "a/5.png").write_bytes((images / "a/1.png").read_bytes())
    rows = "".join(f"{file},{cell}\n" for file, cell in zip(IMAGES, cells, strict=True))
    listing, labels = labels_of(images, f"file,{column}\n{rows}{more}")
    assert (listing.task, listing.labels[0]) == ("multilabel", "Effusion")
    assert len(listing.labels) == 2
    known = [row for path, row in zip(listing.table["path"], labels, strict=True) if path != "a/5.png"]
    np.testing.assert_array_equal(known, [[1, 1], [0, 0], [0, 1], [np.nan, np.nan]])
    assert any("may occur together" in note for note in listing.notes)


def test_commas_within_a_class_name_separate_nothing(images):
    text = 'file,class\na/1.png,"Pneumonia, viral"\na/2.png,Normal\nb/3.png,"Pneumonia, viral"\n'
    assert labels_of(images, text)[0].labels == ("Normal", "Pneumonia, viral")


def test_healthy_and_ill_at_once_is_refused(images):
    with pytest.raises(BadInput, match=r"found Mass\|No Finding"):
        labels_of(images, "file,class\na/1.png,Mass|No Finding\na/2.png,Mass\n")


@pytest.mark.parametrize(
    "name", ["patient", "Patient", "patient_id", "PatientID", "Patient ID", "subject", "subject_id", "case", "case_id"]
)
def test_usual_names_of_the_patient(images, name):
    listing, _ = labels_of(images, f"file,{name},a\na/1.png,p1,1\na/2.png,p1,0\nb/3.png,p2,1\n")
    assert listing.table["patient"].to_list() == ["p1", "p1", "p2"]


def test_usual_names_of_split_projection_sex_and_age(images):
    text = "file,Subset,ViewPosition,Gender,Patient Age,a\na/1.png,train,PA,F,50,1\na/2.png,test,AP,M,60Y,0\n"
    table = labels_of(images, text)[0].table
    assert table.select("split", "projection", "sex", "age").rows() == [
        ("train", "PA", "F", 50.0),
        ("test", "AP", "M", 60.0),
    ]


@pytest.mark.parametrize("name", ["patient_code", "my_patient", "SubjectNumber", "hospital_mrn"])
def test_a_column_that_may_hold_patients_stops_a_split_by_image(images, name):
    with pytest.raises(BadInput, match=name) as refused:
        labels_of(images, f"file,{name},a\na/1.png,p1,1\na/2.png,p1,0\n")
    assert "rename it to patient" in str(refused.value.do)


def test_the_age_of_a_patient_is_no_patient(images):
    listing, _ = labels_of(images, "file,patient_weight,a\na/1.png,70,1\na/2.png,60,0\n")
    assert listing.table["patient"].to_list() == ["a/1.png", "a/2.png"]


def test_a_case_of_case_and_control_is_a_label(images):
    listing, labels = labels_of(images, "file,case\na/1.png,1\na/2.png,0\n")
    assert (listing.labels, labels) == (("case",), [[1], [0]])


def test_a_table_of_any_name_beside_flat_images_is_read(tmp_path, write_images):
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "train.csv").write_text("image,Label\n1.png,ill\n2.png,normal\n")
    assert recognise(tmp_path) == "manifest"
    assert manifest.read(tmp_path).labels == ("normal", "ill")


@pytest.mark.parametrize("name", ["train.csv", "labels.csv"])
def test_a_table_beside_one_folder_of_images_is_read(tmp_path, write_images, name):
    """As spreadsheets of Windows write it; one folder cannot hold classes."""
    write_images(tmp_path, [f"images/{i}.png" for i in range(4)])
    rows = [f"images\\{i}.png;{i % 2};P{i // 2}" for i in range(4)]
    (tmp_path / name).write_text("\n".join(["Image;Pneumonia;Patient ID", *rows]))
    assert recognise(tmp_path) == "manifest"
    listing = manifest.read(tmp_path)
    assert (listing.labels, listing.table["patient"].to_list()) == (("Pneumonia",), ["P0", "P0", "P1", "P1"])


def test_one_table_for_each_split(tmp_path, write_images):
    write_images(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "train.csv").write_text("image,a,b\n1.png,1,\n2.png,0,1\n")
    (tmp_path / "valid.csv").write_text("image,a\n3.png,1\n")
    assert recognise(tmp_path) == "manifest"
    listing = manifest.read(tmp_path)
    assert listing.table["split"].to_list() == ["train", "train", "val"]
    np.testing.assert_array_equal(label_matrix(listing.table, listing.labels), [[1, np.nan], [0, 1], [1, np.nan]])


@pytest.mark.parametrize("name", ["fold", "is_test", "Gender", "PatientSex", "Projection", "train"])
def test_what_an_image_is_used_for_or_whose_it_is_is_no_finding(images, name):
    listing, labels = labels_of(images, f"file,{name},Mass\na/1.png,0,1\na/2.png,1,0\n")
    assert (listing.labels, labels) == (("Mass",), [[1], [0]])


def test_a_link_in_a_ring_beside_the_images_stops_nothing(images):
    (images / "ring").symlink_to(images / "ring")
    (images / "labels.csv").write_text("file,class\na/1.png,TB\na/2.png,Normal\n")
    assert recognise(images) == "manifest"
    (images / "labels.csv").unlink()
    assert recognise(images) == "folder"
