"""PNG, BMP, GIF, WebP and JPEG 2000 files, decoded by libraries that end with an error where others fill with gray.

What these pass over is looked for here: several pictures in one file, and files that are shorter than they say.
"""

import io
import warnings
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.images.header import BrokenImage, check_size
from cxr_data.images.jpeg import exif_orientation, oriented

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


def decode_raster(data: bytes, kind: str) -> NDArray[Any]:
    """Decode a BMP, GIF, WebP or JPEG 2000 file as gray, by Pillow.

    Colour becomes luma, alpha is dropped, EXIF orientation is obeyed; colour profiles are not applied.

    Args:
        data: The whole file.
        kind: "BMP", "GIF", "WebP" or "JPEG 2000".

    Returns:
        (H, W) gray values over the full range of uint8 or uint16.

    Raises:
        BrokenImage: Damaged, of several pictures, or of a size that is not decoded.
    """
    image = open_raster(data, kind)
    check_size(*image.size)
    if (check := _CHECKS.get(kind)) is not None:
        check(data)
    try:
        frames = getattr(image, "n_frames", 1)
        if frames == 1:
            image.load()
    except Exception as error:  # what Pillow raises on damaged files is not documented
        raise BrokenImage(f"damaged {kind}: it cannot be decoded") from error
    if frames != 1:
        raise BrokenImage(f"a {kind} of {frames} pictures; one radiograph was expected")
    gray = _gray(image)
    exif = image.info.get("exif")
    return oriented(gray, exif_orientation(exif)) if exif else gray


def open_raster(data: bytes, kind: str) -> "ImageFile":
    """A file as Pillow opens it: the header is read and nothing decoded.

    Raises:
        BrokenImage: The header cannot be read.
    """
    try:
        return _plugin(kind)(io.BytesIO(data))
    except Exception as error:  # as above
        if "unsupported" in str(error).lower():
            raise BrokenImage(f"a {kind} of a kind that is not read: convert it to PNG") from error
        raise BrokenImage(f"truncated {kind}: it ends within its header") from error


def _plugin(kind: str) -> "Callable[[io.BytesIO], ImageFile]":
    """Pillow's class for a kind: its general ``open`` would warn of large files, which :func:`check_size` refuses."""
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    if kind == "JPEG":
        from PIL.JpegImagePlugin import JpegImageFile as File
    elif kind == "PNG":
        from PIL.PngImagePlugin import PngImageFile as File
    elif kind == "BMP":
        from PIL.BmpImagePlugin import BmpImageFile as File
    elif kind == "GIF":
        from PIL.GifImagePlugin import GifImageFile as File
    elif kind == "WebP":
        from PIL.WebPImagePlugin import WebPImageFile as File
    else:
        from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile as File
    return File


def _gray(image: "ImageFile") -> NDArray[Any]:
    """Gray values of a decoded file: uint16 where Pillow holds more than 8 bits, else uint8."""
    if image.mode in ("P", "PA", "1"):
        image = image.convert("L" if image.mode == "1" else "RGB")  # pyright: ignore[reportAssignmentType]
    values = np.asarray(image)
    if values.dtype == np.bool_ or values.dtype not in (np.uint8, np.uint16, np.dtype(">u2")):
        raise BrokenImage(f"a file of Pillow's mode {image.mode}, which is not read: convert it to gray")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim == 2:
        return values
    if image.mode == "CMYK":
        raise BrokenImage("a CMYK image, which is not read: convert it to gray")
    if values.shape[2] < 3:
        return np.ascontiguousarray(values[..., 0])
    return cv2.cvtColor(np.ascontiguousarray(values[..., :3]), cv2.COLOR_RGB2GRAY)


def decode_png(data: bytes) -> NDArray[Any]:
    """Decode a PNG as gray, by OpenCV: it is faster than Pillow, and follows the pixels to their checksum.

    Gamma and colour profiles are not applied. A file of 16 bits whose ``sBIT`` chunk names fewer, and whose values were
    left at that depth, is scaled by it.

    Args:
        data: The whole file.

    Returns:
        (H, W) gray values over the full range of uint8 or uint16.

    Raises:
        BrokenImage: Damaged, of several pictures, or of a size that is not decoded.
    """
    significant = _check_png(data)
    # Our message names the file; OpenCV's own lines on stderr would not.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        values = None
    if values is None:
        raise BrokenImage("damaged PNG: it cannot be decoded")
    if data[25] == 3:
        _check_palette(data)
    if values.dtype == np.uint8 or not 1 < significant < 16 or int(values.max()) >> significant:
        return values
    values = values.astype(np.uint16, copy=False)
    # The standard has encoders spread such values over 16 bits, the low bits zero or a copy of the high ones.
    high = values >> (16 - significant) << (16 - significant)
    if np.array_equal(values, high) or np.array_equal(values, high | high >> significant):
        return values
    return np.rint(values * (65535.0 / (2**significant - 1))).astype(np.uint16)


def _check_png(data: bytes) -> int:
    """Refuse damaged chunks, which libpng would print a line on each, and animations; returns the significant bits."""
    at, significant = 8, 16
    view = memoryview(data)
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise BrokenImage("truncated PNG: it ends within its header")
    check_size(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
    while (name := data[at + 4 : at + 8]) != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if len(name) < 4 or end + 4 > len(data):
            raise BrokenImage("truncated PNG")
        if name[0] < 0x60 and zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise BrokenImage("damaged PNG: its checksums do not agree")
        if name == b"acTL" and (frames := int.from_bytes(data[at + 8 : at + 12])) > 1:
            raise BrokenImage(f"a PNG of {frames} pictures; one radiograph was expected")
        if name == b"sBIT" and end > at + 8:
            significant = min(data[at + 8 : end])
        at = end + 4
    return significant


def _check_palette(data: bytes) -> None:
    """Refuse pixels of colours that the palette of a PNG lacks: libpng makes them black."""
    image = open_raster(data, "PNG")
    colours = len(image.palette.palette) // 3 if image.palette else 0
    if int(np.asarray(image).max()) >= colours:
        raise BrokenImage(f"damaged PNG: pixels of colours beyond the {colours} of its palette")


def _check_length(data: bytes, claimed: int, kind: str) -> None:
    if len(data) < claimed:
        raise BrokenImage(f"truncated {kind}: {len(data)} of {claimed} bytes")


def _check_bmp(data: bytes) -> None:
    """Refuse coded runs, which Pillow fills up with zeros where they end early."""
    if int.from_bytes(data[14:18], "little") >= 40 and int.from_bytes(data[30:34], "little") in (1, 2):
        raise BrokenImage("a BMP with coded runs (RLE), which is not read: convert it to PNG")


def _check_gif(data: bytes) -> None:
    if data.rstrip(b"\0")[-1:] != b";":
        raise BrokenImage("truncated GIF: it has no end")


def _check_webp(data: bytes) -> None:
    _check_length(data, int.from_bytes(data[4:8], "little") + 8, "WebP")


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "BMP": _check_bmp,
    "GIF": _check_gif,
    "WebP": _check_webp,
}
