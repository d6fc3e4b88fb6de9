import numpy as np
import pytest

from cxr_data.cohorts.cohort import label_matrix
from cxr_data.errors import BadInput
from cxr_data.preparation.selection import Selection, select
from cxr_data.readers import padchest, recognise, tables

HEADER = ",ImageID,ImageDir,StudyDate_DICOM,PatientID,PatientBirth,PatientSex_DICOM,Projection,MethodLabel,Labels"
ROWS = [
    "0,1_a.png,0,20140915,p1,1930.0,F,PA,Physician,['normal']",
    "1,2_a.png,0,20150914,p2,1929.0,M,L,Physician,\"['pulmonary fibrosis', 'kyphosis ']\"",
    "2,2_b.png,0,20150914,p2,1929.0,M,PA,Physician,\"['pulmonary fibrosis', 'kyphosis ', '']\"",
    '3,3_a.png,1,20150914,p3,,None,AP_horizontal,RNN_model,"[\'emphysema\', ""Chilaiditi\'s sign""]"',
    "4,4_a.png,1,20150914,p4,1990.0,F,PA,RNN_model,nan",
    "5,5_a.png,1,20150914,p5,1990.0,F,PA,RNN_model,\"['unchanged', 'suboptimal study']\"",
    "6,6_a.png,1,20150914,p6,1990.0,F,PA,RNN_model,\"['exclude', 'emphysema']\"",
]
TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def write(folder, rows=ROWS):
    (folder / TABLE).write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


@pytest.fixture
def release(tmp_path, write_images):
    write_images(tmp_path, [f"{row.split(',')[2]}/{row.split(',')[1]}" for row in ROWS])
    return write(tmp_path)


def test_the_release(release):
    assert recognise(release) == "padchest"
    listing = padchest.read(release)
    assert listing.labels == padchest.LABELS
    assert len(listing.labels) == 19
    table = listing.table
    assert table["path"].to_list() == ["0/1_a.png", "0/2_a.png", "0/2_b.png", "1/3_a.png", "1/4_a.png", "1/5_a.png"]
    assert table["patient"].to_list() == ["p1", "p2", "p2", "p3", "p4", "p5"]
    assert table["age"].to_list() == [84, 86, 86, None, 25, 25]
    assert table["sex"].to_list() == ["F", "M", "M", None, "F", "F"]
    assert table["labelled_by"].unique().sort().to_list() == ["Physician", "RNN_model"]
    assert table["split"].null_count() == 6
    targets = label_matrix(table, listing.labels)
    positive = [[listing.labels[i] for i in np.flatnonzero(row == 1)] for row in targets]
    assert positive == [[], ["pulmonary fibrosis"], ["pulmonary fibrosis"], ["emphysema"], [], []]
    assert np.isnan(targets).all(axis=1).tolist() == [False, False, False, False, True, True]
    assert "1 images are marked exclude and were left out" in listing.notes
    selected, done = select(listing, Selection(), release)
    assert done == {"projection": "frontal"}
    assert selected.table["projection"].to_list() == ["PA", "PA", "AP_horizontal", "PA", "PA"]


def test_common_findings_are_offered(release, monkeypatch):
    monkeypatch.setattr(padchest, "LEAST", 2)
    listing = padchest.read(release)
    assert [name for name in listing.table.columns if name.startswith("label:")][19:] == ["label:kyphosis"]
    selected, _ = select(listing, Selection(labels=("kyphosis", "emphysema"), projection="lateral"), release)
    assert (selected.labels, selected.table.height) == (("kyphosis", "emphysema"), 1)
    assert selected.table["label:kyphosis"].to_list() == [1]
    assert "label:pneumonia" not in selected.table.columns


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", []),
        ("['a', 'b c ']", ["a", "b c"]),
        ("""["a's", 'b']""", ["a's", "b"]),
        ("['a' 'b']", None),
        ("['a', __import__('os')]", None),
        ("['a'", None),
        ("['a', 1]", None),
        ("('a',)", None),
    ],
)
def test_only_lists_of_words_are_read(text, words):
    assert padchest.parse_list(text) == words


def test_a_long_unfinished_list_is_refused_at_once():
    assert padchest.parse_list("[" + "'a' , " * 5000) is None


def test_anything_else_in_labels_is_refused(release):
    write(release, [ROWS[0].replace("['normal']", "normal")])
    with pytest.raises(BadInput, match=r"a list such as .* found 'normal'"):
        padchest.read(release)


@pytest.mark.slow
def test_the_official_table(official_tables, tmp_path, monkeypatch):
    (tmp_path / f"{TABLE}.gz").write_bytes(official_tables(f"{TABLE}.gz", unpack=False))
    images = tables.read_columns(tmp_path / f"{TABLE}.gz", ["ImageID", "PatientID"])
    assert (images.height, images["PatientID"].n_unique()) == (160_861, 67_625)
    monkeypatch.setattr(tables, "image_files", lambda _: images["ImageID"].to_list())
    listing = padchest.read(tmp_path)
    assert listing.table.height == 160_861 - 1_312
    assert all((listing.table[f"label:{label}"] == 1).any() for label in padchest.LABELS)
