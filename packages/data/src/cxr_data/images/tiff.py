"""TIFF and BigTIFF radiographs (TIFF 6.0), every strip and tile checked to its last byte.

libtiff's callers fill what it cannot read with zeros, and each of them knows other depths. Here Pillow reads the
directory; strips become pixels by the specification, and one that is missing, short or too long is damage.
"""

import io
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.images.codecs import deflate_decode, lzw_decode, packbits_decode
from cxr_data.images.header import BrokenImage, check_size
from cxr_data.images.jpeg import decode_jpeg, oriented
from cxr_data.images.readings import check_differences, check_order, check_sign

NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 7, 8, 32946, 32773
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
_DECODERS = {LZW: lzw_decode, DEFLATE: deflate_decode, OLD_DEFLATE: deflate_decode, PACKBITS: packbits_decode}
_OTHER_COMPRESSION = {
    **dict.fromkeys((2, 3, 4), "a fax of black and white"),
    6: "JPEG of the withdrawn kind",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
_OTHER_COLOUR = {4: "a mask", 5: "CMYK", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 32803: "a camera's colour filter"}
_FORMATS = {1: "u", 2: "i", 3: "f", 4: "u"}
_KINDS = {"u": (*range(1, 17), 32), "i": (8, 16, 32), "f": (16, 32, 64)}
_MAX_PAGES = 10_000

Directory = Any
"""Pillow's ``ImageFileDirectory_v2``: a mapping from tag to value."""


class _Layout(NamedTuple):
    """How the pixels of a page lie in the file; ``across`` and ``down`` are the size of a strip or tile."""

    width: int
    height: int
    samples: int
    bits: int
    kind: str
    order: str
    colour: int
    compression: int
    predictor: int
    planes: int
    across: int
    down: int
    tiled: bool

    @property
    def samples_a_plane(self) -> int:
        return self.samples if self.planes == 1 else 1


def decode_tiff(data: bytes) -> NDArray[Any]:
    """Decode a TIFF of one page as gray values.

    8 and 16 bits keep their range; other unsigned depths up to 16 bits are spread over 8 or 16. A MaxSampleValue of
    2^k - 1 that no value exceeds is taken for the depth. Signed, 32-bit and float values have no such range: their
    minimum and maximum are used. WhiteIsZero is inverted, colour becomes luma, alpha is dropped, orientation is obeyed.

    Args:
        data: The whole file.

    Returns:
        (H, W) uint8 or uint16, or float32 in [0, 1]; air dark.

    Raises:
        BrokenImage: Damaged, of several pages, or of a kind that is not read.
    """
    page = _page(data)
    layout = _layout(data, page)
    check_size(layout.width, layout.height)
    pixels = _pixels(data, page, layout)
    _check_reading(pixels, layout)
    gray = _gray(pixels, page, layout)
    return oriented(gray, _one(page, 274, 1))


def tiff_size(data: bytes) -> tuple[int, int]:
    """Width and height a TIFF claims, as it is stored.

    Raises:
        BrokenImage: It does not say.
    """
    page = next(_directories(data))
    if 256 not in page or 257 not in page:
        raise BrokenImage("damaged TIFF: it does not say how large it is")
    return _one(page, 256, 0), _one(page, 257, 0)


def _directories(data: bytes) -> Iterator[Directory]:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    stream, seen = io.BytesIO(data), set()
    # Pillow looks for BigTIFF's 43 at one place only, also where the order of bytes is the other one.
    head = b"II+\0" + data[4:16] if 43 in data[2:4] else data[:8]
    at = -1
    while at and len(seen) < _MAX_PAGES:
        try:
            page = ImageFileDirectory_v2(head, data[:2])
            at = page.next if at < 0 else at
            if not 8 <= at < len(data) or at in seen:
                raise BrokenImage("truncated TIFF: it ends within its header")
            seen.add(at)
            stream.seek(at)
            page.load(stream)
            at = page.next or 0
        except BrokenImage:
            raise
        except Exception as error:  # what Pillow raises on a damaged directory is not documented
            raise BrokenImage("truncated TIFF: it ends within its header") from error
        yield page


def _page(data: bytes) -> Directory:
    """The directory of the one page at full size; thumbnails and masks of it are passed over."""
    pages = [page for page in _directories(data) if not (_one(page, 254, 0) & 5 or _one(page, 255, 1) == 2)]
    if not pages:
        raise BrokenImage("a TIFF without an image at full size")
    stack = re.match(r"ImageJ=.*\bimages=(\d+)", str(pages[0].get(270, "")), re.DOTALL)
    count = max(len(pages), int(stack[1]) if stack else 1, _one(pages[0], 32997, 1))
    if count > 1:
        raise BrokenImage(f"a TIFF of {count} pages; one radiograph was expected")
    return pages[0]


def _values(page: Directory, tag: int) -> tuple[Any, ...]:
    try:
        value = page.get(tag)
    except Exception as error:  # as above
        raise BrokenImage("damaged TIFF: its header cannot be read") from error
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _one(page: Directory, tag: int, otherwise: int) -> int:
    values = _values(page, tag)
    if not values:
        return otherwise
    if not isinstance(values[0], int):
        raise BrokenImage("damaged TIFF: its header cannot be read")
    return values[0]


def _layout(data: bytes, page: Directory) -> _Layout:
    width, height = _one(page, 256, 0), _one(page, 257, 0)
    if not (width and height):
        raise BrokenImage("damaged TIFF: it does not say how large it is")
    samples, compression, colour = _one(page, 277, 1), _one(page, 259, NONE), _one(page, 262, -1)
    if compression in _OTHER_COMPRESSION or compression not in (*_DECODERS, NONE, JPEG):
        name = _OTHER_COMPRESSION.get(compression, f"method {compression}")
        raise BrokenImage(f"a TIFF compressed as {name}, which is not read: convert it to PNG")
    if colour == -1:
        colour = RGB if samples >= 3 else BLACK_IS_ZERO
    if colour not in (0, 1, 2, 3) and not (colour == YCBCR and compression == JPEG):
        name = _OTHER_COLOUR.get(colour, "YCbCr without JPEG" if colour == YCBCR else f"colour model {colour}")
        raise BrokenImage(f"a TIFF of {name}, which is not read: convert it to gray")
    least = 3 if colour in (RGB, YCBCR) else 1
    if not least <= samples <= least + 1:
        raise BrokenImage(f"a TIFF of {samples} samples per pixel; one gray value or a colour was expected")
    depths, formats = set(_values(page, 258) or (1,)), set(_values(page, 339) or (1,))
    kind = _FORMATS.get(next(iter(formats)), "")
    bits = next(iter(depths))
    if len(depths) > 1 or len(formats) > 1 or bits not in _KINDS.get(kind, ()) or (kind != "u" and colour == PALETTE):
        of = " and ".join(map(str, sorted(depths, key=str)))
        raise BrokenImage(f"a TIFF of {of} bits a sample, format {'/'.join(map(str, formats))}, which is not read")
    tiled = 322 in page
    across = _one(page, 322, 0) if tiled else width
    down = _one(page, 323, 0) if tiled else min(_one(page, 278, height), height)
    if not (0 < across <= width + 65535 and 0 < down <= height + 65535):
        raise BrokenImage("damaged TIFF: its strips or tiles have no size")
    planes = samples if _one(page, 284, 1) == 2 else 1
    order = "<" if data[:2] == b"II" else ">"
    predictor = _one(page, 317, 1) if compression in _DECODERS else 1
    return _Layout(
        width, height, samples, bits, kind, order, colour, compression, predictor, planes, across, down, tiled
    )


def _pixels(data: bytes, page: Directory, layout: _Layout) -> NDArray[Any]:
    """Samples (H, W, S) in the machine's byte order; (H, W, 1) luma for JPEG."""
    offsets, counts = (_values(page, tag) for tag in ((324, 325) if layout.tiled else (273, 279)))
    columns, rows = -(-layout.width // layout.across), -(-layout.height // layout.down)
    if not counts and len(offsets) == 1 and layout.compression == NONE:  # writers of old left them out
        counts = (len(data) - offsets[0],)
    if not len(offsets) == len(counts) == columns * rows * layout.planes:
        raise BrokenImage("damaged TIFF: strips or tiles are missing")
    if len(set(offsets)) < len(offsets):
        raise BrokenImage("damaged TIFF: two of its strips or tiles are the same")
    samples = 1 if layout.compression == JPEG else layout.samples
    whole = np.empty((layout.height, layout.width, samples), np.uint8 if samples < layout.samples else _depth(layout))
    for number, (at, count) in enumerate(zip(offsets, counts, strict=True)):
        plane, place = divmod(number, columns * rows)
        top, left = place // columns * layout.down, place % columns * layout.across
        height = layout.down if layout.tiled else min(layout.down, layout.height - top)
        if not (at and count) or (at + count > len(data) and layout.compression != NONE):
            raise BrokenImage("damaged TIFF: strips or tiles are missing")
        segment = data[at : at + count]
        if layout.compression == JPEG:
            part = _jpeg_part(segment, page, layout)
            if part.shape[0] < height or part.shape[1] != layout.across:
                raise BrokenImage("damaged TIFF: a strip or tile is of another size")
            part = part[:height, :, None]
        else:
            part = _part(segment, height, page, layout)
        part = part[: layout.height - top, : layout.width - left]
        into = whole[top : top + part.shape[0], left : left + part.shape[1]]
        into[..., plane : plane + part.shape[2]] = part
    return whole


def _depth(layout: _Layout) -> np.dtype[Any]:
    size = 1 if layout.bits <= 8 else 2 if layout.bits <= 16 else layout.bits // 8
    return np.dtype(f"{layout.kind}{size}")


def _part(segment: bytes, height: int, page: Directory, layout: _Layout) -> NDArray[Any]:
    """A strip or tile (height, across, samples) from its bytes."""
    a_row = -(-layout.across * layout.samples_a_plane * layout.bits // 8)
    needed, full = height * a_row, layout.down * a_row
    if _one(page, 266, 1) == 2:
        segment = segment.translate(_REVERSED)
    if layout.compression == NONE and len(segment) >= 2 * full:
        raise BrokenImage(f"a TIFF with strips or tiles of {len(segment)} bytes where its header needs {full}")
    raw = segment[:needed] if layout.compression == NONE else _DECODERS[layout.compression](segment, full)
    if len(raw) != needed:
        if len(raw) != full:  # the last strip may be filled up
            raise BrokenImage(f"damaged TIFF: a strip or tile holds {len(raw)} bytes instead of {needed}")
        raw = raw[:needed]
    shape = (height, layout.across, layout.samples_a_plane)
    if layout.predictor == 3 and layout.kind == "f":
        return _float_differences(raw, shape, layout)
    if layout.bits in (8, 16, 32, 64):
        kind = "u" if layout.predictor == 2 else layout.kind  # differences of floats are of their bits
        values = np.frombuffer(raw, f"{layout.order}{kind}{layout.bits // 8}").reshape(shape)
        values = values.astype(values.dtype.newbyteorder("="))
    else:
        bits = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(height, a_row), axis=1)
        bits = bits[:, : layout.across * layout.samples_a_plane * layout.bits].reshape(*shape, layout.bits)
        values = (bits @ (1 << np.arange(layout.bits - 1, -1, -1)).astype(np.uint32)).astype(_depth(layout))
    if layout.predictor == 2:
        return np.cumsum(values, axis=1, dtype=values.dtype).view(_depth(layout))
    if layout.predictor != 1:
        raise BrokenImage(f"a TIFF with predictor {layout.predictor}, which is not read: convert it to PNG")
    return values


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _float_differences(raw: bytes, shape: tuple[int, int, int], layout: _Layout) -> NDArray[Any]:
    """Undo predictor 3 (Adobe Photoshop TIFF Technical Note 3): differences of bytes, the highest bytes first."""
    height, across, samples = shape
    size = layout.bits // 8
    parts = np.frombuffer(raw, np.uint8).reshape(height, size * across, samples)
    parts = np.cumsum(parts, axis=1, dtype=np.uint8).reshape(height, size, across * samples)
    values = np.ascontiguousarray(parts.transpose(0, 2, 1)).view(f">f{size}")
    return values.reshape(shape).astype(_depth(layout))


def _jpeg_part(segment: bytes, page: Directory, layout: _Layout) -> NDArray[np.uint8]:
    """Luma of a strip or tile that is a JPEG stream without its tables (TIFF Technical Note 2)."""
    if layout.bits != 8 or layout.planes != 1 or layout.samples not in (1, 3):
        said = f"{layout.bits} bits, {layout.samples} channels, {layout.planes} planes"
        raise BrokenImage(f"a TIFF with JPEG of {said}, which is not read: convert it to PNG")
    (tables,) = _values(page, 347) or (b"",)
    # Without a marker of their own, three components count as YCbCr: TIFF says in its own header what they are.
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([layout.colour == YCBCR])
    adobe = adobe if layout.samples == 3 else b""
    return decode_jpeg(b"\xff\xd8" + adobe + bytes(tables)[2:-2] + segment[2:], part=True)


def _check_reading(pixels: NDArray[Any], layout: _Layout) -> None:
    """Refuse pixels that prove their header wrong."""
    if layout.compression == JPEG or layout.colour == PALETTE:
        return
    if layout.predictor == 1:
        check_order(pixels, "TIFF", planes=layout.planes > 1)
    elif layout.kind != "f":
        check_differences(pixels[..., 0], "TIFF")
    if layout.kind != "f":
        check_sign(pixels[..., 0], layout.bits, "TIFF")


def _gray(pixels: NDArray[Any], page: Directory, layout: _Layout) -> NDArray[Any]:
    """Gray values (H, W) from samples: uint8 or uint16 over their full range, or float32 in [0, 1]."""
    if layout.colour == PALETTE:
        return _from_palette(pixels[..., 0], page, layout)
    if layout.kind == "u" and layout.bits <= 16:
        values = _full_range(pixels, page, layout)
    else:
        values = pixels.astype(np.float64)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise BrokenImage("a TIFF with values that are not numbers")
        values = ((values - low) / max(high - low, 1e-300)).astype(np.float32)
    gray: NDArray[Any] = values[..., 0]
    if values.shape[2] >= 3:
        gray = cv2.cvtColor(np.ascontiguousarray(values[..., :3]), cv2.COLOR_RGB2GRAY)
    if layout.colour == WHITE_IS_ZERO:
        gray = 1 - gray if gray.dtype.kind == "f" else ~gray
    return gray


def _full_range(values: NDArray[Any], page: Directory, layout: _Layout) -> NDArray[Any]:
    """Unsigned values over the whole range of uint8 or uint16."""
    bits = 8 if layout.compression == JPEG else layout.bits
    top = 2**bits - 1
    claimed = max((v for v in _values(page, 281) if isinstance(v, int)), default=top)
    if 1 < claimed < top and claimed & (claimed + 1) == 0 and values.max() <= claimed:
        top = claimed
    limit = np.iinfo(values.dtype).max
    if top == limit:
        return values
    return np.rint(values * (float(limit) / top)).astype(values.dtype)


def _from_palette(indices: NDArray[Any], page: Directory, layout: _Layout) -> NDArray[np.uint16]:
    colours = np.array(_values(page, 320), np.uint16)
    if colours.size != 3 << layout.bits:
        raise BrokenImage("damaged TIFF: its palette is of the wrong size")
    if colours.max() < 256:  # writers of old gave 8 bits
        colours = colours * np.uint16(257)
    gray = cv2.cvtColor(np.ascontiguousarray(colours.reshape(3, -1).T[indices]), cv2.COLOR_RGB2GRAY)
    return gray.astype(np.uint16, copy=False)
