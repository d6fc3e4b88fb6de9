"""What is known to be wrong with real releases, found without being told; the figures are those of their README."""

import csv

import pytest

from cxr_data import prepare
from cxr_data.auditing import audit, file_facts

pytestmark = pytest.mark.e2e


def audited(folder):
    cohort = prepare(folder, pixel_size=64, show=False)
    return audit(cohort, facts=file_facts(folder, cohort.table["image"].to_list()), as_downloaded=True)


def by_name(actual, begins: str):
    return next(check for check in actual["checks"] if check["name"].startswith(begins))


@pytest.fixture(scope="module")
def kermany(shared_data):
    return audited(shared_data / "kermany_pneumonia")


@pytest.fixture(scope="module")
def nih(shared_data):
    return audited(shared_data / "nih_1000_64")


def test_kermany_duplicates(kermany, shared_data):
    same = by_name(kermany, "identical")
    assert (same["level"], same["details"]["groups"], same["details"]["images"]) == ("note", 30, 62)
    assert same["details"]["by_folder"] == {"train": 24, "test": 6}
    assert (same["details"]["across_splits"], same["details"]["labels_differ"]) == (0, 0)
    with open(shared_data / "kermany_pneumonia" / "manifest.csv") as file:
        assert set(same["images"]) == {row["file"] for row in csv.DictReader(file) if row["duplicate_group"]}
    assert by_name(kermany, "near duplicates")["level"] == "ok"  # no pair closer than .985 crosses a split


def test_kermany_numbers_in_train_and_test_are_a_careful_warning(kermany):
    folders = by_name(kermany, "patients in two split folders")
    assert (folders["level"], folders["details"]["pairs"]) == ("warning", {"train-test": 170})
    used = by_name(kermany, "patients in two splits")
    assert (used["level"], used["count"]) == ("warning", 170)
    assert "cannot be decided from the names" in used["text"]


def test_kermany_balance_and_shortcuts(kermany):
    balance = by_name(kermany, "class balance")["details"]
    share = {name: split["labels"]["PNEUMONIA"]["share"] for name, split in balance["splits"].items()}
    assert share["train"] == pytest.approx(0.743, abs=0.002)
    assert share["test"] == 390 / 624
    assert balance["always"]["test"] == {"class": "PNEUMONIA", "accuracy": 0.625}
    folders = by_name(kermany, "split folders")
    assert folders["details"]["folders"]["val"] == {"images": 16, "NORMAL": 8, "PNEUMONIA": 8}
    assert "too small to choose a model by: val" in folders["text"]
    (size,) = [row for row in by_name(kermany, "labels told by other")["details"]["confounders"] if row["confounded"]]
    assert (size["label"], size["by"]) == ("PNEUMONIA", "file size")
    assert size["auroc"] < 0.15
    assert size["mean_negative"] == pytest.approx(6_600, abs=100)
    assert size["mean_positive"] == pytest.approx(5_500, abs=100)
    exposure = {
        row["by"]: row["auroc"] for row in by_name(kermany, "labels told by exposure")["details"]["confounders"]
    }
    assert exposure["sharpness"] < 0.4  # NORMAL is sharper and higher in contrast
    assert exposure["contrast"] < 0.4
    assert by_name(kermany, "what 16 x 16")["details"]["auroc"]["PNEUMONIA"] == pytest.approx(0.90, abs=0.01)
    assert kermany["errors"] == 0


def test_nih_split_folders_leak(nih):
    assert by_name(nih, "patients in two splits")["level"] == "ok"
    folders = by_name(nih, "patients in two split folders")
    assert (folders["level"], folders["count"], folders["details"]["patients"]) == ("error", 25, 226)
    assert nih["errors"] == 1


def test_nih_folder_against_table(nih):
    actual = by_name(nih, "folder and label")
    assert (actual["level"], actual["images"]) == ("warning", ["valid/0_normal/00000193_019.png"])
    assert actual["details"]["folders"]["0_normal"] == {"images": 402, "disagree": 1}


def test_nih_bedside_projections_tell_the_label(nih):
    rows = by_name(nih, "labels told by other")["details"]["confounders"]
    (projection,) = [row for row in rows if (row["label"], row["by"]) == ("any finding", "projection")]
    assert projection["confounded"]
    sick = {name: projection["shares"][name] * count for name, count in projection["counts"].items()}
    well = {name: count - sick[name] for name, count in projection["counts"].items()}
    assert sick["AP"] / sum(sick.values()) == pytest.approx(0.41, abs=0.005)
    assert well["AP"] / sum(well.values()) == pytest.approx(0.27, abs=0.005)


def test_the_other_folders(shared_data):
    covid = audited(shared_data / "covid_cxr")
    assert by_name(covid, "near duplicates")["level"] == "ok"  # one of each pair was removed
    assert by_name(covid, "patients in two splits")["details"]["patients"] == 83
    dicom = audited(shared_data / "formats" / "dicom")
    assert by_name(dicom, "inverted")["images"] == ["Fake_MONOHR1.dcm"]  # its tag says what its pixels are not
    near = by_name(dicom, "near duplicates")["details"]
    assert (near["pairs"], near["inverted"]) == (1, 1)
    arrays = audited(shared_data / "medmnist")
    assert by_name(arrays, "file and image sizes")["level"] == "unknown"
    assert by_name(arrays, "patients in two splits")["level"] == "unknown"
    assert by_name(arrays, "identical")["level"] == "error"
