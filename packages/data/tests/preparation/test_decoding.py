import json
import shutil

import numpy as np
import pytest

from cxr_data.errors import BadInput
from cxr_data.images.read import read_image
from cxr_data.preparation import decoding as pixels
from cxr_data.preparation.decoding import decode_once, faint_notes, keep_rows

NAMES = [f"{i:03d}.png" for i in range(50)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(pixels, "TASK", 4)
    monkeypatch.setattr(pixels, "CHUNK", 8)


@pytest.fixture
def source(tmp_path, write_images):
    return write_images(tmp_path / "source", NAMES)


def decode(source, folder, *, names=NAMES, identity="one", max_broken=5):
    return decode_once(
        source,
        names,
        folder,
        identity=identity,
        pixel_size=32,
        aspect="squash",
        window="voi",
        max_broken=max_broken,
        show=False,
    )


def test_every_row_is_its_image(source, tmp_path):
    assert decode(source, tmp_path / "work") == {}
    actual = np.load(tmp_path / "work" / "pixels.npy")
    for row in (0, 7, 8, 49):
        np.testing.assert_array_equal(actual[row], read_image(source / NAMES[row], 32))


def test_broken_rows_are_named_and_dropped(source, tmp_path):
    (source / NAMES[3]).write_bytes(b"")
    (source / NAMES[20]).write_text("not an image")
    broken = decode(source, tmp_path / "work")
    assert broken == {3: "zero bytes", 20: "not an image (text file?)"}
    kept = np.setdiff1d(np.arange(50), [3, 20])
    keep_rows(tmp_path / "work", kept)
    actual = np.load(tmp_path / "work" / "pixels.npy")
    assert actual.shape == (48, 32, 32)
    np.testing.assert_array_equal(actual[3], read_image(source / NAMES[4], 32))
    np.testing.assert_array_equal(actual[47], read_image(source / NAMES[49], 32))
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["journal.jsonl", "pixels.npy"]


def test_too_many_broken_files_stop_early_and_the_first_five_are_named(source, tmp_path):
    for name in NAMES[1:8]:
        (source / name).write_bytes(b"")
    with pytest.raises(BadInput) as caught:
        decode(source, tmp_path / "work")
    text = str(caught.value)
    assert "at most 5 broken images of 50, found 7 among the first 8" in text
    assert text.count("zero bytes") == 5
    assert "001.png: zero bytes" in text
    assert "and 2 more" in text


def test_an_interrupted_call_goes_on_after_its_last_whole_chunk(source, tmp_path, monkeypatch):
    (source / NAMES[2]).write_bytes(b"")
    read, seen = read_image, []

    def fail_late(path, *args, **kwargs):
        seen.append(path.name)
        if path.name == NAMES[30]:
            raise KeyboardInterrupt
        return read(path, *args, **kwargs)

    monkeypatch.setattr(pixels, "read_image", fail_late)
    with pytest.raises(KeyboardInterrupt):
        decode(source, tmp_path / "work")
    with open(tmp_path / "work" / "journal.jsonl", "a") as journal:
        journal.write('{"rows": 3')  # a line torn by the kill

    seen.clear()
    monkeypatch.setattr(pixels, "read_image", lambda p, *a, **k: (seen.append(p.name), read(p, *a, **k))[1])
    assert decode(source, tmp_path / "work") == {2: "zero bytes"}
    assert sorted(seen) == NAMES[24:]
    assert decode(source, tmp_path / "whole") == {2: "zero bytes"}
    for name in ("pixels.npy", "journal.jsonl"):
        assert (tmp_path / "work" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("damage", ["identity", "rows", "journal", "pixels"])
def test_a_working_folder_of_something_else_is_started_anew(source, tmp_path, damage):
    work = tmp_path / "work"
    decode(source, work)
    np.lib.format.open_memmap(work / "pixels.npy", mode="r+")[:] = 0
    names = NAMES[:40] if damage == "rows" else NAMES
    if damage == "journal":
        (work / "journal.jsonl").write_text("rubbish\n")
    elif damage == "pixels":
        (work / "pixels.npy").write_bytes(b"")
    decode(source, work, names=names, identity="two" if damage == "identity" else "one")
    actual = np.load(work / "pixels.npy")
    assert len(actual) == len(names)
    np.testing.assert_array_equal(actual[5], read_image(source / NAMES[5], 32))
    assert json.loads((work / "journal.jsonl").read_text().splitlines()[-1])["rows"] == len(names)


def test_a_disk_too_full_to_drop_broken_rows_is_told(source, tmp_path, monkeypatch):
    decode(source, tmp_path / "work")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(BadInput, match="of free disk"):
        keep_rows(tmp_path / "work", np.arange(49))


def test_a_disk_too_small_is_told_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(BadInput, match=r"expected 1\.0 MiB of free disk, found 0\.0 MiB"):
        decode(source, tmp_path / "work")
    assert not (tmp_path / "work" / "pixels.npy").exists()


@pytest.mark.parametrize(("kind", "top", "faint"), [("u1", 15, 50), ("u1", 255, 0), ("u2", 4095, 50), ("u2", 65535, 0)])
def test_images_within_few_gray_levels_are_told(kind, top, faint):
    images = np.linspace(0, top, 50 * 64 * 64).reshape(64, 64, 50).transpose(2, 0, 1).astype(kind)
    said = faint_notes(images)
    assert (f"{faint} images lie within" in said[0]) if faint else not said
    assert not faint or "500 images among 500 looked at" in faint_notes(np.repeat(images, 20, axis=0))[0]


def test_reports_beside_radiographs_are_named_and_count_as_no_damage(source, tmp_path):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, BasicTextSRStorage, ExplicitVRLittleEndian

    for name in NAMES[:4]:
        report = Dataset()
        report.file_meta = FileMetaDataset()
        report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = BasicTextSRStorage
        report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID = UID("1.2.3")
        report.PatientID = "1"
        report.save_as(source / name, enforce_file_format=True)
    broken = decode(source, tmp_path / "work", max_broken=0)
    assert broken == dict.fromkeys(range(4), "a DICOM file without an image")
    (source / NAMES[9]).write_bytes(b"")
    with pytest.raises(BadInput, match="1 among the first"):
        decode(source, tmp_path / "again", max_broken=0)
