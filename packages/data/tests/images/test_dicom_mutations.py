"""Thousands of damaged DICOM files: each is read or set aside with a reason, quickly, and nothing is printed."""

import io
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from cxr_data.images.dicom import dicom_facts, rows_and_columns
from cxr_data.images.header import BrokenImage, claimed_size
from cxr_data.images.read import full_digest, read_image
from cxr_data.readers import patients

SLOWEST = 2.0
EVERY = 12
"""Mutations of each seed in the default tests; the slow test has forty times as many."""


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(0, 4096, (64, 56)).astype(np.float32), (0, 0), 3).astype(np.uint16)


def dataset(bits: int) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SOPClassUID, made.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.1"), UID("1.2.3.4")
    made.PatientName, made.PatientID, made.PatientSex, made.PatientAge = "Doe^Jane", "P1", "F", "044Y"
    made.ViewPosition = "PA"
    made.Rows, made.Columns, made.SamplesPerPixel = 64, 56, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated, made.BitsStored = (8, 8) if bits == 8 else (16, 12)
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, 0
    made.PixelPaddingValue = 0
    made.RescaleSlope, made.RescaleIntercept, made.WindowCenter, made.WindowWidth = "1", "0", "2000", "1500"
    if bits == 8:
        made.WindowCenter, made.WindowWidth = "128", "200"
    item = Dataset()
    item.ReferencedSOPInstanceUID = UID("1.2.3")
    made.ReferencedImageSequence = Sequence([item])
    return made


def written(made: Dataset, syntax: UID, pixels: bytes) -> bytes:
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = pixels
    made["PixelData"].VR = "OW" if syntax.is_implicit_VR or not syntax.is_encapsulated else "OB"
    file = io.BytesIO()
    implicit = syntax.is_implicit_VR
    made.save_as(file, implicit_vr=implicit, little_endian=syntax.is_little_endian, enforce_file_format=True)
    return file.getvalue()


def compressed(codec: str, syntax: UID, **options: object) -> bytes:
    eight = codec == "JPEG"
    values = (picture() >> 4).astype(np.uint8) if eight else picture()
    file = io.BytesIO()
    Image.fromarray(values).save(file, codec, **options)
    return written(dataset(8 if eight else 12), syntax, encapsulate([file.getvalue()]))


def by_pydicom(syntax: UID) -> bytes:
    made = dataset(12)
    written(made, ExplicitVRLittleEndian, picture().tobytes())
    made.compress(syntax, picture(), encoding_plugin="pydicom" if syntax == RLELossless else "pyjpegls")
    return written(made, syntax, made.PixelData)


def with_tables() -> bytes:
    made = dataset(12)
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        table = Dataset()
        table.LUTDescriptor = [4096, 0, 12]
        table.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
        setattr(made, keyword, Sequence([table]))
    return written(made, ExplicitVRLittleEndian, picture().tobytes())


def seeds() -> dict[str, bytes]:
    native = picture().tobytes()
    explicit = written(dataset(12), ExplicitVRLittleEndian, native)
    return {
        "explicit": explicit,
        "implicit": written(dataset(12), ImplicitVRLittleEndian, native),
        "big endian": written(dataset(12), ExplicitVRBigEndian, picture().astype(">u2").tobytes()),
        "deflated": written(dataset(12), DeflatedExplicitVRLittleEndian, native),
        "without preamble": explicit[132:],
        "without meta": explicit[explicit.index(b"\x08\x00\x05\x00CS") :],
        "tables": with_tables(),
        "JPEG": compressed("JPEG", JPEGBaseline8Bit, quality=90),
        "JPEG 2000": compressed("JPEG2000", JPEG2000Lossless, no_jp2=True),
        "RLE": by_pydicom(RLELossless),
        "JPEG-LS": by_pydicom(JPEGLSLossless),
    }


def cut(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(1, len(data)))]


def bits(rng: np.random.Generator, data: bytes) -> bytes:
    """A few bits of the header flipped."""
    actual = bytearray(data)
    for at in rng.integers(0, min(len(data), 1500), int(rng.integers(1, 6))):
        actual[at] ^= 1 << int(rng.integers(8))
    return bytes(actual)


def overwritten(rng: np.random.Generator, data: bytes) -> bytes:
    length = int(rng.integers(1, 200))
    at = int(rng.integers(0, max(1, len(data) - length)))
    fill = bytes([int(rng.choice([0, 0x20, 0x7F, 0xFF]))]) * length if rng.random() < 0.5 else rng.bytes(length)
    return data[:at] + fill + data[at + length :]


def value_representation(rng: np.random.Generator, data: bytes) -> bytes:
    """One element with another VR, or one that does not exist."""
    at = [i for i in range(132, min(len(data) - 8, 1500)) if data[i + 4 : i + 6].isalpha() and data[i + 1] == 0]
    if not at:
        return bits(rng, data)
    place = int(rng.choice(at)) + 4
    vr = [b"XX", b"SQ", b"OB", b"UN", b"US", b"DS", b"FD", b"AT", b"UI", b"PN", b"\0\0"][int(rng.integers(11))]
    return data[:place] + vr + data[place + 2 :]


def length_field(rng: np.random.Generator, data: bytes) -> bytes:
    place = int(rng.integers(0, min(len(data) - 4, 1500)))
    return data[:place] + rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\xff\x7f"]) + data[place + 4 :]


def spliced(rng: np.random.Generator, data: bytes) -> bytes:
    """A piece left out, or written twice."""
    start, stop = sorted(int(at) for at in rng.integers(0, len(data), 2))
    return data[:start] + data[stop:] if rng.random() < 0.5 else data[:stop] + data[start:]


def nested(rng: np.random.Generator, data: bytes) -> bytes:
    """Sequences within sequences, deeper than any parser follows."""
    at = data.find(b"\x08\x00\x05\x00")
    at = 132 if at < 0 else at
    return data[:at] + (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 2000) + data[at:]


MUTATIONS: list[Callable[[np.random.Generator, bytes], bytes]] = [
    *(cut, bits, bits, overwritten, overwritten, value_representation, value_representation, length_field),
    *(spliced, nested),
]


def try_every_way(path: Path, root: Path) -> None:
    """Everything that touches a DICOM file's header or pixels; only BrokenImage may come out of it."""
    reasons = []
    for window in ("voi", "full"):
        try:
            assert read_image(path, 32, window=window).shape == (32, 32)
        except BrokenImage as error:
            reasons.append(str(error))
    assert "Doe" not in "".join(reasons)  # a reason holds nothing of the header's text
    with suppress(BrokenImage):
        full_digest(path)
    assert set(dicom_facts(path, b"salt")) == {"patient", "number", "study", "projection", "sex", "age"}
    rows_and_columns(path)
    claimed_size(path)
    patients.facts(root, [path.name])


def run(count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], generator: int) -> None:
    path = tmp_path / "a.dcm"
    slow: list[tuple[str, float]] = []
    for name, data in seeds().items():
        rng = np.random.default_rng([generator, len(name), *name.encode()])
        for number in range(count):
            mutate = MUTATIONS[number % len(MUTATIONS)]
            mutated = mutate(rng, data)
            path.write_bytes(mutated)
            start = time.process_time()
            try:
                try_every_way(path, tmp_path)
            except Exception as error:
                error.add_note(f"mutation {number} ({mutate.__name__}) of the seed {name!r}")
                raise
            took = time.process_time() - start
            if took > SLOWEST:
                slow.append((f"{name}, {mutate.__name__} {number}", took))
    assert not slow
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", seeds())
def test_the_seeds_are_read(name, tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(seeds()[name])
    actual = read_image(path, 56).astype(float)
    expected = cv2.resize(picture().astype(np.float32), (56, 56), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(actual.ravel(), np.clip(expected, 1250, 2750).ravel())[0, 1] > 0.99
    facts = dicom_facts(path, b"salt")
    assert (facts["sex"], facts["age"], facts["projection"]) == ("F", 44, "PA")
    other = tmp_path / "other.dcm"
    other.write_bytes(seeds()["explicit"])
    assert facts["patient"] == dicom_facts(other, b"salt")["patient"] is not None
    assert rows_and_columns(path) == (64, 56)


def test_mutations_are_read_or_set_aside(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    run(EVERY, tmp_path, capfd, 1)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_thousands_of_mutations_are_read_or_set_aside(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    run(40 * EVERY, tmp_path, capfd, 2)
