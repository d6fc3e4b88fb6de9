"""Damage inside a compressed stream, looked for before it is decoded: one check for every file format that holds it.

Decoders fill what they cannot read with gray and go on. These checks follow the coded bits to the end of every scan:
a code that does not exist, a scan that ends early, and bytes left over after its last block are damage.
"""

from collections.abc import Iterator

import simplejpeg

from cxr_data.images.header import BrokenImage, jpeg_end

_HARMLESS = ("Adobe", "JFIF", "SOS parameters")
"""Words of libjpeg's warnings that say nothing about the coded pixels."""
_ZEROS = bytes(64)
"""No encoder writes as many zero bits in a progressive scan of AC coefficients: blank blocks become one run there."""


def check_jpeg(data: bytes) -> None:
    """Refuse a damaged JPEG stream (ITU T.81), baseline or progressive, of 8 bits; nothing is printed.

    libjpeg's warnings count as damage. A scan must also need its last byte: damage mostly shifts the codes after it, so
    that the last block ends before the scan does or after it. Every sound scan fails without its last byte.

    Args:
        data: A JPEG file, or the stream in a TIFF strip or a DICOM fragment; what follows its end marker is ignored.

    Raises:
        BrokenImage: Damaged or cut.
    """
    end = jpeg_end(data)
    data = data[: end + 2]
    try:
        colour = "CMYK" if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK") else "GRAY"
    except ValueError as error:
        raise BrokenImage("damaged JPEG: its header cannot be read") from error
    said = _said(data, colour)
    if said is None:
        for first, start, last in _scans(data):
            if first > 0 and _ZEROS in data[start:last]:
                raise BrokenImage("damaged JPEG: zero bytes within a scan")
            if _said(data[:last] + b"\xff\xd9", colour) is None:
                raise BrokenImage("damaged JPEG: bytes are left over at the end of a scan")
    elif not any(word in said for word in _HARMLESS):
        early = "premature" in said.lower()
        raise BrokenImage("truncated JPEG: its scan ends early" if early else "damaged JPEG: its scan cannot be read")


def _said(data: bytes, colour: str) -> str | None:
    """The first warning or error of libjpeg on a stream; None when it has none."""
    try:
        simplejpeg.decode_jpeg(data, colour, fastdct=True, fastupsample=True, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        return str(error)
    return None


def _scans(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(first coefficient, first byte, last byte) of each scan in a stream that :func:`jpeg_end` has passed."""
    at = 2
    while data[at + 1] != 0xD9:
        if data[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        scan = data[at + 1] == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
        if scan:
            first, start = data[at - 3], at
            at = _scan_end(data, at)
            yield first, start, at - 2 if data[at - 2 : at] == b"\xff\x00" else at - 1


def _scan_end(data: bytes, at: int) -> int:
    """Position of the first marker after a scan's coded bytes, restart markers being part of them."""
    while True:
        at = data.index(b"\xff", at)
        if data[at + 1] not in (0, 0xFF) and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 1 if data[at + 1] == 0xFF else 2
