"""Lossless decoders of TIFF strips that say whether a strip is whole, which libtiff's callers do not learn."""

import zlib

import numpy as np
from numpy.typing import NDArray

from cxr_data.images.header import BrokenImage


def deflate_decode(data: bytes, limit: int) -> bytes:
    """Decode a zlib stream up to its checksum.

    Args:
        data: The stream; bytes after it are ignored.
        limit: Bytes that it may hold at most.

    Raises:
        BrokenImage: Damaged, cut or too long.
    """
    decoder = zlib.decompressobj()
    try:
        output = decoder.decompress(data, limit + 1)
        if len(output) <= limit and not decoder.eof:
            output += decoder.decompress(decoder.unconsumed_tail, 1)
    except zlib.error as error:
        raise BrokenImage("damaged TIFF: a strip or tile cannot be decompressed") from error
    if not decoder.eof or len(output) > limit:
        raise BrokenImage("damaged TIFF: a strip or tile ends early or late")
    return output


def unpack_bits(data: bytes, most: int) -> tuple[bytes, bytes] | None:
    """Decode Apple's PackBits (TIFF 6.0, section 9; DICOM PS3.5, annex G).

    Args:
        data: The coded bytes.
        most: Decoded bytes from which no further run is decoded.

    Returns:
        The decoded bytes, and what was left of the data; None where a run ends beyond the data.
    """
    output, at = bytearray(), 0
    while at < len(data) and len(output) < most:
        code = data[at]
        if code < 128:
            output += data[at + 1 : at + 2 + code]
            at += 2 + code
        else:
            if code > 128:
                output += data[at + 1 : at + 2] * (257 - code)
            at += 2 if code > 128 else 1
    return None if at > len(data) else (bytes(output), data[at:])


def packbits_decode(data: bytes, limit: int) -> bytes:
    """Decode a strip or tile in PackBits.

    Args:
        data: The coded bytes.
        limit: Bytes that they may hold at most.

    Raises:
        BrokenImage: A run that ends beyond the data, or too many bytes.
    """
    unpacked = unpack_bits(data, limit)
    if unpacked is None or len(unpacked[0]) > limit or unpacked[1].strip(b"\0\x80"):
        raise BrokenImage("damaged TIFF: a strip or tile ends early or late")
    return unpacked[0]


_CLEAR, _END, _FIRST = 256, 257, 258
_CODES = 2**12 - _FIRST + 1
"""Codes between two that clear the table."""


def _widths() -> NDArray[np.int64]:
    """Bits of each code after the table was cleared: one more as soon as the next entry is 2^bits - 1."""
    entries = _FIRST + np.maximum(np.arange(_CODES) - 1, 0)
    return 9 + (entries[:, None] >= [511, 1023, 2047]).sum(axis=1)


_WIDTHS = _widths()
_OFFSETS = np.concatenate([[0], np.cumsum(_WIDTHS)[:-1]])


def lzw_decode(data: bytes, limit: int) -> bytes:
    """Decode LZW as TIFF has it (TIFF 6.0, section 13): high bits first, wider codes one entry early.

    All codes up to the next clear code are decoded at once. A code's string is that of an earlier code and one byte
    more, and that byte follows in the output: so each output byte is a copy of an earlier one or a literal, and
    following these references is a few gathers over the whole block.

    Args:
        data: The coded bytes.
        limit: Bytes that they may hold at most.

    Raises:
        BrokenImage: A code that cannot be, no end code, or too many bytes.
    """
    padded = np.frombuffer(data + bytes(3), np.uint8).astype(np.int32)
    blocks: list[bytes] = []
    at, total, ended = 0, 0, False
    while not ended:
        places = at + _OFFSETS
        places = places[: np.searchsorted(places + _WIDTHS, 8 * len(data), side="right")]
        first = places >> 3
        window = padded[first] << 16 | padded[first + 1] << 8 | padded[first + 2]
        widths = _WIDTHS[: len(places)]
        codes = window >> (24 - (places & 7) - widths) & ((1 << widths) - 1)
        stops = np.flatnonzero((codes == _CLEAR) | (codes == _END))
        if not len(stops):
            if total + _length(codes) == limit:  # writers of old end without the end code
                stops, ended = np.array([len(codes)]), True
            else:
                raise BrokenImage("damaged TIFF: a strip or tile ends early or late")
        stop = int(stops[0])
        ended = ended or codes[stop] == _END
        block = _strings(codes[:stop], limit - total)
        blocks.append(block)
        total += len(block)
        if not ended:
            at = int(places[stop] + widths[stop])
    return b"".join(blocks)


def _length(codes: NDArray[np.int64]) -> int:
    try:
        return int(_lengths(codes).sum())
    except BrokenImage:
        return -1


def _lengths(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes that each code stands for: one more than the code before which its entry was made."""
    place = np.arange(len(codes))
    copied = codes >= _FIRST
    parent = np.where(copied, codes - _FIRST, place)
    if (copied & (parent >= place)).any():
        raise BrokenImage("damaged TIFF: a strip or tile cannot be decompressed")
    steps = copied.astype(np.int64)
    while steps[parent].any():
        steps, parent = steps + steps[parent], parent[parent]
    return 1 + steps


def _strings(codes: NDArray[np.int64], limit: int) -> bytes:
    """Output of the codes between two clear codes."""
    lengths = _lengths(codes)
    total = int(lengths.sum())
    if total > limit:
        raise BrokenImage("damaged TIFF: a strip or tile ends early or late")
    starts = np.cumsum(lengths) - lengths
    copied = codes >= _FIRST
    back = np.zeros(len(codes), np.int64)
    back[copied] = starts[copied] - starts[codes[copied] - _FIRST]
    source = np.arange(total) - np.repeat(back, lengths)
    while True:
        further = source[source]
        if np.array_equal(further, source):
            break
        source = further
    literal = np.zeros(total, np.uint8)
    literal[starts[~copied]] = codes[~copied]
    return literal[source].tobytes()
