"""Following the Huffman codes of lossless JPEG (ITU T.81, process 14) and of JPEG of 12 bits (process 4) to the end.

Only DICOM uses these kinds of JPEG, and their decoders say nothing of damage.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.images.header import BrokenImage

_DAMAGED = "damaged DICOM: the scan of its JPEG pixels cannot be read to its end"


class _Scan(NamedTuple):
    """Coded bytes, restart interval, number of units, and the Huffman table of each sample in a unit."""

    coded: bytes
    interval: int
    units: int
    samples: list[int]


def check_huffman(data: bytes) -> None:
    """Refuse a stream whose codes do not end with its scan.

    Args:
        data: A lossless JPEG stream, or a sequential one of one component, up to its end marker.

    Raises:
        BrokenImage: A code that does not exist, a scan that ends early, or bytes left over at its end.
    """
    try:
        _check(data)
    except (IndexError, KeyError, ZeroDivisionError) as error:
        raise BrokenImage(_DAMAGED) from error


def _check(data: bytes) -> None:
    at, interval, frame, lossless = 2, 0, b"", True
    tables: dict[int, NDArray[np.uint8]] = {}
    runs: dict[int, NDArray[np.uint8]] = {}
    while (marker := data[at + 1]) != 0xD9:
        if marker == 0xFF:
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4])
        segment = data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xC4:
            tables |= _tables(segment)
            runs |= _tables(segment, runs=True)
        elif marker == 0xDD:
            interval = int.from_bytes(segment[:2])
        elif marker in (0xC1, 0xC3):
            frame, lossless = segment, marker == 0xC3
        elif marker == 0xDA:
            end = _coded_end(data, at)
            if lossless:
                # Selection values beyond 7 and point transforms beyond the depth cannot be (T.81, H.2.1).
                if not 1 <= segment[-3] <= 7 or segment[-2] or segment[-1] >= frame[0]:
                    raise BrokenImage(_DAMAGED)
                _follow(_scan(data[at:end], segment, frame, interval), tables)
            else:
                direct, alternating = segment[2] >> 4, 0x10 | (segment[2] & 15)
                by_code = tables[direct], tables[alternating], runs[alternating]
                _follow_blocks(data[at:end], frame, interval, by_code)
            at = end


def _tables(segment: bytes, *, runs: bool = False) -> dict[int, NDArray[np.uint8]]:
    """Number of a table → (65536,) bits that a code takes with its value, by the next 16 bits; 0 where none begins.

    With ``runs``: coefficients that a code of a table of these (T.81, F.1.2.2) accounts for; 64 ends the block.
    """
    tables, at = {}, 0
    while at < len(segment):
        counts = list(segment[at + 1 : at + 17])
        symbols = segment[at + 17 : at + 17 + sum(counts)]
        table = np.zeros(2**16, np.uint8)
        code = taken = 0
        for length, count in enumerate(counts, 1):
            for symbol in symbols[taken : taken + count]:
                if segment[at] >= 0x10:  # a run and the bits of the coefficient after it
                    bits = length + (symbol & 15)
                    meaning = 1 + (symbol >> 4) if symbol & 15 or symbol == 0xF0 else 64
                else:  # a difference of 16 bits has one value only (H.1.2.2)
                    bits, meaning = length + (symbol if symbol < 16 else 0), 1
                table[code << (16 - length) : (code + 1) << (16 - length)] = meaning if runs else bits
                code += 1
            code <<= 1
            taken += count
        tables[segment[at]] = table
        at += 17 + sum(counts)
    return tables


def _coded_end(data: bytes, at: int) -> int:
    while True:
        at = data.index(b"\xff", at)
        if data[at + 1] not in (0, 0xFF) and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 1 if data[at + 1] == 0xFF else 2


def _scan(coded: bytes, header: bytes, frame: bytes, interval: int) -> _Scan:
    rows, columns = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    sampling = {frame[6 + 3 * i]: (frame[7 + 3 * i] >> 4, frame[7 + 3 * i] & 15) for i in range(frame[5])}
    chosen = [(header[1 + 2 * i], header[2 + 2 * i] >> 4) for i in range(header[0])]
    widest = max(across for across, _ in sampling.values())
    highest = max(down for _, down in sampling.values())
    if len(chosen) == 1:  # not interleaved: the component's own samples
        across, down = sampling[chosen[0][0]]
        units = -(-columns * across // widest) * -(-rows * down // highest)
        return _Scan(coded, interval, units, [chosen[0][1]])
    units = -(-columns // widest) * -(-rows // highest)
    samples = [table for component, table in chosen for _ in range(sampling[component][0] * sampling[component][1])]
    return _Scan(coded, interval, units, samples)


def _follow(scan: _Scan, tables: dict[int, NDArray[np.uint8]]) -> None:
    pieces = _pieces(scan.coded)
    interval = scan.interval or scan.units
    if len(pieces) != -(-scan.units // interval):
        raise BrokenImage(_DAMAGED)
    for number, piece in enumerate(pieces):
        once = {table: _by_bit(piece, tables[table]) for table in set(scan.samples)}
        steps = [once[table] for table in scan.samples]
        at, end = 0, 8 * len(piece)
        for _ in range(min(interval, scan.units - number * interval)):
            for step in steps:
                taken = step[at] if at < end else 0
                if not taken:
                    raise BrokenImage(_DAMAGED)
                at += taken
        if not end - 8 < at <= end:
            raise BrokenImage(_DAMAGED)


def _follow_blocks(
    coded: bytes, frame: bytes, interval: int, tables: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    """Follow the blocks of 64 coefficients of a scan of one component."""
    blocks = -(-int.from_bytes(frame[1:3]) // 8) * -(-int.from_bytes(frame[3:5]) // 8)
    interval = interval or blocks
    pieces = _pieces(coded)
    if len(pieces) != -(-blocks // interval):
        raise BrokenImage(_DAMAGED)
    for number, piece in enumerate(pieces):
        direct, alternating, runs = (_by_bit(piece, table) for table in tables)
        at, end = 0, 8 * len(piece)
        for _ in range(min(interval, blocks - number * interval)):
            taken, coefficients = direct[at] if at < end else 0, 1
            at += taken
            while taken and coefficients < 64:
                taken, run = (alternating[at], runs[at]) if at < end else (0, 0)
                at += taken
                coefficients = 64 if run == 64 else coefficients + run
            if not taken or coefficients > 64:
                raise BrokenImage(_DAMAGED)
        if not end - 8 < at <= end:
            raise BrokenImage(_DAMAGED)


def _pieces(coded: bytes) -> list[bytes]:
    """The scan between its restart markers, without stuffed bytes and without fill bytes before a marker."""
    values = np.frombuffer(coded, np.uint8)
    at = np.flatnonzero((values[:-1] == 0xFF) & (values[1:] >= 0xD0) & (values[1:] <= 0xD7)).tolist()
    starts, ends = [0, *(place + 2 for place in at)], [*at, len(coded)]
    return [
        coded[start:end].rstrip(b"\xff").replace(b"\xff\x00", b"\xff") for start, end in zip(starts, ends, strict=True)
    ]


def _by_bit(piece: bytes, table: NDArray[np.uint8]) -> bytes:
    """A table (65536,) looked up at every bit of the bytes."""
    padded = np.frombuffer(piece + b"\xff\xff\xff", np.uint8)
    shifted = np.empty((len(piece), 8), np.uint8)
    for start in range(0, len(piece), 2**18):
        part = padded[start : start + 2**18 + 2].astype(np.uint32)
        window = part[:-2] << 16 | part[1:-1] << 8 | part[2:]
        for shift in range(8):
            shifted[start : start + len(window), shift] = table[(window >> (8 - shift)) & 0xFFFF][: len(piece) - start]
    return shifted.tobytes()
