"""Who is on an image, by DICOM headers."""

import numpy as np
import pytest
from dicom_files import dicom

from cxr_data.readers import manifest, patients


@pytest.mark.parametrize(
    ("issuers", "expected"),
    [
        (("A", "A", "B"), ["7 of A", "7 of A", "7 of B"]),  # two hospitals have a patient 7
        (("A", "", "A"), ["7", "7", "7"]),  # some devices do not say whose number it is
        (("A", "", "B"), ["7", "7", "7"]),  # of A or of B: at worst two people stay together
    ],
)
def test_a_number_that_somewhere_lacks_its_issuer_is_one_patient(tmp_path, monkeypatch, issuers, expected):
    actual = [{"patient": f"7 of {issuer}" if issuer else "7", "number": "7"} for issuer in issuers]
    nobody = {"patient": None, "number": None}
    names = ["a.dcm", "b.dcm", "c.dcm", "d.dcm", "e.png"]
    facts = dict(zip(names, [*actual, nobody], strict=False))
    monkeypatch.setattr(patients, "_is_dicom", lambda root, path: path in facts)
    monkeypatch.setattr(patients, "dicom_facts", lambda path, salt: facts[path.name].copy())
    monkeypatch.setattr(patients, "patient_salt", lambda cache: b"")
    table, notes = patients.facts(tmp_path, names)
    assert table["patient"].to_list() == [*expected, "d.dcm", "e.png"]
    assert table.columns == ["patient"]
    assert notes[0].startswith("for 2 images nothing says which images are of one patient")


def test_a_table_of_some_images_names_the_patients_of_all(tmp_path, monkeypatch):
    names = [f"{letter}.dcm" for letter in "abcde"]
    facts = dict(zip(names, ["p1", "p1", "p1", "p2", "p3"], strict=True))
    monkeypatch.setattr(patients, "_is_dicom", lambda root, path: True)
    monkeypatch.setattr(
        patients, "dicom_facts", lambda path, salt: dict.fromkeys(("patient", "number"), facts[path.name])
    )
    monkeypatch.setattr(patients, "patient_salt", lambda cache: b"")
    (tmp_path / "manifest.csv").write_text("file,patient\na.dcm,anna\nb.dcm,\nd.dcm,berta\n")
    table, notes = patients.facts(tmp_path, names)
    assert table["patient"].to_list() == ["anna", "anna", "anna", "berta", "p3"]
    assert notes == ["2 images are not in manifest.csv"]


HEADERS = {  # PatientID and study of eight files, two a patient
    "numbers": [(f"P{i // 2}", f"1.2.{i}") for i in range(8)],
    "studies": [("", f"1.2.{i // 2}") for i in range(8)],
    "both": [(f"P{i // 2}" if i < 4 else "", f"1.2.{i // 2}") for i in range(8)],
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS.keys())
@pytest.mark.parametrize("named", [None, "", "first", "all"])
def test_patients_that_a_table_does_not_name_are_those_of_headers(headers, named, tmp_path):
    values = np.add.outer(np.arange(20), np.arange(20)).astype(np.uint8)
    for i, (number, study) in enumerate(headers):
        (tmp_path / f"{i}.dcm").write_bytes(dicom(values, bits=8, PatientID=number, StudyInstanceUID=study))
    by_table = {"first": ["anna", *[""] * 7], "all": ["anna", *"bcdefgh"]}.get(named or "", [""] * 8)
    rows = [f"{i}.dcm,{i // 2 % 2},{by_table[i]}" for i in range(8)]
    table = ["file,sick,patient", *rows] if named is not None else ["file,sick", *(row[:-1] for row in rows)]
    (tmp_path / "labels.csv").write_text("\n".join(table))
    listing = manifest.read(tmp_path)
    actual = listing.table["patient"].to_list()
    if named == "all":
        assert actual == by_table
        return
    assert [actual.index(one) for one in actual] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert (actual[0] == "anna") == (named == "first")
    assert not any("of its own" in note for note in listing.notes)
    assert any("DICOM headers" in note for note in listing.notes) == (headers != HEADERS["studies"] or named == "first")


def test_the_patient_of_a_header_comes_before_the_study_of_a_table(tmp_path):
    values = np.add.outer(np.arange(20), np.arange(20)).astype(np.uint8)
    for i in range(24):
        number = f"P{i // 4}" if i < 12 else ""
        (tmp_path / f"{i:02}.dcm").write_bytes(dicom(values, bits=8, PatientID=number))
    rows = [f"{i:02}.dcm,{i // 4 % 2},S{i // 2}" for i in range(24)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,sick,study_id", *rows]))
    listing = manifest.read(tmp_path)
    actual = listing.table["patient"].to_list()
    assert [actual.index(one) for one in actual] == [
        *(4 * (i // 4) for i in range(12)),
        *(2 * (i // 2) for i in range(12, 24)),
    ]
    assert any(note.startswith("for 12 images only the study is known") for note in listing.notes)


def test_one_study_for_all_is_a_placeholder(tmp_path):
    values = np.add.outer(np.arange(20), np.arange(20)).astype(np.uint8)
    names = [f"{i}.dcm" for i in range(4)]
    for name in names:
        (tmp_path / name).write_bytes(dicom(values, bits=8, StudyInstanceUID="1.2.3"))
    table, notes = patients.facts(tmp_path, names)
    assert table["patient"].to_list() == names
    assert notes[0].startswith("nothing says")
