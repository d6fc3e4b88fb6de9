"""DICOM files as they are found: with and without preamble, meta and transfer syntax, in every byte order and name."""

import gzip
import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from cxr_data import prepare
from cxr_data.images.dicom import decode_dicom, dicom_facts, rows_and_columns
from cxr_data.images.elements import is_dicom
from cxr_data.images.header import NO_IMAGE, BrokenImage, claimed_size, inspect

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.integers(0, 60_000, (48, 40)).astype(np.float32), (0, 0), 2).astype(np.uint16)


def dicom(syntax: UID, *, patient: str = "P1", seed: int = 0, first: str = "SpecificCharacterSet") -> bytes:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    # Which of these is the first element is what a file without meta begins with.
    begins = ["SpecificCharacterSet", "ImageType", "SOPClassUID", "Modality"]
    values = ["ISO_IR 100", ["ORIGINAL", "PRIMARY"], "1.2.840.10008.5.1.4.1.1.1", "CR"]
    for name, value in list(zip(begins, values, strict=True))[begins.index(first) :]:
        setattr(made, name, value)
    made.PatientID, made.PatientSex, made.ViewPosition = patient, "F", "PA"
    made.Rows, made.Columns, made.SamplesPerPixel = 48, 40, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    made.PixelData = picture(seed).astype("<u2" if syntax.is_little_endian else ">u2").tobytes()
    made["PixelData"].VR = "OW"
    file = io.BytesIO()
    made.save_as(
        file, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, enforce_file_format=True
    )
    return file.getvalue()


def meta_length(data: bytes) -> int:
    return 144 + int.from_bytes(data[140:144], "little")


def without_syntax(data: bytes) -> bytes:
    """The element of the transfer syntax left out of the meta information, whose group length then lies."""
    at = data.index(b"\x02\x00\x10\x00UI")
    return data[:at] + data[at + 8 + int.from_bytes(data[at + 6 : at + 8], "little") :]


VARIANTS = {
    "whole": lambda data: data,
    "no preamble": lambda data: data[132:],
    "no preamble before its mark": lambda data: data[128:],
    "no meta": lambda data: data[meta_length(data) :],
    "preamble, no meta": lambda data: data[:132] + data[meta_length(data) :],
    "no group length": lambda data: data[:132] + data[144:],
    "no transfer syntax": without_syntax,
    "another transfer syntax": lambda data: data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4\0"),
    "noise before": lambda data: np.random.default_rng(0).bytes(128) + data[128:],
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_header_and_pixels_are_read_from_every_variant(syntax, variant, tmp_path):
    data = VARIANTS[variant](dicom(SYNTAXES[syntax]))
    path, usual = tmp_path / "a.dcm", tmp_path / "usual.dcm"
    path.write_bytes(data)
    usual.write_bytes(dicom(ExplicitVRLittleEndian))
    if syntax == "deflated" and variant in ("no meta", "preamble, no meta", "no transfer syntax"):
        with pytest.raises(BrokenImage):  # nothing says that it is deflated
            decode_dicom(data, "voi")
        return
    assert inspect(data).kind == "DICOM"
    np.testing.assert_allclose(decode_dicom(data, "full"), picture() / 65535, atol=1e-6)
    assert dicom_facts(path, b"salt") == dicom_facts(usual, b"salt")
    assert dicom_facts(path, b"salt")["patient"]
    assert rows_and_columns(path) == (48, 40)
    assert claimed_size(path) == ("DICOM", 40, 48)


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian"])
@pytest.mark.parametrize("first", ["SpecificCharacterSet", "ImageType", "SOPClassUID", "Modality"])
def test_files_without_meta_may_begin_with_any_element_of_group_8(first, syntax, tmp_path):
    data = VARIANTS["no meta"](dicom(SYNTAXES[syntax], first=first))
    (tmp_path / "a").write_bytes(data)
    assert inspect(data).kind == "DICOM"
    np.testing.assert_allclose(decode_dicom(data, "full"), picture() / 65535, atol=1e-6)
    assert dicom_facts(tmp_path / "a", b"salt")["patient"]


def test_a_file_that_fits_no_uncompressed_syntax_says_so():
    data = without_syntax(dicom(ExplicitVRLittleEndian))
    with pytest.raises(BrokenImage, match="names no transfer syntax"):
        decode_dicom(data[:-100], "voi")


@pytest.mark.parametrize("header", [zlib.MAX_WBITS, 16 + zlib.MAX_WBITS], ids=["zlib", "gzip"])
def test_a_deflated_data_set_may_have_a_header_of_zlib_or_gzip(header, tmp_path):
    data = dicom(DeflatedExplicitVRLittleEndian)
    start = meta_length(data)
    pack = zlib.compressobj(wbits=header)
    (tmp_path / "a.dcm").write_bytes(
        data[:start] + pack.compress(zlib.decompress(data[start:], -zlib.MAX_WBITS)) + pack.flush()
    )
    np.testing.assert_allclose(decode_dicom((tmp_path / "a.dcm").read_bytes(), "full"), picture() / 65535, atol=1e-6)
    assert dicom_facts(tmp_path / "a.dcm", b"salt")["patient"]


@pytest.mark.parametrize("meta", [False, True])
def test_implicit_big_endian_files_of_old_are_read(meta, tmp_path):
    made = dcmread(io.BytesIO(dicom(ExplicitVRBigEndian)))
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = True, False
    write_dataset(file, Dataset(made))
    data = file.getvalue()
    if meta:
        usual = dicom(ImplicitVRLittleEndian)
        data = usual[: meta_length(usual)] + data
    (tmp_path / "a").write_bytes(data)
    assert inspect(data).kind == "DICOM"
    np.testing.assert_allclose(decode_dicom(data, "full"), picture() / 65535, atol=1e-6)
    (tmp_path / "usual").write_bytes(dicom(ExplicitVRLittleEndian))
    assert dicom_facts(tmp_path / "a", b"salt") == dicom_facts(tmp_path / "usual", b"salt")


@pytest.mark.parametrize("table", [b"", bytes(4)])
def test_pixels_may_lie_uncompressed_in_a_fragment(table):
    made = dcmread(io.BytesIO(dicom(ExplicitVRLittleEndian)))
    made.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.98")
    fragments = [b"\xfe\xff\0\xe0" + len(part).to_bytes(4, "little") + part for part in (table, made.PixelData)]
    made.PixelData = b"".join(fragments)
    made["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    np.testing.assert_allclose(decode_dicom(file.getvalue(), "full"), picture() / 65535, atol=1e-6)


def test_directories_and_pixels_on_a_server_are_told_from_damage():
    made = dcmread(io.BytesIO(dicom(ExplicitVRLittleEndian)))
    del made.PixelData
    made.PixelDataProviderURL = "https://example.org/1"
    file = io.BytesIO()
    made.save_as(file)
    with pytest.raises(BrokenImage, match="kept on a server"):
        decode_dicom(file.getvalue(), "voi")
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
    directory.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    directory.DirectoryRecordSequence = []
    file = io.BytesIO()
    directory.save_as(file, enforce_file_format=True)
    with pytest.raises(BrokenImage) as caught:
        decode_dicom(file.getvalue(), "voi")
    assert str(caught.value) == NO_IMAGE  # which does not count as broken


def with_patient(number: bytes, characters: bytes, issuer: bytes = b"") -> bytes:
    """The file of a patient whose number is these bytes."""
    data = dicom(ExplicitVRLittleEndian, patient="AB")
    written = {"0800 0500 4353": characters, "1000 2000 4c4f": number, "1000 2100 4c4f": issuer}
    found, body = b"", data[meta_length(data) :]
    for tag, value in written.items():
        value += b" " * (len(value) % 2)
        element = bytes.fromhex(tag) + len(value).to_bytes(2, "little") + value
        at = body.find(bytes.fromhex(tag))
        end = at if at < 0 else at + 8 + int.from_bytes(body[at + 6 : at + 8], "little")
        before = body[:at] if at >= 0 else b""
        found += before + element
        body = body[end:] if at >= 0 else body
    return data[: meta_length(data)] + found + body


MUELLER, YAMADA = "M\u00fcller 1", "\u5c71\u7530 1"


@pytest.mark.parametrize(
    "spellings",
    [
        [
            (b"P1", b"ISO_IR 100"),
            (b" p1\0", b""),
            (b"P1\0\0rest", b"ISO_IR 192"),
            (b"\0P1 ", b"?"),
            (b"P1\\", b""),
        ],
        [(b"0012", b"ISO_IR 6"), (b"12", b""), (b"12.0 ", b""), ("\uff11\uff12".encode(), b"ISO_IR 192")],
        [
            *((MUELLER.encode(), name) for name in (b"ISO_IR 192", b"ISO_IR 100", b"", b"nonsense")),
            *((MUELLER.encode("latin-1"), name) for name in (b"ISO_IR 100", b"ISO_IR 101", b"ISO_IR 192")),
            ("Mu\u0308ller 1".encode(), b"ISO_IR 192"),
        ],
        [
            (YAMADA.encode(), b"ISO_IR 192"),
            (YAMADA.encode("gb18030"), b"GB18030"),
            (b"\x1b$B" + YAMADA[:2].encode("iso2022_jp")[3:-3] + b"\x1b(B 1", b"\\ISO 2022 IR 87"),
        ],
    ],
)
@pytest.mark.parametrize("issuer", [b"", b"Hospital"])
def test_a_patient_is_one_however_the_number_is_encoded_and_padded(spellings, issuer, tmp_path):
    found = []
    for number, characters in spellings:
        (tmp_path / "a.dcm").write_bytes(with_patient(number, characters, issuer))
        found.append(dicom_facts(tmp_path / "a.dcm", b"salt")["patient"])
    assert found[0]
    assert found == found[:1] * len(found)


def out_of_order(syntax: str, compressed: bool) -> bytes:
    """A file whose patient and window come after its pixels."""
    usual = dcmread(io.BytesIO(dicom(SYNTAXES[syntax])))
    order = "little" if usual.file_meta.TransferSyntaxUID.is_little_endian else "big"
    late = Dataset()
    late.PatientID, late.WindowCenter, late.WindowWidth = "P1", "20000", "30000"
    del usual.PatientID
    if compressed:
        usual.file_meta.TransferSyntaxUID = JPEG2000Lossless
        file = io.BytesIO()
        Image.fromarray(picture()).save(file, "JPEG2000", no_jp2=True)
        usual.PixelData = encapsulate([file.getvalue()])
        usual["PixelData"].is_undefined_length = True
    parts = [io.BytesIO(), DicomBytesIO()]
    parts[1].is_implicit_VR, parts[1].is_little_endian = implicit, little = syntax == "implicit", order == "little"
    dcmwrite(parts[0], usual, implicit_vr=implicit, little_endian=little, force_encoding=True)
    write_dataset(parts[1], late)
    return parts[0].getvalue() + parts[1].getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian"])
def test_what_comes_after_the_pixels_is_read_too(syntax, compressed, tmp_path):
    data = out_of_order(syntax, compressed and syntax != "big endian")
    (tmp_path / "late.dcm").write_bytes(data)
    (tmp_path / "packed.dcm.gz").write_bytes(gzip.compress(data))
    (tmp_path / "usual.dcm").write_bytes(dicom(ExplicitVRLittleEndian))
    late, packed, usual = (dicom_facts(path, b"salt")["patient"] for path in sorted(tmp_path.iterdir()))
    assert late == packed == usual
    shown = np.clip((picture() - 19999.5) / 29999 + 0.5, 0, 1)
    np.testing.assert_allclose(decode_dicom(data, "voi"), shown, atol=1e-4)


TWICE = {
    "PatientID": b"\x10\0\x20\0LO\2\0P2",
    "PhotometricInterpretation": b"\x28\0\4\0CS\x0c\0MONOCHROME1 ",
    "its mark": dicom(ExplicitVRLittleEndian, patient="P2"),
}


@pytest.mark.parametrize("named", TWICE)
def test_a_file_that_says_two_things_is_refused_and_of_nobody(named, tmp_path):
    data = dicom(ExplicitVRLittleEndian) + TWICE[named]
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(BrokenImage, match=f"one that gives {named} twice"):
        decode_dicom(data, "voi")
    assert dicom_facts(tmp_path / "a.dcm", b"salt")["patient"] is None


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0abcd"])
@pytest.mark.parametrize("times", [1, 8, 100])
def test_filling_after_the_data_set_is_nothing(fill, times):
    data = dicom(ExplicitVRLittleEndian)
    np.testing.assert_array_equal(decode_dicom(data + fill * times, "voi"), decode_dicom(data, "voi"))


@pytest.mark.parametrize("number", [b"", b"  ", b"\0\0", b"\\"])
def test_a_blank_number_is_nobody(number, tmp_path):
    (tmp_path / "a.dcm").write_bytes(with_patient(number, b""))
    assert dicom_facts(tmp_path / "a.dcm", b"salt")["patient"] is None


@pytest.mark.parametrize("vr", [b"XX", b"UN", b"OB", b"DS", b"US", b"SQ", b"\0\0", b"FD", b"AT"])
def test_a_patient_is_read_or_nobody_whatever_the_vr(vr, tmp_path):
    data = dicom(ExplicitVRLittleEndian, patient="1234")
    at = data.index(b"\x10\x00\x20\x00LO") + 4
    (tmp_path / "a.dcm").write_bytes(data[:at] + vr + data[at + 2 :])
    (tmp_path / "b.dcm").write_bytes(data)
    actual = dicom_facts(tmp_path / "a.dcm", b"salt")["patient"]
    usual = dicom_facts(tmp_path / "b.dcm", b"salt")["patient"]
    if vr in (b"XX", b"DS"):
        assert actual == usual
    else:
        assert actual is None or actual.startswith("p")


def test_a_deflated_data_set_that_is_damaged_or_huge_is_refused(monkeypatch):
    import cxr_data.images.dicom_file as file

    data = dicom(DeflatedExplicitVRLittleEndian)
    start = meta_length(data)
    for damaged in (data[: start + 500], data[:start] + b"\xff" * 50 + data[start + 50 :], data[: start + 3]):
        with pytest.raises(BrokenImage, match="deflated data set"):
            decode_dicom(damaged, "voi")
    monkeypatch.setattr(file, "MAX_INFLATED", 1000)
    with pytest.raises(BrokenImage, match="a deflated DICOM file of more than"):
        decode_dicom(data, "voi")


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\x08\x00",
        b"\x02\x00\x00\x00",
        bytes(600),
        b"\x08\x00\x05\x00" + bytes(100),
        b"\xff\xd8\xff\xe0" + bytes(200),
    ],
)
def test_other_files_are_no_dicom(start):
    assert not is_dicom(start)


@pytest.mark.parametrize("variant", ["whole", "no preamble", "no meta", "no transfer syntax"])
def test_patients_of_files_under_any_name_stay_in_one_split(variant, tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(60):
        data = VARIANTS[variant](dicom(list(SYNTAXES.values())[i % 2], patient=f"PAT{i // 4}", seed=i))
        suffix = (".dcm", ".png", ".jpg", "", ".dicom", ".tif", ".123")[i % 7]
        (folder / f"image{i:03d}{suffix}").write_bytes(data)
    cohort = prepare(folder, tmp_path / "cohort", pixel_size=32, show=False)
    assert len(cohort) == 60
    assert not cohort.broken
    table = cohort.table
    assert table["patient"].n_unique() == 15
    assert all(len(set(splits)) == 1 for splits in table.group_by("patient").agg("split")["split"].to_list())
