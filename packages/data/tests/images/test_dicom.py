import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from cxr_data.images.dicom import age_in_years, decode_dicom, dicom_facts, patient_salt
from cxr_data.images.header import BrokenImage
from cxr_data.images.read import read_image

RAMP = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (64, 1))  # 12 bits, 64 x 64


def dicom(stored: np.ndarray = RAMP, *, bits: int = 12, **tags: Any) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 * stored.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def linear(x: np.ndarray, center: float, width: float) -> np.ndarray:
    """DICOM PS3.3 C.11.2.1.2.1, written as the standard's pseudo-code."""
    y = ((x - (center - 0.5)) / (width - 1) + 0.5) * 1.0
    y[x <= center - 0.5 - (width - 1) / 2] = 0
    y[x > center - 0.5 + (width - 1) / 2] = 1
    return y


def test_the_window_of_the_file_is_applied_after_the_rescale():
    shown = decode_dicom(
        dicom(RescaleSlope="0.5", RescaleIntercept="-100", WindowCenter=["700", "1"], WindowWidth=["801", "2"]), "voi"
    )
    np.testing.assert_allclose(shown, linear(RAMP * 0.5 - 100, 700, 801), atol=1e-6)


def test_linear_exact_and_sigmoid_windows():
    window: dict[str, Any] = {"WindowCenter": "2000", "WindowWidth": "1000"}
    exact = decode_dicom(dicom(VOILUTFunction="LINEAR_EXACT", **window), "voi")
    np.testing.assert_allclose(exact, np.clip((RAMP - 2000.0) / 1000 + 0.5, 0, 1), atol=1e-6)
    sigmoid = decode_dicom(dicom(VOILUTFunction="SIGMOID", **window), "voi")
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-4 * (RAMP - 2000.0) / 1000)), atol=1e-6)


def test_a_voi_table_is_looked_up():
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 12]
    table.add_new("LUTData", "US", (4095 - np.arange(4096)).tolist())
    shown = decode_dicom(dicom(VOILUTSequence=Sequence([table])), "voi")
    np.testing.assert_allclose(shown, (4095 - RAMP) / 4095, atol=1e-6)


def test_without_a_window_the_stored_range_is_shown():
    low = (RAMP // 4).astype(np.uint16)
    np.testing.assert_allclose(decode_dicom(dicom(low), "full"), low / 4095, atol=1e-6)
    np.testing.assert_allclose(decode_dicom(dicom(low), "voi"), low / low.max(), atol=1e-6)
    eight = (RAMP // 32).astype(np.uint8)
    np.testing.assert_allclose(decode_dicom(dicom(eight, bits=8), "voi"), eight / 255, atol=1e-6)
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    np.testing.assert_allclose(decode_dicom(dicom(signed), "full"), RAMP / 4095, atol=1e-6)


def test_monochrome1_is_inverted_and_padding_is_black():
    inverted = decode_dicom(dicom(PhotometricInterpretation="MONOCHROME1"), "full")
    np.testing.assert_allclose(inverted, 1 - RAMP / 4095, atol=1e-6)
    padded = RAMP.copy()
    padded[:8] = 4000
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 4000}
    shown = decode_dicom(dicom(padded, **tags), "voi")
    assert shown[:8].max() == 0
    assert shown[8:].max() == 1
    # Ramp values go up to 4032: padding is not part of the range, so the darkest tissue is exactly 0.
    np.testing.assert_allclose(shown[8:], 1 - RAMP[8:] / 4032, atol=1e-6)


def test_colour_becomes_luma():
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[:16, :, 2] = 200, 100, 50
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    shown = decode_dicom(dicom(rgb, bits=8, **tags), "voi")
    assert shown[0, 0] * 255 == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=0.01)


def test_read_image_rounds_to_bytes(tmp_path):
    file = tmp_path / "no suffix"
    file.write_bytes(dicom())
    np.testing.assert_array_equal(read_image(file, 64, window="full"), np.rint(RAMP * (255 / 4095)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (dicom(NumberOfFrames="3"), "a DICOM file of 3 frames; one radiograph was expected"),
        (dicom(Rows=40_000, Columns=40_000), "40000 x 40000 pixels, more than the 100 million allowed"),
        (dicom()[:132], "truncated DICOM: it ends within its header or compressed pixels"),
        (dicom()[:300], "truncated DICOM: it ends within its header or compressed pixels"),
        (dicom()[:400], "a DICOM file without an image: its pixels are missing"),
        (dicom()[:-500], "damaged DICOM: "),
    ],
)
def test_a_broken_dicom_says_why(data, reason):
    with pytest.raises(BrokenImage) as caught:
        decode_dicom(data, "voi")
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("tag", ["RescaleSlope", "WindowCenter", "Rows", "BitsStored"])
def test_what_is_said_of_a_broken_dicom_holds_no_text_of_its_header(tag):
    data = bytearray(dicom(RescaleSlope="1.5", RescaleIntercept="0", WindowCenter="12.5", WindowWidth="40"))
    number = {"RescaleSlope": (0x28, 0x1053), "WindowCenter": (0x28, 0x1050), "Rows": (0x28, 0x10)}
    group, element = number.get(tag, (0x28, 0x101))
    at = data.index(struct.pack("<HH", group, element))
    length = struct.unpack_from("<H", data, at + 6)[0]
    data[at : at + 8 + length] = struct.pack("<HH2sH", group, element, b"DS", 8) + b"DOE^JOHN"
    with pytest.raises(BrokenImage) as caught:
        decode_dicom(bytes(data), "voi")
    assert "DOE" not in str(caught.value)
    assert str(caught.value).startswith("damaged DICOM: its ")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("slope", ["1e300", "nan", "inf"])
def test_a_rescale_beyond_all_numbers_is_named_without_a_warning(slope):
    data = dicom(RescaleSlope="12345", RescaleIntercept="0")
    with pytest.raises(BrokenImage, match="values that are not numbers"):
        decode_dicom(data.replace(b"12345 ", f"{slope:<6}".encode()), "voi")


@pytest.mark.filterwarnings("error")
def test_a_window_that_is_no_number_is_passed_over():
    data = dicom(WindowCenter="12345", WindowWidth="100").replace(b"12345 ", b"nan   ")
    np.testing.assert_allclose(decode_dicom(data, "voi"), RAMP / RAMP.max(), atol=1e-6)


def test_patients_are_salted_hashes(tmp_path):
    one, other = tmp_path / "a.dcm", tmp_path / "b.dcm"
    one.write_bytes(dicom(PatientID="Mustermann^Max", PatientSex="F", PatientAge="042Y", ViewPosition="PA"))
    other.write_bytes(dicom(PatientID="Mustermann^Max"))
    first = dicom_facts(one, b"salt one")
    other.write_bytes(dicom(PatientID="MUSTERMANN^max "))
    assert first["patient"] == dicom_facts(other, b"salt one")["patient"]
    assert first["patient"] != dicom_facts(other, b"salt two")["patient"]
    assert "Muster" not in first["patient"]
    assert (first["sex"], first["age"], first["projection"]) == ("F", 42.0, "PA")
    for number in ("12", "0012", " 12 ", "１２", "12\0"):
        other.write_bytes(dicom(SpecificCharacterSet="ISO_IR 192", PatientID=number))
        one.write_bytes(dicom(PatientID="12", IssuerOfPatientID="Hospital"))
        told, known = dicom_facts(other, b"salt one"), dicom_facts(one, b"salt one")
        assert told["patient"] == told["number"] == known["number"] != known["patient"], number
    other.write_bytes(dicom())
    assert dicom_facts(other, b"salt one")["patient"] is None
    other.write_bytes(b"no DICOM at all")
    assert dicom_facts(other, b"salt one")["patient"] is None


def test_the_salt_is_made_once_and_private(tmp_path: Path):
    salt = patient_salt(tmp_path / "cache")
    assert len(salt) == 32
    assert patient_salt(tmp_path / "cache") == salt != patient_salt(tmp_path / "other")
    assert (tmp_path / "cache" / "patient-salt").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *(("045Y", 45), ("006M", 0.5), ("58", 58), ("58.0", 58), ("414Y", None), ("", None), (None, None)),
        *(("45 years", 45), ("30,5", 30.5), ("6 months", 0.5), ("45 yrs.", 45), ("0", 0), (0, 0), ("1e400", None)),
        ("old", None),
    ],
)
def test_ages(text, years):
    assert age_in_years(text) == years


@pytest.mark.parametrize("groups", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_functional_groups_say_how_an_enhanced_image_is_shown(groups):
    window, rescale, group = Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = "700", "801"
    rescale.RescaleSlope, rescale.RescaleIntercept = "-0.5", "1900"
    group.FrameVOILUTSequence, group.PixelValueTransformationSequence = Sequence([window]), Sequence([rescale])
    tags: dict[str, Any] = {groups: Sequence([group])}
    shown = decode_dicom(dicom(NumberOfFrames="1", **tags), "voi")
    np.testing.assert_allclose(shown, linear(RAMP * -0.5 + 1900, 700, 801), atol=1e-6)


@pytest.mark.parametrize(("centers", "widths"), [(["1", "700"], ["0", "801"]), (["", "700"], ["", "801"])])
def test_the_first_window_that_is_one_is_used(centers, widths):
    shown = decode_dicom(dicom(WindowCenter=centers, WindowWidth=widths), "voi")
    np.testing.assert_allclose(shown, linear(RAMP * 1.0, 700, 801), atol=1e-6)


def test_an_intercept_far_from_the_values_costs_no_gray_levels():
    shown = decode_dicom(dicom(RescaleSlope="1", RescaleIntercept="1e9"), "voi")
    np.testing.assert_allclose(shown, RAMP / RAMP.max(), atol=1e-6)
