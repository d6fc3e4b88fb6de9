import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_data import prepare as prepare_folder
from cxr_data import read_image
from cxr_data.errors import BadInput
from cxr_data.preparation.decoding import decode_once


def prepare(source, out, **options):
    return prepare_folder(source, out, **{"pixel_size": 32, "show": False, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_folder_becomes_a_cohort(two_classes, tmp_path):
    cohort = prepare(two_classes, tmp_path / "cohort")
    assert (cohort.name, cohort.task, cohort.labels) == ("two classes", "multiclass", ("NORMAL", "COVID"))
    assert cohort.table["image"].is_sorted()
    assert [len(cohort.rows(split)) for split in ("train", "val", "test")] == [42, 6, 12]
    patients = {split: set(cohort.table["patient"].gather(cohort.rows(split))) for split in ("train", "val", "test")}
    assert sum(map(len, patients.values())) == 30 == len(set.union(*patients.values()))
    row = cohort.rows("val")[0]
    image = cohort.table["image"][int(row)]
    np.testing.assert_array_equal(cohort.pixels[row], read_image(two_classes / image, 32))
    assert cohort.targets[row].tolist() == [image.startswith("NORMAL"), image.startswith("COVID")]
    assert sorted(contents(tmp_path / "cohort")) == ["cohort.json", "cohort.parquet", "pixels.npy"]


def test_options_reach_the_pixels_and_are_remembered(two_classes, tmp_path):
    cohort = prepare(two_classes, tmp_path / "cohort", aspect="pad", window="percentile")
    assert cohort.pixel_mapping == {"aspect": "pad", "window": "percentile"}
    first = two_classes / cohort.table["image"][0]
    np.testing.assert_array_equal(cohort.pixels[0], read_image(first, 32, **cohort.pixel_mapping))


def test_the_same_again_is_only_opened_and_anything_else_is_refused(two_classes, tmp_path):
    first = prepare(two_classes, tmp_path / "cohort")
    before = (tmp_path / "cohort" / "pixels.npy").stat().st_mtime_ns
    assert prepare(two_classes, tmp_path / "cohort").fingerprint == first.fingerprint
    assert (tmp_path / "cohort" / "pixels.npy").stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="other files or options"):
        prepare(two_classes, tmp_path / "cohort", seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(BadInput, match="new or empty folder"):
        prepare(two_classes, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_two_runs_give_the_same_bytes(two_classes, tmp_path):
    prepare(two_classes, tmp_path / "one")
    prepare(two_classes, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


KILLED_AFTER = """
import os, signal, sys, threading
from pathlib import Path
from cxr_data.preparation import decoding as pixels
from cxr_data import prepare
pixels.TASK, pixels.CHUNK = 2, 4
read, left = pixels.read_image, [int(sys.argv[3])]
def read_or_die(*args, **kwargs):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(*args, **kwargs)
pixels.read_image = read_or_die
if sys.argv[3] == "0":  # in the middle of what comes after decoding
    import importlib
    module = importlib.import_module("cxr_data.preparation.prepare")
    setattr(module, sys.argv[4], lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
prepare(sys.argv[1], sys.argv[2], pixel_size=32, show=False)
"""


def test_kill_9_and_again_gives_the_same_bytes(two_classes, tmp_path):
    (two_classes / "COVID" / "patient16_0.png").write_bytes(b"")
    out = tmp_path / "killed"
    done = []
    for images in (7, 30):
        command = [sys.executable, "-c", KILLED_AFTER, two_classes, out, str(images)]
        assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
        assert not out.exists()
        journal = (tmp_path / ".killed.part" / "journal.jsonl").read_text().splitlines()
        done.append(json.loads(journal[-1]).get("rows", 0))
    assert 0 < done[0] < done[1] < 60
    prepare(two_classes, out)
    prepare(two_classes, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "two classes", "whole"]


@pytest.mark.nightly
def test_kill_9_at_every_step_after_decoding_gives_the_same_bytes(two_classes, tmp_path):
    (two_classes / "COVID" / "patient16_0.png").write_bytes(b"")
    out = tmp_path / "killed"
    for step in ("keep_rows", "pixel_digests", "write_tables", "forget_journal", "take_name"):
        command = [sys.executable, "-c", KILLED_AFTER, two_classes, out, "0", step]
        assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
        assert not out.exists()
    prepare(two_classes, out)
    prepare(two_classes, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_two_processes_at_once_write_one_cohort(two_classes, tmp_path):
    code = "import sys; from cxr_data import prepare; prepare(*sys.argv[1:], pixel_size=32, show=False)"
    command = [sys.executable, "-c", code, str(two_classes), str(tmp_path / "out")]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    prepare(two_classes, tmp_path / "alone")
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "out", "two classes"]


def test_a_few_broken_images_are_set_aside_and_named(two_classes, tmp_path):
    (two_classes / "NORMAL" / "patient3_1.png").write_bytes(b"")
    cohort = prepare(two_classes, tmp_path / "cohort")
    assert len(cohort) == 59
    assert cohort.broken == (("NORMAL/patient3_1.png", "zero bytes"),)
    assert "1 broken image was set aside" in cohort.notes[0]
    about = json.loads((tmp_path / "cohort" / "cohort.json").read_text())
    assert about["broken"] == [{"file": "NORMAL/patient3_1.png", "reason": "zero bytes"}]
    assert "NORMAL/patient3_1.png" not in cohort.table["image"]


def test_too_many_broken_images_are_refused_and_nothing_is_left(two_classes, tmp_path):
    for image in (0, 1):
        (two_classes / "NORMAL" / f"patient3_{image}.png").write_bytes(b"")
    with pytest.raises(BadInput, match="at most 1 broken images of 60, found 2"):
        prepare(two_classes, tmp_path / "cohort")
    assert [path.name for path in tmp_path.iterdir()] == ["two classes"]
    assert len(prepare(two_classes, tmp_path / "cohort", max_bad=0.05)) == 58
    with pytest.raises(BadInput, match="at most 0 broken"):
        prepare(two_classes, tmp_path / "strict", max_bad=0.0)


def test_a_class_without_a_usable_image_is_refused(two_classes, tmp_path, write_images):
    (two_classes / "TB").mkdir()
    (two_classes / "TB" / "patient99_0.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"also of TB, found none \(TB/patient99_0.png: zero bytes\)"):
        prepare(two_classes, tmp_path / "cohort")


def test_identical_images_keep_their_patients_together(two_classes, tmp_path):
    for i in range(1, 15):  # the second image of every NORMAL patient is that of patient 0
        same = (two_classes / "NORMAL" / "patient0_1.png").read_bytes()
        (two_classes / "NORMAL" / f"patient{i}_1.png").write_bytes(same)
    cohort = prepare(two_classes, tmp_path / "cohort")
    normal = cohort.targets[:, 0] == 1
    assert len(set(cohort.table.filter(normal)["split"])) == 1
    assert len(set(cohort.groups[normal])) == 1
    assert "15 images in 1 groups are identical: each group stays together when splitting" in cohort.notes


def test_the_split_does_not_depend_on_the_pixel_size(two_classes, tmp_path):
    # One gray level in one pixel: other images at full size, some of them the same at 16 pixels.
    first = cv2.imread(str(two_classes / "NORMAL" / "patient0_0.png"), cv2.IMREAD_GRAYSCALE)
    assert first is not None
    for i in range(1, 15):
        first[0, i] = int(first[0, i]) ^ 1
        cv2.imwrite(str(two_classes / "NORMAL" / f"patient{i}_0.png"), first)
    cohorts = [prepare(two_classes, tmp_path / str(size), pixel_size=size) for size in (16, 48)]
    assert len(np.unique(cohorts[0].pixels, axis=0)) < 60
    assert len(np.unique(cohorts[1].pixels, axis=0)) == 60
    assert cohorts[0].table.equals(cohorts[1].table)


def test_identical_images_with_different_labels_are_told(two_classes, tmp_path):
    same = (two_classes / "NORMAL" / "patient0_1.png").read_bytes()
    (two_classes / "COVID" / "patient20_0.png").write_bytes(same)
    notes = prepare(two_classes, tmp_path / "cohort").notes
    assert "the labels differ within 1 of these groups" in notes


def test_official_split_folders_are_used(tmp_path, write_images):
    names = [
        f"{s}/{c}/{i}.png" for s, n in (("train", 30), ("valid", 100), ("Test", 7)) for c in "ab" for i in range(n)
    ]
    cohort = prepare(write_images(tmp_path / "source", names), tmp_path / "cohort")
    expected = [{"t": "train", "v": "val", "T": "test"}[image[0]] for image in cohort.table["image"]]
    assert cohort.table["split"].to_list() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aspect": "squish"}, "did you mean squash"),
        ({"window": "vio"}, "did you mean voi"),
        ({"reader": "kermani"}, "did you mean kermany"),
        ({"pixel_size": 7}, "16 to 4096"),
        ({"max_bad": 2.0}, "0.01 means 1 %"),
    ],
)
def test_bad_options(two_classes, tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        prepare(two_classes, tmp_path / "cohort", **options)
    assert not (tmp_path / "cohort").exists()


def test_bad_sources(two_classes, tmp_path):
    with pytest.raises(BadInput, match=r"did you mean .*two classes"):
        prepare(tmp_path / "two_classes", tmp_path / "out")
    with pytest.raises(BadInput, match=r"did you mean .*two classes"):
        prepare(tmp_path / "two_clases" / "NORMAL", tmp_path / "out")
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(BadInput, match="unpack it first"):
        prepare(tmp_path / "data.zip", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="an empty folder"):
        prepare(tmp_path / "empty", tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))
    with pytest.raises(BadInput, match="outside the data set"):
        prepare(two_classes, two_classes / "cohort")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(two_classes, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(BadInput, match="a folder this user may write to"):
        prepare(two_classes, tmp_path / "locked" / "cohort")


def test_places_that_cannot_be_made(two_classes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="a folder this user may write to"):
        prepare(two_classes, tmp_path / "file" / "cohort")
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BadInput, match="a folder this user may write to"):
        prepare(two_classes, None)


def test_links_that_leave_the_folder_are_not_read(two_classes, tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes((two_classes / "NORMAL" / "patient0_0.png").read_bytes())
    (two_classes / "NORMAL" / "link.png").symlink_to(outside)
    cohort = prepare(two_classes, tmp_path / "out")
    assert cohort.broken == (("NORMAL/link.png", "a link that leads out of the folder"),)
    (two_classes / "NORMAL" / "link.png").unlink()
    (two_classes / "NORMAL" / "link.png").symlink_to("patient0_0.png")
    assert len(prepare(two_classes, tmp_path / "inside")) == 61


def test_the_cache_is_keyed_by_content_and_options(two_classes, monkeypatch, tmp_path):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    prepare(two_classes, None)
    prepare(two_classes, None)
    assert len(list((tmp_path / "cache" / "cohorts").iterdir())) == 1
    prepare(two_classes, None, pixel_size=64)
    assert len(list((tmp_path / "cache" / "cohorts").iterdir())) == 2
    changed = two_classes / "NORMAL" / "patient0_0.png"
    os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
    prepare(two_classes, None)
    assert len(list((tmp_path / "cache" / "cohorts").iterdir())) == 3


def test_files_that_change_while_they_are_read_are_refused(two_classes, tmp_path, monkeypatch):
    def meanwhile(*args, **options):
        actual = decode_once(*args, **options)
        (two_classes / "NORMAL" / "patient3_1.png").write_bytes(b"another picture")
        return actual

    monkeypatch.setattr("cxr_data.preparation.prepare.decode_once", meanwhile)
    with pytest.raises(BadInput, match="files that stay as they are while they are read"):
        prepare(two_classes, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()


def test_a_number_that_may_be_a_placeholder_is_told(two_classes, tmp_path):
    names = [path.relative_to(two_classes).as_posix() for path in sorted(two_classes.rglob("*.png"))]
    rows = [f"{name},{'ANONYMOUS' if i % 2 else i}" for i, name in enumerate(names)]
    (two_classes / "manifest.csv").write_text("\n".join(["file,patient", *rows]))
    cohort = prepare(two_classes, tmp_path / "cohort")
    assert any(note.startswith("30 of 60 images are of one patient: if that is no person") for note in cohort.notes)
    alone = [f"{name},ANONYMOUS" for name in names]
    (two_classes / "manifest.csv").write_text("\n".join(["file,patient", *alone]))
    with pytest.raises(BadInput, match="60 images of 1") as error:
        prepare(two_classes, tmp_path / "alone")
    assert "placeholder" in str(error.value)


def test_labels_without_a_value_are_named(tmp_path, write_images):
    images = [f"{i}.png" for i in range(12)]
    folder = write_images(tmp_path / "files", images)
    rows = []
    for i, name in enumerate(images):
        split = ("train", "train", "val", "test")[i % 4]
        hernia = i // 4 % 2 if split == "train" else ""
        rows.append(f"{name},p{i},{split},{i % 2},,{hernia},,{int(split == 'train')}")
    header = "file,patient,split,label:Mass,label:Edema,label:Hernia,comment,label:Nodule"
    (folder / "labels.csv").write_text("\n".join([header, *rows]))
    notes = prepare(folder, tmp_path / "cohort").notes
    assert {
        "no image says anything of Edema (blank or uncertain in every row): nothing is learnt of it",
        "test says nothing of Hernia",
        "test has no image of Nodule",
        "columns without a value in any row were not used: comment",
    } <= set(notes)
    assert sum("Edema" in note for note in notes) == 1
