"""The compressed streams inside DICOM: which kind one is, what it says of itself, and whether it is whole.

The kind is told by the bytes, not by the transfer syntax. Decoders make a picture of most damaged streams, so each kind
has a check of its own here; JPEG of 8 bits is checked by :func:`cxr_data.images.jpeg.decode_jpeg`, as in every file.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.images.codecs import unpack_bits
from cxr_data.images.header import BrokenImage
from cxr_data.images.huffman import check_huffman
from cxr_data.images.jpeg import decode_jpeg, segments

_J2K = b"\xff\x4f\xff\x51"


class Stream(NamedTuple):
    """What a compressed stream says of itself.

    Its kind is "JPEG", "JPEG of 12 bits", "JPEG lossless", "JPEG-LS", "JPEG 2000" or "HTJ2K".
    """

    kind: str
    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool


def codestream(data: bytes) -> bytes:
    """The stream proper: without the boxes of a JP2 file around it and the padding after it.

    Raises:
        BrokenImage: Not a stream of a known kind, cut, or more than one.
    """
    if data[4:8] == b"jP  " and _J2K in data:
        data = data[data.index(_J2K) :]
    if data[:4] == _J2K:
        end = _j2k_end(data)
    elif data[:3] == b"\xff\xd8\xff":
        end = _jls_end(data) if _frame(data)[0] == 0xF7 else segments(data)[-1].stop
    elif data[:4] == b"\x00\x00\x01\xb3" or data[4:8] == b"ftyp":
        raise BrokenImage("a DICOM video; one radiograph was expected")
    elif data[:2] == b"\xff\x0a" or data[4:8] == b"JXL ":
        raise BrokenImage("a DICOM file in JPEG XL, which is not read: store it losslessly")
    else:
        raise BrokenImage("damaged DICOM: its pixels are compressed in no known way")
    rest = data[end:].lstrip(b"\0")
    if rest[:3] in (b"\xff\xd8\xff", _J2K[:3]):
        raise BrokenImage("a DICOM file of more than one frame; one radiograph was expected")
    if len(rest.strip(b"\xff\xd9")) > 1:
        raise BrokenImage("damaged DICOM: bytes are left over after its compressed pixels")
    return data[:end]


def describe(data: bytes) -> Stream:
    """What a stream, as :func:`codestream` gives it, says of itself.

    Raises:
        BrokenImage: It ends within its header, or is a kind of JPEG that no decoder reads.
    """
    try:
        return _j2k_header(data) if data[:4] == _J2K else _jpeg_header(data)
    except IndexError as error:
        raise BrokenImage("truncated DICOM: its compressed pixels end within their header") from error


def check_stream(data: bytes, stream: Stream) -> None:
    """Refuse a damaged stream.

    Raises:
        BrokenImage: Damaged or cut.
    """
    if stream.kind == "JPEG":
        decode_jpeg(data, least=1, part=True)  # the pixels are decoded with the colours of the header
    elif stream.kind in ("JPEG lossless", "JPEG of 12 bits"):
        check_huffman(data)
    elif stream.kind == "JPEG-LS":
        scan = data.index(b"\xff\xda")
        # A 0 bit is stuffed after every byte of ones (ITU T.87, 9.1).
        _refuse_codes(data[scan + 2 : -2], 0x7F, ())
    else:
        _check_j2k(data)


def check_jpeg_2000(data: bytes) -> None:
    """Refuse a damaged JPEG 2000 file, in the words for files outside DICOM.

    Raises:
        BrokenImage: Damaged or cut.
    """
    try:
        stream = data[max(data.find(_J2K), 0) :]
        _check_j2k(stream[: _j2k_end(stream)])
    except BrokenImage as error:
        raise BrokenImage(str(error).replace("DICOM", "JPEG 2000", 1)) from error
    except IndexError as error:
        raise BrokenImage("truncated JPEG 2000: it ends within its header") from error


def unpack_rle(data: bytes, rows: int, columns: int, samples: int, itemsize: int) -> NDArray[np.uint8]:
    """Decode one frame of DICOM RLE (PS3.5 annex G), every byte of it accounted for.

    Args:
        data: The frame.
        rows: Height of the image.
        columns: Width.
        samples: Channels.
        itemsize: Bytes a sample.

    Returns:
        (samples, rows, columns, itemsize) bytes, the most significant first.

    Raises:
        BrokenImage: Another number of segments or of decoded bytes than the image has.
    """
    if len(data) < 64:
        raise BrokenImage("truncated DICOM: its RLE header is cut")
    number, *starts = np.frombuffer(data[:64], "<u4").tolist()
    if number != samples * itemsize:
        raise BrokenImage(f"damaged DICOM: {number} RLE segments where its pixels need {samples * itemsize}")
    ends = [*starts[1:number], len(data)]
    size = rows * columns
    planes = [_unpacked(data[start:end], size) for start, end in zip(starts[:number], ends, strict=True)]
    decoded = np.stack([np.frombuffer(plane, np.uint8) for plane in planes])
    return decoded.reshape(samples, itemsize, rows, columns).transpose(0, 2, 3, 1)


def _unpacked(data: bytes, size: int) -> bytes:
    """PackBits; the segment must end with the plane, but for one byte of padding and codes that do nothing."""
    unpacked = unpack_bits(data, size)
    if unpacked is None or len(unpacked[0]) != size or unpacked[1].strip(b"\x80\x00"):
        raise BrokenImage("damaged DICOM: its RLE pixels decode to another size than the image has")
    return unpacked[0]


def _frame(data: bytes) -> tuple[int, int]:
    """(marker, position of its segment) of the first frame header of a JPEG or JPEG-LS stream."""
    at = 2
    try:
        while True:
            code = data[at + 1]
            if data[at] != 0xFF or code in (0xD9, 0xDA):
                raise BrokenImage("damaged DICOM: its compressed pixels do not say how large they are")
            if code == 0xF7 or (0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)):
                return code, at + 2
            at += 1 if code == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    except IndexError as error:
        raise BrokenImage("truncated DICOM: its compressed pixels end within their header") from error


def _jpeg_header(data: bytes) -> Stream:
    marker, at = _frame(data)
    kinds = {0xC0: "JPEG", 0xC1: "JPEG", 0xC2: "JPEG", 0xC3: "JPEG lossless", 0xF7: "JPEG-LS"}
    if marker not in kinds:
        raise BrokenImage("a DICOM file in a kind of JPEG that no decoder reads")
    bits, samples = data[at + 2], data[at + 7]
    kind = kinds[marker]
    if kind == "JPEG" and bits != 8:
        if (bits, samples, marker) != (12, 1, 0xC1):
            what = f"{'progressive ' if marker == 0xC2 else ''}JPEG of {bits} bits{' in colour' if samples > 1 else ''}"
            raise BrokenImage(
                f"a DICOM file in {what}, for which there is no decoder: store it losslessly (dcmdjpeg of DCMTK)"
            )
        kind = "JPEG of 12 bits"
    rows, columns = int.from_bytes(data[at + 3 : at + 5]), int.from_bytes(data[at + 5 : at + 7])
    return Stream(kind, rows, columns, samples, bits, False)


def _jls_end(data: bytes) -> int:
    """Where a JPEG-LS stream ends: within its scans a byte of ones is followed by one below 0x80."""
    end = data.find(b"\xff\xd9", data.find(b"\xff\xda"))
    if b"\xff\xda" not in data or end < 0:
        raise BrokenImage("truncated DICOM: its compressed pixels have no end")
    return end + 2


def _j2k_header(data: bytes) -> Stream:
    """SIZ (ITU T.800, A.5.1); a CAP segment marks high-throughput streams (T.814)."""
    right, bottom, left, top = (int.from_bytes(data[at : at + 4]) for at in (8, 12, 16, 20))
    samples, depths = int.from_bytes(data[40:42]), {data[42 + 3 * i] for i in range(int.from_bytes(data[40:42]))}
    if len(depths) != 1:
        raise BrokenImage("a DICOM file whose channels differ in depth")
    (bits,) = depths
    after = 4 + int.from_bytes(data[4:6])
    kind = "HTJ2K" if data[after : after + 2] == b"\xff\x50" else "JPEG 2000"
    return Stream(kind, bottom - top, right - left, samples, (bits & 0x7F) + 1, bits >= 0x80)


def _tile_parts(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of the tile-parts' segments; the last ends where the end marker must be."""
    at, parts = 2, []
    while data[at : at + 2] != b"\xff\x90":
        if data[at : at + 1] != b"\xff" or at + 4 > len(data):
            raise BrokenImage("damaged DICOM: the header of its JPEG 2000 pixels is broken")
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    while data[at : at + 2] == b"\xff\x90":
        length = int.from_bytes(data[at + 6 : at + 10])
        end = at + length if length else data.rfind(b"\xff\xd9")
        if end <= at + 12 or end > len(data):
            raise BrokenImage("truncated DICOM: its JPEG 2000 pixels end early")
        parts.append((at, end))
        at = end
    return parts


def _j2k_end(data: bytes) -> int:
    end = _tile_parts(data)[-1][1]
    if data[end : end + 2] != b"\xff\xd9":
        raise BrokenImage("damaged DICOM: its JPEG 2000 pixels have no end where one must be")
    return end + 2


def _check_j2k(data: bytes) -> None:
    """No coded byte of ones is followed by one above 0x8F (T.800, B.10.1), and only empty packets are zero bytes."""
    zeros = bytes(8 + _packets(data))
    for start, end in _tile_parts(data):
        begin = data.find(b"\xff\x93", start, end)
        if begin < 0:
            raise BrokenImage("damaged DICOM: a tile of its JPEG 2000 pixels is broken")
        _refuse_codes(data[begin + 2 : end], 0x8F, (0x91, 0x92))  # markers of packets
        if data.find(zeros, begin, end) >= 0:
            raise BrokenImage("damaged DICOM: zero bytes within its JPEG 2000 pixels")


def _packets(data: bytes) -> int:
    """Most packets a tile can have: layers x components x precincts (T.800, A.6.1)."""
    at, siz = 2, data
    while data[at : at + 2] != b"\xff\x52":
        if data[at : at + 1] != b"\xff" or data[at : at + 2] == b"\xff\x90":
            raise BrokenImage("damaged DICOM: the header of its JPEG 2000 pixels is broken")
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    styled, layers, levels = data[at + 4] & 1, int.from_bytes(data[at + 6 : at + 8]), data[at + 9]
    width, height = int.from_bytes(siz[24:28]), int.from_bytes(siz[28:32])
    width, height = min(width, int.from_bytes(siz[8:12])), min(height, int.from_bytes(siz[12:16]))
    precincts = 0
    for level in range(min(levels, 32) + 1):
        size = data[at + 14 + level] if styled else 0xFF
        down = min(levels, 32) - level
        across, along = 2 ** (down + (size & 15)), 2 ** (down + (size >> 4))
        precincts += (width // across + 2) * (height // along + 2) if styled else 1
    return layers * precincts * int.from_bytes(siz[40:42])


def _refuse_codes(coded: bytes, highest: int, allowed: tuple[int, ...]) -> None:
    """Refuse bytes of ones that are followed by what the coder never writes after one."""
    values = np.frombuffer(coded, np.uint8)
    following = values[1:][values[:-1] == 0xFF]
    if (following[~np.isin(following, allowed)] > highest).any():
        raise BrokenImage("damaged DICOM: its compressed pixels hold bytes that no coder writes")
