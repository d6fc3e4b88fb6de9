"""Signs of compressed pixels: what the header and the compressed image say of them may differ."""

from typing import Any

import cv2
import jpeg_ls
import numpy as np
import pytest
from dicom_files import dicom
from openjpeg.utils import encode_array
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless

from cxr_data.images.dicom import decode_dicom
from cxr_data.images.header import BrokenImage

CONTRADICTED = "whether its values are signed|unsigned values with a compressed image of signed ones"


def picture(bits: int, low: float, high: float) -> np.ndarray:
    """(72, 64) smooth values over part of a depth."""
    smooth = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (72, 64)), (0, 0), 5)
    smooth = low + (high - low) * (smooth - smooth.min()) / np.ptp(smooth)
    return np.rint(smooth * (2**bits - 1)).astype(np.int32)


def shown(values: np.ndarray, *, bits: int, signed: bool, window: tuple[float, float]) -> np.ndarray:
    """What is shown of values in JPEG 2000, signed as their type is, under a header that says ``signed``."""
    stream = bytes(encode_array(values, bits_stored=bits, photometric_interpretation=0))
    return decoded(stream, JPEG2000Lossless, bits=bits, signed=signed, window=window)


def decoded(stream: bytes, syntax: UID, *, bits: int, signed: bool, window: tuple[float, float]) -> np.ndarray:
    tags: dict[str, Any] = {"WindowCenter": window[0], "WindowWidth": window[1], "PixelRepresentation": int(signed)}
    data = dicom(np.zeros((72, 64), np.uint16), bits=bits, pixels=encapsulate([stream]), syntax=syntax, **tags)
    return decode_dicom(data, "voi")


def linear(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    return np.clip((values - (window[0] - 0.5)) / (window[1] - 1) + 0.5, 0, 1)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("part", [(0, 0.97), (0.1, 0.45), (0.55, 0.97)])
def test_jpeg_2000_is_read_by_its_own_sign_or_refused(bits, part):
    values, half = picture(bits, *part), 2 ** (bits - 1)
    window = (float(values.mean()), 0.6 * np.ptp(values))
    unsigned, below = values.astype(np.uint16), (window[0] - half, window[1])
    np.testing.assert_allclose(
        shown(unsigned, bits=bits, signed=False, window=window), linear(values, window), atol=1e-5
    )
    moved = (values - half).astype(np.int16)
    np.testing.assert_allclose(shown(moved, bits=bits, signed=True, window=below), linear(values, window), atol=1e-5)
    # A header that says the other sign, with the window of the values as they are stored.
    for stored, signed, of_it in ((unsigned, True, window), (moved, False, below)):
        try:
            actual = shown(stored, bits=bits, signed=signed, window=of_it)
        except BrokenImage as error:
            refused = str(error)
            assert "sign" in refused or "shows next to nothing" in refused
        else:
            np.testing.assert_allclose(actual, linear(values, window), atol=1e-5)


def test_a_signed_stream_of_values_above_0_is_what_an_unsigned_header_says():
    values = picture(12, 0.05, 0.9)
    window = (float(values.mean()), 0.6 * np.ptp(values))
    actual = shown(values.astype(np.int16), bits=16, signed=False, window=window)
    np.testing.assert_allclose(actual, linear(values, window), atol=1e-5)
    with pytest.raises(BrokenImage, match=CONTRADICTED):
        shown((values - 2048).astype(np.int16), bits=16, signed=False, window=window)


@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_ls_of_fewer_bits_than_the_header_has_its_sign_above_them(bits):
    """The coder takes as many bits as the largest value needs; JPEG-LS itself knows no signs."""
    values = picture(bits, 0.05, 0.45)
    window = (float(values.mean()), 0.6 * np.ptp(values))
    actual = decoded(
        bytes(jpeg_ls.encode_array(values.astype(np.uint16))), JPEGLSLossless, bits=bits, signed=True, window=window
    )
    np.testing.assert_allclose(actual, linear(values, window), atol=1e-5)
    below = picture(bits, 0.05, 0.9) - 2 ** (bits - 1)
    stored = (below & (2**bits - 1)).astype(np.uint16)
    window = (float(below.mean()), 0.6 * np.ptp(below))
    actual = decoded(bytes(jpeg_ls.encode_array(stored)), JPEGLSLossless, bits=bits, signed=True, window=window)
    np.testing.assert_allclose(actual, linear(below, window), atol=1e-5)
