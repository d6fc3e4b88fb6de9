"""Tables as people write them, read through the reader of any table."""

import gzip
import unicodedata

import numpy as np
import polars as pl
import pytest

from cxr_data.cohorts.cohort import label_matrix
from cxr_data.errors import BadInput
from cxr_data.readers import manifest, patients, recognise, values

IMAGES = [f"a/{number:02}.png" for number in range(12)]


@pytest.fixture
def images(tmp_path, write_images):
    return write_images(tmp_path, IMAGES)


def column(images, name, cells, more=None):
    """The listing of a table with one column beside the files."""
    table = pl.DataFrame({"file": IMAGES[: len(cells)], name: cells} | (more or {}))
    table.write_csv(images / "labels.csv")
    return manifest.read(images)


@pytest.mark.parametrize(
    ("spellings", "distinct"),
    [
        (["No Finding", "no_finding", "NO-FINDING", "NoFinding"], 1),
        ([unicodedata.normalize(form, "Épanchement") for form in ("NFC", "NFD")], 1),
        (["Mass", "Mass\u200b", "Mass\u00a0", "\ufeffMass", "\uff2dass"], 1),
        (["COVID-19", "COVID 19", "covid19"], 1),
        (["1", "1.0", "1.00"], 1),
        (["-1", "1"], 2),
        (["1-2", "12", "1 2", "1/2"], 4),
        (["Grade 1", "Grade 1+", "Grade -1"], 2),
        (["A/B", "AB"], 2),
    ],
)
def test_spellings_of_one_class(spellings, distinct):
    assert len(set(values.merged_spellings(spellings)[0].values())) == distinct


@pytest.mark.parametrize("separator", ["|", ";", ", ", "/", " + ", " & ", " and "])
def test_separators_of_findings(images, separator):
    cells = ["No Finding", f"Mass{separator}Effusion", "Mass", "effusion"]
    listing = column(images, "findings", cells)
    assert (listing.task, listing.labels) == ("multilabel", ("Effusion", "Mass"))
    np.testing.assert_array_equal(label_matrix(listing.table, listing.labels), [[0, 0], [1, 1], [0, 1], [1, 0]])


def test_a_word_within_a_name_separates_nothing(images):
    cells = ["Normal", "Brandy and water lung", "Mass/nodule", "Normal"]
    assert len(column(images, "class", cells * 3).labels) == 3


@pytest.mark.parametrize("form", ["['{}', '{}']", "[{}, {}]", '["{}", "{}"]', "({}; {})", "{{'{}','{}'}}"])
def test_findings_written_as_lists(images, form):
    listing = column(images, "findings", [form.format("Mass", "Effusion"), "[]", "['Mass']", None])
    assert (listing.task, listing.labels) == ("multilabel", ("Effusion", "Mass"))
    expected = [[1, 1], [0, 0], [0, 1], [np.nan, np.nan]]
    np.testing.assert_array_equal(label_matrix(listing.table, listing.labels), expected)


@pytest.mark.parametrize("cells", [[f"report of image {number}" for number in range(12)], [f"x{n}" for n in range(11)]])
def test_text_is_no_class(images, cells):
    with pytest.raises(BadInput, match="more like text or names"):
        column(images, "finding", cells)


def test_one_and_minus_one_alone_are_refused(images):
    with pytest.raises(BadInput, match="1 and -1 alone"):
        column(images, "Mass", [1, -1, 1, -1])
    for cells in ([1, -1, None, 1], [1, -1, 0, 1]):  # uncertain beside what is not mentioned or absent
        assert column(images, "Mass", cells).labels == ("Mass",)


@pytest.mark.parametrize("name", ["study_id", "StudyInstanceUID", "Accession Number", "exam_id"])
def test_studies_stay_together_where_no_patient_is_known(images, name):
    listing = column(images, "Mass", [0, 1] * 6, {name: [f"1.2.{number // 2}" for number in range(12)]})
    assert listing.table["patient"].n_unique() == 6
    assert any("images of a study stay together" in note for note in listing.notes)


def test_a_number_of_the_study_of_each_patient_is_no_study(images):
    listing = column(images, "Mass", [0, 1] * 6, {"study": [2] * 12})
    assert listing.table["patient"].n_unique() == 12


def test_absolute_paths_into_the_folder_are_read_and_others_not(images):
    pl.DataFrame({"file": [str(images / name) for name in IMAGES], "Mass": [0, 1] * 6}).write_csv(images / "labels.csv")
    assert manifest.read(images).table["path"].to_list() == IMAGES
    pl.DataFrame({"file": ["/elsewhere/" + name for name in IMAGES], "Mass": [0, 1] * 6}).write_csv(
        images / "labels.csv"
    )
    with pytest.raises(BadInput, match="paths inside the folder"):
        manifest.read(images)


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_packed_table_is_not_passed_over(tmp_path, write_images, damage):
    folder = write_images(tmp_path, ["1.png", "2.png"])
    whole = gzip.compress(b"file,Mass\n1.png,0\n2.png,1\n")
    broken = whole[:-12] if damage == "cut" else whole[:12] + b"\xff" * 12 + whole[24:]
    (folder / "labels.csv.gz").write_bytes(broken)
    assert recognise(folder) == "manifest"
    with pytest.raises(BadInput, match=r"a column of files|readable table"):
        manifest.read(folder)
    (folder / "labels.csv.gz").write_bytes(whole)
    assert manifest.read(folder).labels == ("Mass",)


def test_another_table_of_labels_is_named(images):
    pl.DataFrame({"file": IMAGES, "Mass": [1, 0] * 6}).write_csv(images / "manifest.csv")
    assert "manifest.csv is used, and not labels.csv beside it" in column(images, "Mass", [0, 1] * 6).notes


def test_labels_in_a_file_that_is_not_read_are_named(tmp_path, write_images):
    folder = write_images(tmp_path, ["1.png", "2.png"])
    (folder / "labels.json").write_text("[]")
    assert recognise(folder) == "unlabelled"
    from cxr_data.readers import unlabelled

    assert any("labels.json is not read" in note for note in unlabelled.read(folder).notes)


@pytest.mark.parametrize(
    ("header", "separator", "encoding"),
    [("file,patient", ",", "utf-8-sig"), ("Filename;PatientID", ";", "cp1252"), ("path\tSubject ID", "\t", "utf-16")],
)
def test_tables_of_patients_are_read_as_tables_of_labels_are(tmp_path, write_images, header, separator, encoding):
    folder = write_images(tmp_path, ["A/1.png", "A/2.png", "B/3.png", "B/4.png"])
    rows = [("A/1.png", "Müller"), ("A/2.png", "7"), ("B/3.png", "007"), ("B\\4.png", "müller")]
    text = "\r\n".join([header, *(separator.join(row) for row in rows)])
    (folder / "manifest.csv").write_bytes(text.encode(encoding))
    table, notes = patients.facts(folder, ["A/1.png", "A/2.png", "B/3.png", "B/4.png"])
    assert table["patient"].to_list() == ["Müller", "7", "7", "Müller"]
    assert any("spelled in several ways" in note for note in notes)
