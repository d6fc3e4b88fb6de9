"""Compressed pixels: signs that header and image may tell differently, and kinds that tests cannot write."""

from base64 import b64decode
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
    found = decoded(bytes(jpeg_ls.encode_array(stored)), JPEGLSLossless, bits=bits, signed=True, window=window)
    np.testing.assert_allclose(found, linear(below, window), atol=1e-5)


HTJ2K = b64decode(  # written by OpenJPH 0.26.3, lossless
    "/0//UQApQAAAAAAoAAAAIAAAAAAAAAAAAAAAKAAAACAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQ"
    "iIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAP0AAf+TwAAqAJ39me8BQjQAwAASwAATwAASgP0AB3QA+pT6AKI0APkAR3QAwAATQAAV"
    "cAAEgHnwACJUAIBCBMD6ABCA51YA/AdTAMAAFXAABWwAASjG2SHo+NAn4Yt2AD7JEFmt4AxGMYHsuADl6YvkAMAAFpQAAWrAABUAYLRcT8AAFiDvmpxd"
    "knpxAnoAnCSXDYiUasnu/oQ9iEB79iEB7LwAwP6AXcpSxwDAAC2oAAXTACJpoirrwjJt4zrvB/z8f5R6enp6enpwgn0ARANRGAeSKAvTOA8USRNV/3og"
    "EIHv2EIHv2EIHv2EIHv2EIHstwH/2Q=="
)


@pytest.mark.parametrize("number", [201, 202, 203])
def test_high_throughput_jpeg_2000_has_the_values_that_were_written(number):
    y, x = np.mgrid[:32, :40]
    syntax = UID(f"1.2.840.10008.1.2.4.{number}")
    written = np.zeros((32, 40), np.uint16)
    found = decode_dicom(dicom(written, pixels=encapsulate([HTJ2K]), syntax=syntax), "full")
    np.testing.assert_allclose(found * 4095, 50 * x + 35 * y + x * y // 2, atol=1e-3)
    for damaged in (HTJ2K[:200], HTJ2K[:250] + bytes(40) + HTJ2K[290:]):
        with pytest.raises(BrokenImage, match=r"truncated|damaged"):
            decode_dicom(dicom(written, pixels=encapsulate([damaged]), syntax=syntax), "full")


@pytest.mark.parametrize(
    ("number", "start", "reason"),
    [
        ("4.110", b"\xff\x0a\xfa\x1f", "JPEG XL"),
        ("4.112", b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        ("4.102", b"\0\0\0\1\x67\x64", "video"),
        ("4.107", b"\0\0\0\1\x40\1", "video"),
        ("4.100", b"\0\0\1\xb3\x16", "video"),
        ("7.1", b"\x80\x60\0\1", "video"),
    ],
)
def test_kinds_that_are_not_read_are_named(number, start, reason):
    data = dicom(np.zeros((72, 64), np.uint16), pixels=encapsulate([start + bytes(60)]), syntax=JPEG2000Lossless)
    syntax = f"1.2.840.10008.1.2.{number}"
    at = data.index(b"\x02\0\x10\0UI")
    length = 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    named = b"\x02\0\x10\0UI" + bytes([len(syntax) + len(syntax) % 2, 0]) + syntax.encode() + b"\0" * (len(syntax) % 2)
    with pytest.raises(BrokenImage, match=reason):
        decode_dicom(data[:at] + named + data[at + length :], "voi")


@pytest.mark.parametrize("signed", [False, True])
def test_values_beyond_the_stored_bits_of_a_stream_do_not_come_back_at_the_other_end(signed):
    """A lossy coder of 16 bits may overshoot the 12 that are stored."""
    values = picture(12, 0, 1) - (2048 if signed else 0)
    values[values >= values.max() - 30] += 40
    values[values <= values.min() + 30] -= 40 * signed
    with pytest.raises(BrokenImage, match="values of more than its 12 bits"):
        shown_in_sixteen(values, signed=signed)


def shown_in_sixteen(values: np.ndarray, *, signed: bool) -> np.ndarray:
    deep = values.astype(np.int16 if signed else np.uint16)
    stream = bytes(encode_array(deep, bits_stored=16, photometric_interpretation=0))
    return decoded(stream, JPEG2000Lossless, bits=12, signed=signed, window=(0.0, 4096.0))
