import json
import re
from pathlib import Path

import chromium
import cv2
import numpy as np
import polars as pl
import pytest

from cxr_data import load, save
from cxr_data.auditing import audit, html
from cxr_data.cli import main


def by_name(actual, begins: str):
    return next(check for check in actual["checks"] if check["name"].startswith(begins))


@pytest.fixture(scope="module")
def faulty(drawn, cohort_of):
    """Every fault once: a patient, an identical pair and a copy across splits, a negative, a shortcut."""
    copy = cv2.imdecode(cv2.imencode(".jpg", drawn[4], [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE)
    pixels = np.concatenate([drawn, drawn[2:3], np.asarray(copy)[None], 255 - drawn[9:10]])
    n = len(pixels)
    split = ["train"] * 100 + ["val"] * 20 + ["test"] * 43
    mass = np.arange(n) % 2
    patient = [f"p{i}" for i in range(n)]
    patient[150] = "p0"
    image = [f"{i:04d}.png" for i in range(n)]
    image[2] = "<script>alert(1)</script>/0002.png"
    label = mass.astype(np.float32)
    label[160] = 1 - label[2]
    view = ["AP" if m else "PA" for m in mass]
    columns = {"split": split, "patient": patient, "image": image, "label:Mass": label, "projection": view}
    return cohort_of(pixels, **columns)


@pytest.fixture(scope="module")
def audited(faulty):
    return audit(faulty)


def test_every_fault_is_found_at_its_level(faulty):
    rng = np.random.default_rng(0)
    mass = faulty.targets[:, 0]
    sizes = (10_000 + 500 * mass + rng.normal(0, 300, len(faulty))).astype(int)
    facts = pl.DataFrame({"kind": ["PNG"] * 163, "width": [64] * 163, "height": [64] * 163, "bytes": sizes})
    report = audit(faulty, facts=facts)
    shared = by_name(report, "patients in two splits")
    assert (shared["level"], shared["count"], shared["details"]["pairs"]) == ("error", 1, {"train-test": 1})
    same = by_name(report, "identical")
    assert (same["level"], same["details"]["across_splits"], same["details"]["labels_differ"]) == ("error", 1, 1)
    # One pair is planted; of 160 drawn chests another two may look alike.
    assert 1 <= by_name(report, "near duplicates")["details"]["across_splits"] <= 2
    assert by_name(report, "inverted")["images"] == ["0162.png"]
    told = by_name(report, "labels told by other")["details"]["confounders"]
    assert {row["by"] for row in told if row["confounded"] and row["label"] == "Mass"} == {"projection", "file size"}
    assert by_name(report, "broken")["level"] == "ok"
    assert report["errors"] == 3
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_browser_shows_the_page_without_fault(faulty, audited, browser, tmp_path):
    page = tmp_path / "audit.html"
    page.write_text(html(audited, faulty), "utf-8")
    assert chromium.faults(browser, page) == []


def test_files_that_are_not_at_hand_are_said_to_be_unknown(audited):
    assert by_name(audited, "file and image sizes")["level"] == "unknown"


def test_the_page_is_whole_and_escapes_what_comes_from_the_data(faulty, audited):
    page = html(audited, faulty)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/jpeg;base64,") >= 5
    assert not re.search(r'(src|href)="(?!data:)', page)


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 1)])
def test_strict_ends_with_1_where_there_are_errors(faulty, tmp_path, strict, code, typed):
    save(faulty, tmp_path / "cohort")
    out = tmp_path / "found"
    done = typed("cxr-data", "audit", tmp_path / "cohort", "--out", out, *(["--strict"] if strict else []))
    assert (done.returncode, done.stderr) == (code, "")
    assert "3 errors" in done.stdout
    written = json.loads((out / "audit.json").read_text())
    assert written["errors"] == 3
    assert written["cohort"]["fingerprint"] == load(tmp_path / "cohort").fingerprint
    assert (out / "audit.html").read_text().startswith("<!doctype html>")


def test_a_sound_cohort_passes(two_classes, tmp_path):
    assert main(["audit", str(two_classes), "--size", "28", "--strict", "--out", str(tmp_path / "a")]) == 0
    document = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert document["errors"] == 0
    assert by_name(document, "patients in two splits")["level"] == "ok"


def test_folders_that_leak_are_errors_of_the_data_set_and_warnings_of_the_cohort(tmp_path, write_images, capsys):
    kinds = ("NORMAL", "COVID")
    names = [f"{s}/{k}/patient{n}_{s}.png" for s in ("train", "test") for k in kinds for n in range(30)]
    write_images(tmp_path / "source", names)
    rows = [
        f"{name},{Path(name).stem.split('_')[0]}-{Path(name).parent.name},{Path(name).parent.name}" for name in names
    ]
    (tmp_path / "source" / "manifest.csv").write_text("file,patient,class\n" + "\n".join(rows) + "\n")
    assert main(["prepare", str(tmp_path / "source"), "--size", "28", "--out", str(tmp_path / "cohort")]) == 0
    main(["audit", str(tmp_path / "cohort"), "--out", str(tmp_path / "a")])
    document = json.loads((tmp_path / "a" / "audit.json").read_text())
    folders = by_name(document, "patients in two split folders")
    assert (folders["level"], folders["count"], folders["details"]["patients"]) == ("warning", 60, 60)
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(tmp_path / "source"), "--size", "28", "--strict", "--out", str(tmp_path / "b")])
    assert ended.value.code == 1
    capsys.readouterr()
