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

from cxr_data.images.codestreams import check_jpeg_2000
from cxr_data.images.header import BrokenImage, check_size
from cxr_data.images.jpeg import exif_orientation, oriented
from cxr_data.images.readings import check_order, check_sign
from cxr_data.images.silence import quiet_libraries

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_NEEDED = (b"IHDR", b"PLTE", b"IDAT")
_NEEDED_AT_END = {b"VP8 ": 6, b"VP8L": 3}
"""Last bytes of a WebP's codes, lossy and lossless, without which no sound one of 192 was whole (4 and 3 of them)."""


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
    needed, significant, orientation = _check_png(data)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        with quiet_libraries():
            values = cv2.imdecode(np.frombuffer(needed, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        values = None
    if values is None:
        raise BrokenImage("damaged PNG: it cannot be decoded")
    if data[25] == 3:
        _check_palette(data)
    if data[24:26] == b"\x10\0":  # 16 bits of gray, which some programs write as their memory holds them
        check_order(values, "PNG")
        check_sign(values, 16, "PNG")
    return oriented(_by_significant_bits(values, significant), orientation)


def _by_significant_bits(values: NDArray[Any], significant: int) -> NDArray[Any]:
    """Values over the range of their type, where a file of 16 bits says that fewer are significant."""
    if values.dtype == np.uint8 or not 1 < significant < 16 or int(values.max()) >> significant:
        return values
    values = values.astype(np.uint16, copy=False)
    # The standard has encoders spread such values over 16 bits, the low bits zero or a copy of the high ones.
    high = values >> (16 - significant) << (16 - significant)
    if np.array_equal(values, high) or np.array_equal(values, high | high >> significant):
        return values
    return np.rint(values * (65535.0 / (2**significant - 1))).astype(np.uint16)


def _check_png(data: bytes) -> tuple[bytes, int, int]:
    """Refuse damaged chunks and several pictures.

    Returns:
        The file without the chunks that do not decide its pixels, some of which libpng refuses or unpacks at length;
        significant bits; EXIF orientation.
    """
    at, significant, orientation, pictures = 8, 16, 1, 0
    view = memoryview(data)
    needed = [view[:8]]
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise BrokenImage("truncated PNG: it ends within its header")
    check_size(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
    while (name := data[at + 4 : at + 8]) != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if len(name) < 4 or end + 4 > len(data):
            raise BrokenImage("truncated PNG")
        if name[0] < 0x60 and zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise BrokenImage("damaged PNG: its checksums do not agree")
        # The picture that is shown need not be one of an animation's.
        if name == b"fcTL" or (name == b"IDAT" and not pictures):
            pictures += 1
        if name == b"sBIT" and end > at + 8:
            significant = min(data[at + 8 : end])
        if name == b"eXIf":
            orientation = exif_orientation(data[at + 8 : end])
        if name in _NEEDED:
            needed.append(view[at : end + 4])
        at = end + 4
    if pictures > 1:
        raise BrokenImage(f"a PNG of {pictures} pictures; one radiograph was expected")
    return b"".join([*needed, view[at:]]), significant, orientation


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
    """Refuse coded runs, which Pillow fills up with zeros where they end early, and pixels that begin elsewhere."""

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(data[at : at + size], "little", signed=size == 4)

    start, header = number(10), number(14)
    if header >= 40 and number(30) in (1, 2):
        raise BrokenImage("a BMP with coded runs (RLE), which is not read: convert it to PNG")
    width, height, bits = (number(18, 2), number(20, 2), number(24, 2)) if header == 12 else (
        number(18), abs(number(22)), number(28, 2))  # fmt: skip
    colours = 0 if bits > 8 else (number(46) if header >= 40 else 0) or 1 << bits
    rest = len(data) - start - -(-width * bits // 32) * 4 * height
    profile = number(130) if header == 124 else 0
    if start < 14 + header + (3 if header == 12 else 4) * colours or not (rest <= 3 or rest - profile in range(4)):
        raise BrokenImage("a BMP file whose pixels do not begin where its header says")


def _check_gif(data: bytes) -> None:
    if data.rstrip(b"\0")[-1:] != b";":
        raise BrokenImage("truncated GIF: it has no end")


def _check_webp(data: bytes) -> None:
    """Refuse a WebP that is cut, and one whose codes end before their bytes do, as damaged ones mostly do."""
    at, claimed = 12, int.from_bytes(data[4:8], "little") + 8
    _check_length(data, claimed, "WebP")
    while at < claimed:
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        name = data[at : at + 4]
        if name in _NEEDED_AT_END and _decodes(name, data[at + 8 : end - _NEEDED_AT_END[name]]):
            raise BrokenImage("damaged WebP: its pixels end before their bytes do")
        at = end + end % 2


def _decodes(name: bytes, coded: bytes) -> bool:
    """Whether the codes of a WebP are those of a whole picture."""
    chunk = name + len(coded).to_bytes(4, "little") + coded + bytes(len(coded) % 2)
    try:
        open_raster(b"RIFF" + (len(chunk) + 4).to_bytes(4, "little") + b"WEBP" + chunk, "WebP").load()
    except Exception:  # what Pillow raises on damaged files is not documented
        return False
    return True


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "BMP": _check_bmp,
    "GIF": _check_gif,
    "WebP": _check_webp,
    "JPEG 2000": check_jpeg_2000,
}
