"""Who is on an image, by DICOM headers."""

import pytest

from cxr_data.readers import patients


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
