"""Hundreds of damaged files of every kind among good ones: the good are prepared, each bad one is named with why."""

import io
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from cxr_data import prepare
from cxr_data.errors import BadInput

GOOD, EACH = 60, 14


def picture(rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(rng.integers(0, 256, (64, 56)).astype(np.uint8), (0, 0), 2)


def encoded(rng: np.random.Generator, suffix: str) -> bytes:
    return cv2.imencode(suffix, picture(rng))[1].tobytes()


def dicom(rng: np.random.Generator, **changes) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = changes.pop("syntax", ExplicitVRLittleEndian)
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(rng.integers(1 << 30))])
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 64, 56, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = (picture(rng).astype(np.int16) - 128).tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def nan_dicom(rng: np.random.Generator) -> bytes:
    values = picture(rng).astype(np.float32)
    values[3, int(rng.integers(56))] = np.nan
    return dicom(rng, PixelData=None, FloatPixelData=values.tobytes(), BitsAllocated=32, BitsStored=32, HighBit=31)


def cut(rng: np.random.Generator, data: bytes, least: float = 0.2) -> bytes:
    return data[: int(len(data) * rng.uniform(least, 0.9))]


def bomb(rng: np.random.Generator) -> bytes:
    """A PNG of some kilobytes that claims more pixels than memory holds."""
    edge = int(rng.integers(20_000, 60_000))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", edge, edge, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


def huge_bmp(rng: np.random.Generator) -> bytes:
    data = bytearray(encoded(rng, ".bmp"))
    data[18:26] = struct.pack("<ii", 40_000, -40_000)
    return bytes(data)


DAMAGE: dict[str, tuple[str, Callable[[np.random.Generator], bytes], str]] = {
    "zero": (".png", lambda rng: b"", "zero bytes"),
    "nothing": (".jpg", lambda rng: bytes(int(rng.integers(200, 2000))), "nothing but zero bytes"),
    "cut_jpeg": (".jpg", lambda rng: cut(rng, encoded(rng, ".jpg")), "(truncated|damaged) JPEG"),
    "cut_png": (".png", lambda rng: cut(rng, encoded(rng, ".png")), "truncated PNG"),
    "cut_tiff": (".tif", lambda rng: cut(rng, encoded(rng, ".tiff")), "(truncated|damaged) TIFF"),
    "cut_dicom": (".dcm", lambda rng: cut(rng, dicom(rng), 0.5), "damaged DICOM"),
    "text": (".png", lambda rng: b"patient,label\n" * int(rng.integers(5, 50)), "text file"),
    "page": (".jpeg", lambda rng: b"<!DOCTYPE html><html>404</html>" + bytes(9), "a web page"),
    "archive": (".png", lambda rng: b"PK\x03\x04" + rng.bytes(99), "a zip archive"),
    "pointer": (".dcm", lambda rng: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "gif": (".jpg", lambda rng: b"GIF89a" + rng.bytes(99), "GIF|pixels"),
    "noise": (".bmp", lambda rng: b"\x91" + rng.bytes(500), "not an image of a known kind"),
    "bomb": (".png", bomb, "more than the 100 million"),
    "huge_bmp": (".bmp", huge_bmp, "more than the 100 million"),
    "blank": (
        ".png",
        lambda rng: cv2.imencode(".png", np.full((40, 40), rng.integers(256), np.uint8))[1].tobytes(),
        "blank",
    ),
    "tiny": (
        ".png",
        lambda rng: cv2.imencode(".png", rng.integers(0, 256, (9, 40)).astype(np.uint8))[1].tobytes(),
        "too small",
    ),
    "nan_dicom": (".dcm", nan_dicom, "not numbers"),
    "frames": (".dcm", lambda rng: dicom(rng, NumberOfFrames=int(rng.integers(2, 9))), "frames"),
    "no_pixels": (".dcm", lambda rng: dicom(rng, PixelData=None), "without an image"),
    "huge_dicom": (".dcm", lambda rng: dicom(rng, Rows=30_000, Columns=30_000), "more than the 100 million"),
    "bad_jp2": (".dcm", lambda rng: dicom(rng, syntax=JPEG2000Lossless, PixelData=None), "DICOM"),
}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """60 good images and 300 damaged ones."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(GOOD):
        data = dicom(rng) if i % 5 == 0 else encoded(rng, (".png", ".jpg", ".bmp", ".tiff")[i % 4])
        (folder / f"good_{i:03d}{'.dcm' if i % 5 == 0 else '.png'}").write_bytes(data)
    for name, (suffix, make, _) in DAMAGE.items():
        for i in range(EACH):
            (folder / f"{name}-{i}{suffix}").write_bytes(make(rng))
    (tmp_path / "secret.png").write_bytes(encoded(rng, ".png"))
    for i, target in enumerate(
        [tmp_path / "secret.png", "/etc/passwd", folder / "gone.png", "loop-3.png", "../secret.png"]
    ):
        (folder / f"{'loop' if i == 3 else 'link'}-{i}.png").symlink_to(target)
    (folder / "link-5.png").symlink_to("link-0.png")
    return folder


def test_every_damaged_file_is_named_and_every_good_one_is_prepared(mixed, tmp_path):
    damaged = {file.name for file in mixed.iterdir() if not file.name.startswith("good")}
    assert len(damaged) == 300
    cohort = prepare(mixed, tmp_path / "cohort", pixel_size=32, max_bad=1.0, show=False)
    assert {file for file, _ in cohort.broken} == damaged
    for file, reason in cohort.broken:
        expected = DAMAGE[file.split("-")[0]][2] if "link" not in file and "loop" not in file else "a link that leads"
        assert re.search(expected, reason), (file, reason)
    assert len(cohort) == GOOD
    for file in list(mixed.iterdir()):
        if file.name in damaged:
            file.unlink()
    alone = prepare(mixed, tmp_path / "alone", pixel_size=32, show=False)
    np.testing.assert_array_equal(cohort.pixels, alone.pixels)
    assert cohort.table["image"].to_list() == alone.table["image"].to_list()
    assert "secret" not in (tmp_path / "cohort" / "cohort.json").read_text()


def test_too_many_stop_the_run_and_leave_nothing(mixed, tmp_path):
    with pytest.raises(BadInput, match=r"(?s)at most 3 broken images of 360, found 300.*--max_bad") as stopped:
        prepare(mixed, tmp_path / "cohort", pixel_size=32, show=False)
    assert "and 295 more" in str(stopped.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed", "secret.png"]


def test_manifest_entries_that_leave_the_folder_are_set_aside(two_classes, tmp_path, write_images):
    write_images(tmp_path, ["secret.png"])
    files = sorted(str(path.relative_to(two_classes)) for path in two_classes.rglob("*.png"))
    rows = [f"{file},{file.split('/')[0]}" for file in [*files, "../secret.png", str(tmp_path / "secret.png")]]
    (two_classes / "manifest.csv").write_text("file,class\n" + "\n".join(rows) + "\n")
    cohort = prepare(two_classes, tmp_path / "cohort", pixel_size=32, max_bad=0.05, show=False)
    assert len(cohort) == 60
    reason = "manifest.csv names a file outside the folder"
    assert cohort.broken == (("../secret.png", reason), (str(tmp_path / "secret.png"), reason))
    with pytest.raises(BadInput, match="at most 1 broken images of 62, found 2"):
        prepare(two_classes, tmp_path / "strict", pixel_size=32, show=False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
@pytest.mark.parametrize("flat", [True, False])
def test_a_file_name_that_is_not_utf8_is_named(two_classes, tmp_path, flat):
    folder = two_classes / "NORMAL"
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
        file.write((folder / "patient3_1.png").read_bytes())
    cohort = prepare(folder if flat else two_classes, tmp_path / "cohort", pixel_size=32, show=False)
    assert cohort.broken == (("\\xff.png" if flat else "NORMAL/\\xff.png", "a file name that is not UTF-8"),)
    assert len(cohort) == (30 if flat else 60)


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from cxr_data.cli import main
sys.exit(main(["prepare", sys.argv[1], "--size", "28", "--out", sys.argv[2]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_no_room_to_write_is_one_clear_message(two_classes, tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(two_classes), str(tmp_path / "cohort")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: expected a folder this user may write to, found File too large")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["two classes"]


def test_a_disk_too_small_is_refused_before_anything_is_decoded(two_classes, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(BadInput, match="of free disk"):
        prepare(two_classes, tmp_path / "cohort", pixel_size=32, show=False)
    assert [path.name for path in tmp_path.iterdir()] == ["two classes"]


def test_a_file_that_may_not_be_read_is_named(two_classes, tmp_path, monkeypatch):
    read_bytes = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == "patient3_1.png":  # a test run by root could read any file
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    cohort = prepare(two_classes, tmp_path / "cohort", pixel_size=32, show=False)
    assert cohort.broken == (("NORMAL/patient3_1.png", "cannot be read: Permission denied"),)
