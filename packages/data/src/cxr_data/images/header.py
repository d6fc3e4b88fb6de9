"""What a file claims to be, read from its first bytes: nothing is decoded before its size is known."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxr_data.images.elements import SNIFFED, is_dicom

MAX_PIXELS = 100_000_000
"""Largest image that is decoded; the largest radiographs in use have about 25 million pixels."""
MIN_EDGE = 16
_FIRST_BYTES = 2**16
_JPEG_SEGMENTS = {*range(0xC0, 0xD0), *range(0xDA, 0xF0), 0xFE} - {0xC8}

_ELSE = {
    b"GIF8": "a GIF, which is not read: convert it to PNG",
    b"PK\x03\x04": "not an image (a zip archive?)",
    b"\x1f\x8b": "not an image (a gzip archive?)",
    b"%PDF": "not an image (a PDF?)",
    b"\x00\x00\x00\x0cjP": "a JPEG 2000 file, which is not read outside DICOM: convert it to PNG",
    b"\xff\x4f\xff\x51": "a JPEG 2000 file, which is not read outside DICOM: convert it to PNG",
    b"version https://git-lfs": "not an image (a Git LFS pointer: run `git lfs pull`)",
}


class BrokenImage(Exception):
    """A file that cannot become a radiograph; the message is the reason in plain words."""


class Header(NamedTuple):
    """Kind and size a file claims; the size is 0 for DICOM, which says it in its data set."""

    kind: str
    width: int
    height: int


def inspect(data: bytes) -> Header:
    """Tell what a file is and how large its image would be.

    Args:
        data: The whole file.

    Returns:
        Kind ("JPEG", "PNG", "TIFF", "BMP" or "DICOM"), width and height.

    Raises:
        BrokenImage: Empty, not an image, cut off, or of a size that is not decoded.
    """
    if not data:
        raise BrokenImage("zero bytes")
    if is_dicom(data[:SNIFFED]):
        return Header("DICOM", 0, 0)
    try:
        header = _size(data)
    except (struct.error, IndexError) as error:
        raise BrokenImage(f"truncated {_kind(data)}: it ends within its header") from error
    check_size(header.width, header.height)
    return header


def check_size(width: int, height: int) -> None:
    """Refuse sizes that no radiograph has.

    Raises:
        BrokenImage: Too large to decode safely, or too small to show anything.
    """
    if width * height > MAX_PIXELS:
        raise BrokenImage(f"{width} x {height} pixels, more than the {MAX_PIXELS // 10**6} million allowed")
    if min(width, height) < MIN_EDGE:
        raise BrokenImage(f"{width} x {height} pixels, too small for a radiograph")


def _kind(data: bytes) -> str:
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "TIFF"
    if data[:2] == b"BM":
        return "BMP"
    for magic, reason in _ELSE.items():
        if data.startswith(magic):
            raise BrokenImage(reason)
    start = data[:512]
    if b"<html" in start.lower() or b"<!doctype" in start.lower():
        raise BrokenImage("not an image (a web page saved in its place?)")
    if all(byte in b"\t\n\r\f" or (byte >= 0x20 and byte != 0x7F) for byte in start):
        raise BrokenImage("not an image (text file?)")
    if not any(data):
        raise BrokenImage("nothing but zero bytes (an interrupted copy?)")
    raise BrokenImage("not an image of a known kind (JPEG, PNG, TIFF, BMP, DICOM)")


def claimed_size(path: str | Path) -> Header | None:
    """Kind and size a file claims, from its first bytes; whether the rest is whole is not looked at.

    Args:
        path: Image file.

    Returns:
        The header, for DICOM too with its rows and columns; None where the file does not say.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_FIRST_BYTES)
            if is_dicom(data[:SNIFFED]):
                return _dicom_size(path)
            try:
                return _claimed(data)
            except (struct.error, IndexError):  # a long preamble, or a directory at the end
                return _claimed(data + file.read())
    except (BrokenImage, OSError, struct.error, IndexError):
        return None


def _dicom_size(path: str | Path) -> Header | None:
    from cxr_data.images.dicom import rows_and_columns

    found = rows_and_columns(path)
    return found and Header("DICOM", found[1], found[0])


def _size(data: bytes) -> Header:
    header = _claimed(data)
    if header.kind == "PNG" and data.rfind(b"IEND") < 0:
        raise BrokenImage("truncated PNG")
    # Within a scan 0xFF is always stuffed, so the end marker must follow the last start of a scan.
    if header.kind == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise BrokenImage("truncated JPEG")
    return header


def _claimed(data: bytes) -> Header:
    kind = _kind(data)
    if kind == "PNG":
        width, height = struct.unpack(">II", data[16:24])
    elif kind == "BMP":
        width, height = struct.unpack("<ii", data[18:26])
        height = abs(height)  # negative: rows run from the top
    elif kind == "TIFF":
        tags = dict(_tiff_tags(data))
        if not {256, 257} <= tags.keys():
            raise BrokenImage("damaged TIFF: it does not say how large it is")
        width, height = tags[256], tags[257]
    else:
        width, height = _jpeg_size(data)
    return Header(kind, width, height)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the first frame header of a JPEG (ITU T.81, B.2.2)."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise BrokenImage("damaged JPEG: no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        elif marker in (0xD9, 0xDA):
            raise BrokenImage("damaged JPEG: it does not say how large it is")
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def jpeg_end(data: bytes) -> int:
    """Where the end marker of a JPEG stands, every marker before it being one that may be there.

    Within a scan 0xFF is always stuffed, so bytes written over it mostly show as a marker that no encoder writes.

    Raises:
        BrokenImage: Another marker, or no end.
    """
    values = np.frombuffer(data, np.uint8)
    at = np.flatnonzero(values[:-1] == 0xFF)
    codes = values[at + 1]
    inside = 2
    for marker in at[(codes != 0) & (codes != 0xFF) & ((codes < 0xD0) | (codes > 0xD7))].tolist():
        if marker < inside:
            continue
        code = data[marker + 1]
        if code == 0xD9:
            return marker
        if code not in _JPEG_SEGMENTS:
            break
        inside = marker + 2 + int.from_bytes(data[marker + 2 : marker + 4])
    raise BrokenImage("damaged JPEG: a marker where none may be")


def png_is_whole(data: bytes) -> bool:
    """Whether the checksums of a PNG's critical chunks are right: libpng would print its own line on each."""
    at = 8
    while (name := data[at + 4 : at + 8]) != b"IEND":
        if len(name) < 4:
            return False
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if name[0] < 0x60 and zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return False
        at = end + 4
    return True


def _tiff_tags(data: bytes) -> Iterator[tuple[int, int]]:
    """(tag, value) of the first directory's single short and long entries."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack(f"{order}I", data[4:8])
    (count,) = struct.unpack(f"{order}H", data[at : at + 2])
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack(f"{order}HHI", data[entry : entry + 8])
        if number == 1 and kind in (3, 4):
            form = f"{order}H" if kind == 3 else f"{order}I"
            yield tag, struct.unpack_from(form, data, entry + 8)[0]
