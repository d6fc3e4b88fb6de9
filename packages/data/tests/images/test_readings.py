"""Headers on the order and sign of pixels, which only the picture itself can prove wrong."""

import cv2
import numpy as np
import pytest
from dicom_files import dicom
from pydicom.uid import ExplicitVRBigEndian

from cxr_data.images.dicom import decode_dicom
from cxr_data.images.header import BrokenImage
from cxr_data.images.readings import check_order, check_sign


def alike(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, atol=0.003)


def radiograph(height: int = 96, width: int = 80) -> np.ndarray:
    """Bright and dark parts with noise, in [0, 1]."""
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 9)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.clip(smooth + rng.normal(0, 0.01, smooth.shape), 0, 1)


GRAY = radiograph()
TINTED = np.stack([255 * GRAY, 200 * GRAY + 20, 120 * GRAY + 60], -1).astype(np.uint8)
COLOURS = {"gray": np.repeat(TINTED[..., :1], 3, axis=-1), "tinted": TINTED}


def in_planes(values: np.ndarray) -> bytes:
    return np.moveaxis(values, -1, 0).tobytes()


def luma(colours: np.ndarray) -> np.ndarray:
    return colours @ np.array([0.299, 0.587, 0.114]) / 255


@pytest.mark.parametrize("colours", COLOURS.values(), ids=COLOURS.keys())
@pytest.mark.parametrize("planes", [False, True])
def test_colours_lie_as_the_header_says_or_are_refused(colours, planes):
    pixels = in_planes(colours) if planes else colours.tobytes()
    right = dicom(colours, bits=8, pixels=pixels, PlanarConfiguration=int(planes))
    alike(decode_dicom(right, "voi"), luma(colours))
    with pytest.raises(BrokenImage, match="PlanarConfiguration"):
        decode_dicom(dicom(colours, bits=8, pixels=pixels, PlanarConfiguration=int(not planes)), "voi")


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_exchanged_rows_and_columns_are_refused(bits):
    stored = (GRAY * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    with pytest.raises(BrokenImage, match="Rows and Columns"):
        decode_dicom(dicom(stored, bits=bits, Rows=80, Columns=96), "voi")


@pytest.mark.parametrize("rows", [40, 48, 60, 64, 120, 128, 160, 192])
def test_rows_of_another_length_are_refused(rows):
    stored = (GRAY * 4095).astype(np.uint16)
    with pytest.raises(BrokenImage, match="Rows and Columns"):
        decode_dicom(dicom(stored, Rows=rows, Columns=stored.size // rows), "voi")


@pytest.mark.parametrize("bits", [12, 16])
def test_bytes_in_the_other_order_are_refused(bits):
    stored = (GRAY * (2**bits - 1)).astype(np.uint16)
    with pytest.raises(BrokenImage, match="order of bytes"):
        decode_dicom(dicom(stored, bits=bits, pixels=stored.byteswap().tobytes()), "voi")


@pytest.mark.parametrize(("bits", "stored_bits"), [(8, 8), (12, 12), (12, 16), (15, 16), (16, 16)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_wrong_sign_is_refused(bits, stored_bits, signed):
    kind = np.uint8 if bits == 8 else np.uint16
    stored = (GRAY * (2**bits - 1)).astype(np.int64)
    if signed:
        stored -= 1 << (bits - 1)
    elif stored_bits > bits:
        stored += (1 << (stored_bits - 1)) - (1 << (bits - 1))
    stored = stored.astype(kind)
    true = stored.view(f"i{stored.itemsize}") if signed else stored
    assert np.corrcoef(decode_dicom(dicom(true, bits=stored_bits), "voi").ravel(), GRAY.ravel())[0, 1] > 0.999
    with pytest.raises(BrokenImage, match=r"PixelRepresentation|BitsStored"):
        decode_dicom(dicom(true, bits=stored_bits, PixelRepresentation=int(not signed)), "voi")


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("fill", ["white", "black", "both", "below"])
def test_labels_and_shutters_are_no_wrong_sign(bits, fill):
    values = (GRAY * (2**bits - 1)).astype(np.int64)
    mark = np.zeros(GRAY.shape, np.uint8)
    cv2.putText(mark, "L 24", (4, 60), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
    mark[:20] = 255
    low = -2000 if fill == "below" else 0
    values[mark > 0] = low if fill in ("black", "below") else 2**bits - 1
    if fill == "both":
        values[:, :20] = 0
    check_sign(values, bits + 1 if low else bits, "DICOM")
    check_order(values.astype(np.int32), "DICOM")


def test_noise_and_ramps_are_read_as_they_are():
    noise = np.random.default_rng(0).integers(0, 2**16, (96, 80)).astype(np.uint16)
    ramp = np.tile(np.arange(96, dtype=np.uint8), (72, 1))
    for values in (noise, noise >> 8, ramp, ramp.T, np.zeros((64, 96), np.uint16)):
        check_order(values, "TIFF")
        check_order(np.repeat(values[..., None], 3, axis=-1), "TIFF")
        check_order(np.repeat(values[..., None], 3, axis=-1), "TIFF", planes=True)
        check_sign(values, 16, "DICOM")


def test_gray_under_a_wrong_name_of_its_colours_is_gray():
    gray = COLOURS["gray"]
    alike(decode_dicom(dicom(gray, bits=8, PhotometricInterpretation="YBR_FULL"), "voi"), luma(gray))
    chroma = np.full_like(gray, 128)
    chroma[..., 0] = gray[..., 0]
    alike(decode_dicom(dicom(chroma, bits=8), "voi"), luma(gray))


def test_a_file_that_contradicts_itself_on_its_polarity_is_refused():
    stored = (GRAY * 4095).astype(np.uint16)
    with pytest.raises(BrokenImage, match="whether air is dark"):
        decode_dicom(dicom(stored, PresentationLUTShape="INVERSE"), "voi")
    for photometric, shape in (("MONOCHROME1", "INVERSE"), ("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "IDENTITY")):
        shown = decode_dicom(dicom(stored, PhotometricInterpretation=photometric, PresentationLUTShape=shape), "voi")
        assert (np.corrcoef(shown.ravel(), GRAY.ravel())[0, 1] > 0) == (photometric == "MONOCHROME2")


@pytest.mark.parametrize("little", [False, True])
def test_an_odd_number_of_bytes_in_words(little):
    odd = (GRAY[:95, :79] * 255).astype(np.uint8)
    pixels = odd.tobytes() + b"\0"
    if little:
        data = dicom(odd, bits=8, pixels=pixels)
    else:
        words = np.frombuffer(pixels, np.uint16).byteswap().tobytes()
        data = dicom(odd, bits=8, PixelData=("OW", words), syntax=ExplicitVRBigEndian)
    alike(decode_dicom(data, "voi"), odd / 255)


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 4095.0])
def test_floats_with_bytes_in_the_other_order_are_refused(kind, scale):
    values = (GRAY * scale).astype(kind)
    for stored in (values, np.rint(values), np.where(values < scale / 3, 0, values).astype(kind)):
        if np.ptp(stored):
            check_order(stored, "TIFF")
            with pytest.raises(BrokenImage, match="order of bytes"):
                check_order(stored.byteswap(), "TIFF")
