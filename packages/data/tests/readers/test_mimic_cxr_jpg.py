import gzip

import numpy as np
import pytest

from cxr_data.cohorts.cohort import label_matrix
from cxr_data.errors import BadInput
from cxr_data.preparation.selection import Selection, select
from cxr_data.readers import chexpert, mimic_cxr_jpg, recognise

# subject, study, dicom, view, split
IMAGES = [
    ("10000032", "50414267", "02aa804e-bde0afdd", "PA", "train"),
    ("10000032", "50414267", "174413ec-4ec4c1f7", "LATERAL", "train"),
    ("10000032", "53189527", "2a2277a9-b0ded155", "PA", "validate"),
    ("10000764", "57375967", "096052b7-d256dc40", "AP", "test"),
    ("10000764", "57375999", "b79e55c3-735ce5ac", "AP", "test"),
]
PATHS = [f"files/p10/p{s}/s{t}/{d}.jpg" for s, t, d, _, _ in IMAGES]


def gz(folder, name, lines):
    (folder / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.fixture
def release(tmp_path, write_images):
    write_images(tmp_path, PATHS)
    columns = sorted(chexpert.LABELS)  # the release has them by alphabet
    gz(
        tmp_path,
        "metadata",
        ["dicom_id,subject_id,study_id,Rows,ViewPosition"] + [f"{d},{s},{t},9,{v}" for s, t, d, v, _ in IMAGES],
    )
    gz(tmp_path, "split", ["dicom_id,study_id,subject_id,split"] + [f"{d},{t},{s},{p}" for s, t, d, _, p in IMAGES])
    for name, edema in (("chexpert", "1.0"), ("negbio", "0.0")):
        lines = ["subject_id,study_id," + ",".join(columns)]
        for subject, study, value in (
            ("10000032", "50414267", edema),
            ("10000032", "53189527", "-1.0"),
            ("10000764", "57375967", ""),
        ):
            cells = {"Edema": value, "Pneumonia": "0.0"}
            lines.append(f"{subject},{study}," + ",".join(cells.get(label, "") for label in columns))
        gz(tmp_path, name, lines)
    return tmp_path


def test_the_tables_are_joined(release):
    assert recognise(release) == "mimic_cxr_jpg"
    listing = mimic_cxr_jpg.read(release)
    assert listing.labels == chexpert.LABELS
    assert listing.table["path"].to_list() == PATHS
    assert listing.table["patient"].to_list() == ["10000032"] * 3 + ["10000764"] * 2
    assert listing.table["split"].to_list() == ["train", "train", "val", "test", "test"]
    assert listing.table["study"][0] == "50414267"
    selected, done = select(listing, Selection(uncertain="zeros"), release)
    assert done["uncertain"] == {"Edema": "zeros"}
    edema = label_matrix(selected.table, ("Edema",))[:, 0]
    assert selected.table["projection"].to_list() == ["PA", "PA", "AP", "AP"]
    assert edema[:3].tolist() == [1, 0, 0]
    assert np.isnan(edema[3])  # the study has no row
    assert "1 images have no labels: unknown" in listing.notes


def test_negbio_alone_and_no_split(release):
    (release / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    (release / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    listing = mimic_cxr_jpg.read(release)
    assert listing.table["label:Edema"][0] == 0
    assert listing.table["split"].null_count() == 5
    assert "labels are those of mimic-cxr-2.0.0-negbio.csv.gz" in listing.notes


def test_missing_tables(release):
    (release / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    (release / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    assert recognise(release) != "mimic_cxr_jpg"
    with pytest.raises(BadInput, match="a table of labels"):
        mimic_cxr_jpg.read(release)
