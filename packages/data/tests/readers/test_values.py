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


@pytest.mark.parametrize("separator", ["|", ";", "\n", ", ", "/", " + ", " & ", " and "])
def test_separators_of_findings(images, separator):
    cells = ["No Finding", f"Mass{separator}Effusion", "Mass", "effusion"]
    listing = column(images, "findings", cells)
    assert (listing.task, listing.labels) == ("multilabel", ("Effusion", "Mass"))
    np.testing.assert_array_equal(label_matrix(listing.table, listing.labels), [[0, 0], [1, 1], [0, 1], [1, 0]])


@pytest.mark.parametrize("healthy", ["None", "none", "Unremarkable", "no abnormality"])
def test_words_for_no_finding_are_no_finding(images, healthy):
    listing = column(images, "findings", [healthy, "Mass|Effusion", "Mass", "Effusion"])
    assert listing.labels == ("Effusion", "Mass")
    np.testing.assert_array_equal(label_matrix(listing.table, listing.labels), [[0, 0], [1, 1], [0, 1], [1, 0]])


def test_blank_cells_among_findings_are_unknown_and_counted(images):
    listing = column(images, "findings", ["Mass|Effusion", None, "Mass", "Effusion"])
    assert "1 images name no finding: unknown; write No Finding where there is none" in listing.notes
    assert np.isnan(label_matrix(listing.table, listing.labels)[1]).all()


def test_none_among_zeros_and_ones_is_unknown(images):
    listing = column(images, "Mass", ["0", "None", "1", "1"])
    np.testing.assert_array_equal(label_matrix(listing.table, ("Mass",))[:, 0], [0, np.nan, 1, 1])


@pytest.mark.parametrize("name", ["label: Mass", "Label:Mass", "LABEL:Mass ", " label:Mass"])
def test_columns_marked_as_labels_in_any_spelling(images, name):
    assert column(images, name, [0, 1, 1, 0], {"Effusion": [0, 1, 0, 1]}).labels == ("Mass",)


def test_the_same_label_twice_is_refused(images):
    with pytest.raises(BadInput, match="each column once, found label:Mass twice"):
        column(images, "label: Mass", [0, 1, 1, 0], {"Label:Mass": [0, 1, 0, 1]})


@pytest.mark.parametrize("name", ["Unnamed: 0", "Male", "female", "AP", "is_lateral", "portable", "Month"])
def test_zeros_and_ones_that_describe_an_image_are_no_finding(images, name):
    listing = column(images, name, [0, 1, 1, 0], {"Mass": [0, 1, 0, 1]})
    assert listing.labels == ("Mass",)
    assert any(f"not used: {name}" in note for note in listing.notes)


def test_a_column_that_is_nearly_a_label_is_named_with_what_it_holds(images):
    listing = column(images, "Edema", [0, 1] * 5 + [99, 0], {"Mass": [0, 1] * 6, "visit": list(range(12))})
    assert listing.labels == ("Mass",)
    (said,) = [note for note in listing.notes if note.startswith("Edema is no label")]
    assert "1 of 12 cells is neither 0, 1, -1 nor blank, such as '99'" in said


@pytest.mark.parametrize("name", ["Set", "dataset", "phase", "Which part?"])
def test_a_column_of_train_and_test_is_the_split_whatever_its_name(images, name):
    listing = column(images, name, ["Train"] * 8 + ["test"] * 4, {"Mass": [0, 1] * 6})
    assert listing.table["split"].to_list() == ["train"] * 8 + ["test"] * 4
    two = {"Mass": [0, 1] * 6, "other": ["test"] * 4 + ["train"] * 8}
    assert column(images, name, ["Train"] * 8 + ["test"] * 4, two).table["split"].null_count() == 12
    named = {"Mass": [0, 1] * 6, "source": ["train", "nih"] * 6}
    assert column(images, "source2", ["test"] * 12, named).table["split"].null_count() == 12


def test_ages_are_read_as_people_write_them_and_others_named(images):
    listing = column(images, "age", ["45 years", "30,5", "006M", "old"], {"Mass": [0, 1, 1, 0]})
    assert listing.table["age"].to_list() == [45, 30.5, 0.5, None]
    assert "ages of 1 images cannot be read, such as 'old'" in listing.notes


def test_quotes_within_cells_are_read_and_rows_that_are_too_long_named(images):
    rows = [f'{name},{number % 2},{number} 5" tube, seen\n' for number, name in enumerate(IMAGES)]
    table = images / "labels.csv"
    table.write_text("file,Mass,report\n" + "".join(row.replace(", seen", "") for row in rows))
    listing = manifest.read(images)
    np.testing.assert_array_equal(label_matrix(listing.table, ("Mass",))[:, 0], [0, 1] * 6)
    table.write_text("file,Mass,report\n" + "".join(rows))
    with pytest.raises(BadInput, match="3 cells in every row, as in the header, found 4 in row 2"):
        manifest.read(images)
    table.write_text('file,Mass,report\na/00.png,1,"never ends\na/01.png,0,x\n')
    with pytest.raises(BadInput, match="quotes that do not end"):
        manifest.read(images)
    table.write_text("file," + ",".join(f'"a, {number}"' for number in range(30_000)) + "\n")
    with pytest.raises(BadInput, match="up to 2,000 columns, found 30,001"):
        manifest.read(images)


@pytest.mark.parametrize("name", ["File Name", "file_path", "IMAGE PATH", "image-name", "img"])
def test_the_column_of_files_in_any_spelling(images, name):
    pl.DataFrame({name: IMAGES, "Mass": [0, 1] * 6}).write_csv(images / "labels.csv")
    assert manifest.read(images).labels == ("Mass",)


def test_patients_as_spreadsheets_keep_text(images):
    cells = ['="007"', "7", "'0007", "8", '="8"', "9"]
    listing = column(images, "patient", cells, {"Mass": [0, 1] * 3})
    assert listing.table["patient"].n_unique() == 3


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


@pytest.mark.parametrize(
    ("names", "patients_there"),
    [
        (["1,100", "1100", "7", "12,345,678", "12345678"], 3),
        (["1.100", "1100", "0007", "7"], 2),
        (["1'100", "1100.0"], 1),
        (["2\u202f200", "2 200", "2200"], 1),
        (["1,000", "1", "2,000", "2"], 2),  # decimals, as far as can be told
        (["1,000", "1000", "1,100"], 2),
        (["1,100", "1100", "A7"], 3),  # not a column of numbers: 1,100 is a name
        (["01,100", "1100", "1,10", "110"], 4),
    ],
)
def test_thousands_are_separated_only_in_columns_of_whole_numbers(names, patients_there):
    column, _ = values.merged_patients(pl.Series("patient", [*names, None]))
    assert column.drop_nulls().n_unique() == patients_there
    assert column.null_count() == 1
