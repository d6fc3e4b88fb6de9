"""Image files of any kind → one gray uint8 square, the same way for training and for a new image."""

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.errors import BadInput, require_known
from cxr_data.images.dicom import decode_dicom
from cxr_data.images.header import ASPECTS, WINDOWS, BrokenImage, image_kind, read_content
from cxr_data.images.jpeg import decode_jpeg
from cxr_data.images.raster import decode_png, decode_raster
from cxr_data.images.tiff import decode_tiff

PERCENTILES = (0.5, 99.5)


def read_image(
    path: str | Path, pixel_size: int, *, aspect: str = "squash", window: str = "voi", bits: int = 8
) -> NDArray[Any]:
    """Read a JPEG, PNG, TIFF, BMP, GIF, WebP, JPEG 2000 or DICOM file, also one in gzip, as one gray square.

    Shrinking averages areas (no aliasing), enlarging is bilinear; 16-bit values are averaged before they are
    rounded to 8 bits. EXIF orientation is obeyed, colour becomes luma (ITU-R BT.601), alpha is ignored; gamma and
    colour profiles are not applied. A file of several pictures is refused, as is every damage that shows.

    Args:
        path: Image file; its content decides the kind, not its name.
        pixel_size: Edge of the result, pixels.
        aspect: "squash" stretches to the square (nothing is lost, shapes change), "crop" keeps the centred
            square, "pad" keeps all and adds black borders.
        window: "voi" shows DICOM by its own VOI LUT or window and other files by their full range, "full"
            maps the full stored range to 0..255, "percentile" maps percentiles 0.5 and 99.5 of the image
            there. Float and 32-bit files have no full range: their minimum and maximum are used.
        bits: 8, or 16 to keep what deeper files hold; white is 255 or 65535.

    Returns:
        (pixel_size, pixel_size) gray values, uint8 or uint16, air dark.

    Raises:
        BrokenImage: The file is no usable image; the message says why.
        BadInput: An option that is not offered.

    >>> import cv2, numpy
    >>> from cxr_data import read_image
    >>> cv2.imwrite("scan.png", numpy.tile(numpy.arange(40, 80, dtype=numpy.uint8), (60, 1)))
    True
    >>> image = read_image("scan.png", 32, aspect="pad")
    >>> image.shape, image.dtype.name, int(image[16, 0])  # padded with black
    ((32, 32), 'uint8', 0)
    """
    image = _decode_file(path, window, least=int(1.9 * pixel_size))
    return fit_image(image, pixel_size, aspect=aspect, window=window, bits=bits)


def fit_image(
    image: NDArray[Any], pixel_size: int, *, aspect: str = "squash", window: str = "voi", bits: int = 8
) -> NDArray[Any]:
    """A gray image as one square: what :func:`read_image` does once a file is decoded.

    Args:
        image: (H, W) gray values, uint8 or uint16, or float32 in [0, 1].
        pixel_size: Edge of the result, pixels.
        aspect: See :func:`read_image`.
        window: Likewise.
        bits: Likewise.

    Returns:
        (pixel_size, pixel_size) gray values, uint8 or uint16.

    Raises:
        BrokenImage: Every pixel has the same value.
        BadInput: An option that is not offered.
    """
    check_pixel_size(pixel_size)
    check_mapping(aspect, window)
    check_bits(bits)
    return _square(image, pixel_size, aspect, window, np.dtype(np.uint8 if bits == 8 else np.uint16))


def full_digest(path: str | Path) -> bytes:
    """SHA-256 of an image's pixels at full size and depth: equal for exact duplicates only.

    Raises:
        BrokenImage: The file is no usable image.
    """
    return array_digest(_decode_file(path, "full", least=None))


def array_digest(image: NDArray[Any]) -> bytes:
    """:func:`full_digest` of an image that is an array already."""
    return hashlib.sha256(f"{image.dtype} {image.shape} ".encode() + image.tobytes()).digest()


def check_mapping(aspect: str, window: str) -> None:
    """Refuse unknown ways of mapping files to pixels.

    Raises:
        BadInput: Unknown name, with the nearest known one.
    """
    require_known("aspect", aspect, ASPECTS)
    require_known("window", window, WINDOWS)


def check_bits(bits: int) -> None:
    """Refuse depths that are not stored.

    Raises:
        BadInput: Neither 8 nor 16.
    """
    if bits not in (8, 16):
        raise BadInput("8 or 16 bits per pixel", str(bits), where="--bits")


def check_pixel_size(pixel_size: int) -> None:
    """Refuse edges that are no sensible image size.

    Raises:
        BadInput: Outside 16 to 4096 pixels.
    """
    if not isinstance(pixel_size, int | np.integer) or not 16 <= pixel_size <= 4096:
        raise BadInput("an image edge of 16 to 4096 pixels", str(pixel_size), do="choose for example 224")


def _decode_file(path: str | Path, window: str, least: int | None) -> NDArray[Any]:
    """Decode at full size; a JPEG also at 1/2, 1/4 or 1/8 where that leaves ``least`` pixels each way."""
    data = read_content(path)
    kind = image_kind(data)
    if kind == "JPEG":
        return decode_jpeg(data, least)
    if kind == "PNG":
        return decode_png(data)
    if kind == "DICOM":
        return decode_dicom(data, window)
    if kind == "TIFF":
        return decode_tiff(data)
    return decode_raster(data, kind)


def _square(image: NDArray[Any], size: int, aspect: str, window: str, depth: np.dtype[Any]) -> NDArray[Any]:
    """Resample, map to the depth, and pad, in this order: borders must not count as dark tissue."""
    height, width = image.shape
    if aspect == "crop":
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        image = image[top : top + edge, left : left + edge]
        height = width = edge
    rows = columns = size
    if aspect == "pad":
        longest = max(height, width)
        rows = max(1, round(height * size / longest))
        columns = max(1, round(width * size / longest))
    if (height, width) != (rows, columns):
        method = cv2.INTER_AREA if height >= rows and width >= columns else cv2.INTER_LINEAR
        image = cv2.resize(image, (columns, rows), interpolation=method)
    gray = _to_depth(image, window, depth)
    if gray.min() == gray.max():
        raise BrokenImage("blank: every pixel has the same value")
    if aspect != "pad":
        return gray
    padded = np.zeros((size, size), depth)
    top, left = (size - rows) // 2, (size - columns) // 2
    padded[top : top + rows, left : left + columns] = gray
    return padded


def _to_depth(image: NDArray[Any], window: str, depth: np.dtype[Any]) -> NDArray[Any]:
    if window == "percentile":
        low, high = (float(v) for v in np.percentile(image, PERCENTILES))
        if high <= low:  # nearly all one value: nothing to stretch by
            low, high = float(image.min()), float(image.max())
    elif image.dtype == depth:
        return image
    else:
        low, high = 0.0, float(np.iinfo(image.dtype).max) if image.dtype.kind == "u" else 1.0
    top = float(np.iinfo(depth).max)
    scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(top / max(high - low, 1e-12))
    return np.rint(np.clip(scaled, 0, top)).astype(depth)
