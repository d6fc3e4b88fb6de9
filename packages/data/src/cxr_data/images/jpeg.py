"""JPEG streams (ITU T.81): decoded and checked to the last coded bit in one pass.

libjpeg fills what it cannot read with gray and continues. Here its warnings count as damage, and three kinds of damage
that it says nothing about are looked for as well: bytes left over after the last block, progressive scans that are
missing, and components without a scan.
"""

import io
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cxr_data.images.header import BrokenImage, check_size

EOI, SOS, DHT, DRI, PROGRESSIVE = 0xD9, 0xDA, 0xC4, 0xDD, 0xC2
FRAMES = frozenset(range(0xC0, 0xD0)) - {DHT, 0xC8, 0xCC}
"""Markers of frame headers (T.81, table B.1)."""
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_READ = {0xC0, 0xC1, 0xC2}
_ARITHMETIC, _LS = (0xC9, 0xCA), 0xF7
_ALL = 2**64 - 1
"""Every coefficient of a block, one bit each."""
_MARGIN = b"\x2a" * 16
"""Bytes put after a scan: more than libjpeg reads ahead."""
_MARGIN_PASSED = f"Corrupt JPEG data: {len(_MARGIN)} extraneous bytes before marker 0xd"
_ZEROS = bytes(64)
_WITHOUT_CONSEQUENCE = ("JFIF", "SOS parameters", "Adobe", "ICC marker")
"""Words of libjpeg's warnings on headers that do not change what is decoded."""
_SEGMENTS = {*range(0xC0, 0xD0), *range(SOS, 0xF0), 0xFE} - {0xC8}


class Segment(NamedTuple):
    """A marker and its segment: ``data[start:stop]``, without the marker and the two bytes of its length."""

    marker: int
    start: int
    stop: int


class Frame(NamedTuple):
    """A frame header: marker, sample precision in bits, size in pixels, (identifier, h, v) of each component."""

    marker: int
    precision: int
    width: int
    height: int
    components: tuple[tuple[int, int, int], ...]

    def mcus(self) -> tuple[int, int]:
        """MCUs (a row, rows) of a scan with all components (T.81, A.2)."""
        if len(self.components) == 1:
            return -(-self.width // 8), -(-self.height // 8)
        across, down = self.mcu_size()
        return -(-self.width // across), -(-self.height // down)

    def mcu_size(self) -> tuple[int, int]:
        """Width and height of such an MCU in pixels."""
        if len(self.components) == 1:
            return 8, 8
        return 8 * max(h for _, h, _ in self.components), 8 * max(v for _, _, v in self.components)


def decode_jpeg(data: bytes, least: int | None = None, *, part: bool = False) -> NDArray[np.uint8]:
    """Decode a JPEG of 8 bits a sample as gray, refusing every damage that its codes show.

    Args:
        data: A JPEG file, or the stream in a TIFF strip or a DICOM fragment; what follows its end marker is ignored.
        least: Edge in pixels that has to be left when it is decoded at 1/2, 1/4 or 1/8 of its size; None decodes at
            full size.
        part: A strip or tile of an image whose size has been checked, and which may itself be of any size.

    Returns:
        (H, W) luma, turned as its EXIF orientation says.

    Raises:
        BrokenImage: Damaged, cut, of several pictures, or of a process that is not read (12 bits, lossless, CMYK
            without Adobe's marker).
    """
    parts = segments(data)
    frame = _frame(data, parts)
    if not part:
        check_size(frame.width, frame.height)
    _check_process(data, parts, frame)
    _check_scans(data, parts, frame)
    shortest = min(frame.width, frame.height)
    factor = 1 if least is None else next((f for f in (8, 4, 2) if shortest // f >= least), 1)
    image = _decode(data[: parts[-1].stop], parts, frame, factor)
    if len(frame.components) == 4:
        image = _from_cmyk(image)
    return oriented(image.reshape(image.shape[:2]), _orientation(data, parts))


def segments(data: bytes) -> list[Segment]:
    """The segments of a JPEG up to its end marker; restart markers are part of a scan.

    Within a scan 0xFF is always stuffed, so bytes written over it mostly show as a marker that no encoder writes.

    Raises:
        BrokenImage: A marker that cannot be there, or no end.
    """
    parts: list[Segment] = []
    at, marker = 2, 0
    while True:
        if marker == SOS:
            match = _MARKER.search(data, at)
        else:
            while data[at : at + 2] == b"\xff\xff":  # fill byte
                at += 1
            match = _MARKER.match(data, at)
        if match is None:
            if marker == SOS:
                raise BrokenImage("truncated JPEG: it has no end marker")
            cut = at + 2 > len(data)
            raise BrokenImage(
                "truncated JPEG: it ends within its header" if cut else "damaged JPEG: no marker where one must be"
            )
        at = match.end()
        marker = data[at - 1]
        if marker == EOI:
            return [*parts, Segment(EOI, at, at)]
        if marker == _LS:
            raise BrokenImage("a JPEG-LS file, which is read in DICOM only: convert it to PNG")
        if marker not in _SEGMENTS:
            raise BrokenImage("damaged JPEG: a marker where none may be")
        stop = at + int.from_bytes(data[at : at + 2])
        parts.append(Segment(marker, at + 2, stop))
        at = stop


def oriented(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An image turned and mirrored as an EXIF or TIFF orientation, 1 to 8, asks for; others count as 1."""
    if orientation in (5, 6, 7, 8):
        image = image.T
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _frame(data: bytes, parts: Sequence[Segment]) -> Frame:
    frames = [part for part in parts if part.marker in FRAMES]
    if not frames:
        raise BrokenImage("damaged JPEG: it does not say how large it is")
    if len(frames) > 1:
        raise BrokenImage("a hierarchical JPEG, which is not read: convert it to PNG")
    body = data[frames[0].start : frames[0].stop]
    if len(body) < 6 or len(body) != 6 + 3 * body[5] or not body[5]:
        raise BrokenImage("damaged JPEG: its frame header is of the wrong length")
    if not any(body[1:3]):
        raise BrokenImage("a JPEG that gives its height after its scan, which is not read: convert it to PNG")
    components = tuple((body[i], body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, len(body), 3))
    if not all(1 <= h <= 4 and 1 <= v <= 4 for _, h, v in components):
        raise BrokenImage("damaged JPEG: its sampling factors cannot be")
    return Frame(frames[0].marker, body[0], int.from_bytes(body[3:5]), int.from_bytes(body[1:3]), components)


def _check_process(data: bytes, parts: Sequence[Segment], frame: Frame) -> None:
    if frame.marker in _ARITHMETIC:  # libjpeg reads it, and on beyond the end of the codes without a word
        raise BrokenImage("a JPEG in arithmetic coding, which is not read: damage would not show; convert it to PNG")
    if frame.marker not in _READ or frame.precision != 8:
        kind = "lossless" if frame.marker in (0xC3, 0xCB) else f"{frame.precision}-bit"
        raise BrokenImage(
            f"a {kind} JPEG, for which no decoder outside DICOM is installed: convert it to PNG (of 16 bits)"
        )
    if len(frame.components) not in (1, 3, 4):
        raise BrokenImage(f"a JPEG of {len(frame.components)} channels, which is not read: convert it to PNG")
    if len(frame.components) == 4 and not any(
        part.marker == 0xEE and data[part.start : part.start + 5] == b"Adobe" for part in parts
    ):
        raise BrokenImage("a JPEG in CMYK that does not say whether it is inverted: convert it to gray")
    for part in parts:
        if part.marker == 0xE2 and data[part.start : part.start + 4] == b"MPF\0":
            _refuse_several(data)


def _refuse_several(data: bytes) -> None:
    """Refuse a multi-picture file (CIPA DC-007) with more than one picture beside thumbnails of it."""
    from PIL.MpoImagePlugin import MpoImageFile

    try:
        entries = (MpoImageFile(io.BytesIO(data)).mpinfo or {})[0xB002]
        pictures = sum(not e["Attribute"]["MPType"].startswith("Large Thumbnail") for e in entries)
    except Exception as error:  # what Pillow raises on a damaged index is not documented
        raise BrokenImage("damaged JPEG: its index of pictures cannot be read") from error
    if pictures > 1:
        raise BrokenImage(f"a JPEG of {pictures} pictures; one radiograph was expected")


def _check_scans(data: bytes, parts: Sequence[Segment], frame: Frame) -> None:
    """Refuse a stream whose scans do not give every coefficient of every component to its last bit."""
    left = dict.fromkeys((identifier for identifier, _, _ in frame.components), _ALL)
    for part in parts:
        if part.marker != SOS:
            continue
        body = data[part.start : part.stop]
        if len(body) < 4 or len(body) != 4 + 2 * body[0] or any(i not in left for i in body[1:-3:2]):
            raise BrokenImage("damaged JPEG: the header of a scan cannot be read")
        for identifier in body[1:-3:2]:
            if frame.marker != PROGRESSIVE:
                left[identifier] = 0
            elif not body[-1] & 15:  # no bit of these coefficients is left for a later scan
                left[identifier] &= ~((2 << body[-2]) - (1 << body[-3]))
    if any(left.values()):
        raise BrokenImage("truncated JPEG: scans are missing")


def _with_extra_row(data: bytes, parts: Sequence[Segment], frame: Frame) -> bytes | None:
    """The stream of a single sequential scan with :data:`_MARGIN`, a restart marker and a row of empty MCUs after it.

    libjpeg says how many bytes it passed over before a restart marker, but not before an end marker. So a sound scan is
    one of which it says that it passed over the margin, no byte less and none more. None where that cannot be done:
    several scans, restart intervals that do not end with the scan, more MCUs than an interval counts.
    """
    scans = [part for part in parts if part.marker == SOS]
    (a_row, rows), down = frame.mcus(), frame.mcu_size()[1]
    if len(scans) != 1 or frame.marker not in (0xC0, 0xC1) or frame.height + down > 65535:
        return None
    restarts = [int.from_bytes(data[part.start : part.stop]) for part in parts if part.marker == DRI]
    interval = a_row * rows
    if restarts and restarts[-1]:
        interval = restarts[-1]
        _check_restarts(data[scans[0].stop : parts[-1].start - 2], -(-a_row * rows // interval) - 1)
    if interval > 65535 or (a_row * rows) % interval or a_row > interval:
        return None
    tables = b"".join(data[part.start : part.stop] for part in parts if part.marker == DHT)
    scan = data[scans[0].start : scans[0].stop]
    row = _empty_row(tables, scan, frame.components, a_row)
    if row is None:
        return None
    (head,) = (part for part in parts if part.marker in FRAMES)
    height = (rows * down + down).to_bytes(2)
    before = data[: head.start + 1] + height + data[head.start + 3 : scans[0].start - 4]
    restart = b"\xff\xdd\x00\x04" + interval.to_bytes(2)
    marker = bytes([0xFF, 0xD0 + (a_row * rows // interval - 1) % 8])
    coded = data[scans[0].start - 4 : parts[-1].start - 2]
    return b"".join([before, restart, coded, _MARGIN, marker, row, b"\xff\xd9"])


def _check_restarts(coded: bytes, count: int) -> None:
    """Refuse a scan without its ``count`` restart markers, numbered 0 to 7 over and over."""
    numbers = bytes(match[0][1] for match in re.finditer(rb"\xff[\xd0-\xd7]", coded))
    if numbers != bytes(0xD0 + i % 8 for i in range(count)):
        raise BrokenImage(
            "truncated JPEG: its scan ends early" if len(numbers) < count else "damaged JPEG: its scan cannot be read"
        )


@lru_cache(maxsize=64)
def _empty_row(tables: bytes, scan: bytes, components: tuple[tuple[int, int, int], ...], count: int) -> bytes | None:
    """Coded bytes of MCUs that are zero throughout, None where the tables have no codes for that."""
    codes = _zero_codes(tables)
    sampling = {identifier: h * v for identifier, h, v in components}
    bits = ""
    for i in range(1, 1 + 2 * scan[0], 2):
        direct, alternating = codes.get(scan[i + 1] >> 4), codes.get(16 | (scan[i + 1] & 15))
        if direct is None or alternating is None:
            return None
        bits += (direct + alternating) * (sampling[scan[i]] if scan[0] > 1 else 1)
    bits *= count
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")


def _zero_codes(tables: bytes) -> dict[int, str]:
    """Code of the symbol 0 ("no difference", "end of block") in each Huffman table, as bits (T.81, annex C)."""
    codes_of_zero: dict[int, str] = {}
    at = 0
    while at + 17 <= len(tables):
        counts = tables[at + 1 : at + 17]
        symbols = tables[at + 17 : at + 17 + sum(counts)]
        codes_of_zero.pop(tables[at], None)
        code = index = 0
        for length, number in enumerate(counts, 1):
            if 0 in symbols[index : index + number]:
                codes_of_zero[tables[at]] = format(code + symbols.index(0, index) - index, f"0{length}b")
                break
            index += number
            code = (code + number) << 1
        at += 17 + sum(counts)
    return codes_of_zero


def _decode(data: bytes, parts: Sequence[Segment], frame: Frame, factor: int) -> NDArray[np.uint8]:
    """Decode with libjpeg-turbo, refusing what it warns of.

    Its first warning is the only one it words, and it comes after the pixels were written.
    """
    colour, channels = ("CMYK", 4) if len(frame.components) == 4 else ("GRAY", 1)
    width, height = -(-frame.width // factor), -(-frame.height // factor)
    least = (width, height) if factor > 1 else (0, 0)
    stream = _with_extra_row(data, parts, frame)
    down = frame.mcu_size()[1]
    rows = height if stream is None else -(-(frame.mcus()[1] + 1) * down // factor)
    image = np.empty((rows, width, channels), np.uint8)
    said = ""
    try:
        simplejpeg.decode_jpeg(stream or data, colour, min_width=least[0], min_height=least[1], buffer=image)
    except ValueError as error:
        said = str(error)
    if said.startswith(_MARGIN_PASSED):
        return image[:height]
    if stream is None and not said:
        _check_last_scan(data, parts, frame, colour)
        return image[:height]
    if any(words in said for words in _WITHOUT_CONSEQUENCE) and data != (mended := _mended(data, parts, frame)):
        return _decode(mended, parts, frame, factor)
    if any(words in said for words in ("Unsupported", "not supported", "Sorry")):
        raise BrokenImage("a JPEG of a kind that is not read: convert it to PNG")
    passed = re.match(r"Corrupt JPEG data: (\d+) extraneous", said)
    if not said or "premature" in said.lower() or (stream and passed and int(passed[1]) < len(_MARGIN)):
        raise BrokenImage("truncated JPEG: its scan ends early")
    raise BrokenImage("damaged JPEG: its scan cannot be read")


def _check_last_scan(data: bytes, parts: Sequence[Segment], frame: Frame, colour: str) -> None:
    """Refuse a last scan that does not need its last byte, as every sound one does, and zeros no encoder writes."""
    if frame.marker == PROGRESSIVE:
        for part, after in pairwise(parts):
            # Blank blocks become one run in scans of AC coefficients.
            if part.marker == SOS and data[part.stop - 3] and _ZEROS in data[part.stop : after.start]:
                raise BrokenImage("damaged JPEG: zero bytes within a scan")
    last = parts[-1].start - 2
    while data[last - 1] == 0xFF:  # fill byte
        last -= 1
    last -= 2 if data[last - 2 : last] == b"\xff\x00" else 1
    try:
        simplejpeg.decode_jpeg(data[:last] + b"\xff\xd9", colour, min_height=1, min_width=1)
    except ValueError:
        return
    raise BrokenImage("damaged JPEG: its scan cannot be read")


def _mended(data: bytes, parts: Sequence[Segment], frame: Frame) -> bytes:
    """A stream with headers libjpeg has nothing to say on, but takes as it takes the ones that are there."""
    new = bytearray(data)
    for part in parts:
        if part.marker == 0xE0 and new[part.start : part.start + 5] == b"JFIF\0":
            new[part.start + 5] = 1
        if part.marker == 0xE2 and new[part.start : part.start + 11] == b"ICC_PROFILE":
            new[part.start] = 0
        if part.marker == 0xEE and new[part.start : part.start + 5] == b"Adobe":
            new[part.start + 11] = len(frame.components) // 2  # YCbCr, YCCK
        if part.marker == SOS and frame.marker != PROGRESSIVE:
            new[part.stop - 3 : part.stop] = b"\x00\x3f\x00"
    return bytes(new)


def _from_cmyk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of (H, W, 4) inverted CMYK, which is what Adobe writes: colour times black, both as light."""
    light = image[..., :3].astype(np.float32) * (image[..., 3:].astype(np.float32) / 255)
    return np.rint(cv2.cvtColor(light, cv2.COLOR_RGB2GRAY)).astype(np.uint8)


def _orientation(data: bytes, parts: Sequence[Segment]) -> int:
    """EXIF orientation, 1 where there is none or it cannot be read."""
    for part in parts:
        if part.marker == 0xE1 and data[part.start : part.start + 6] == b"Exif\0\0":
            return exif_orientation(data[part.start : part.stop])
    return 1


def exif_orientation(exif: bytes) -> int:
    """Orientation in an EXIF block, 1 where there is none or it cannot be read."""
    from PIL.Image import Exif

    block = Exif()
    try:
        block.load(exif)
        return int(block.get(0x0112, 1))
    except Exception:  # a damaged block can fail anywhere in Pillow; the image is not hurt by it
        return 1
