"""What a file is by its first bytes, and how large the image in it claims to be."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, get_args

from cxr_data.images.elements import SNIFFED, is_dicom

Aspect = Literal["squash", "crop", "pad"]
Window = Literal["voi", "full", "percentile"]
ASPECTS, WINDOWS = get_args(Aspect), get_args(Window)
"""Ways in which a file becomes a square of gray values; :func:`cxr_data.images.read.read_image` says what each does."""
MAX_PIXELS = 100_000_000
"""Largest image that is decoded; the largest radiographs in use have about 25 million pixels."""
MIN_EDGE = 16
MAX_BYTES = 2**31
"""Largest content of a compressed file that is unpacked."""
FIRST_BYTES = 512
"""Bytes that tell what a file is."""
_HEADER_BYTES = 2**16

KINDS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WebP", "JPEG 2000", "DICOM")
"""What is read."""
_GZIP = b"\x1f\x8b"
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Lengths that tell the versions of a BMP's header apart; 12, 16 and 64 are those of OS/2."""
_PICTURES = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"P2": "PGM",
    b"P3": "PPM",
    b"P5": "PGM",
    b"P6": "PPM",
    b"P1": "PBM",
    b"P4": "PBM",
    b"P7": "PAM",
    b"Pf": "PFM",
    b"PF": "PFM",
    b"II\xbc": "JPEG XR",
    b"qoif": "QOI",
    b"\xff\xd8": "damaged JPEG",
}
_ELSE = {
    b"PK\x03\x04": "a zip archive?",
    b"%PDF": "a PDF?",
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    b"\x89HDF": "an HDF5 file?",
    b"\x93NUMPY": "a NumPy array?",
    b"NRRD": "an NRRD volume?",
    b"\xfd7zXZ": "an xz archive?",
    b"7z\xbc\xaf": "a 7z archive?",
    b"BZh": "a bzip2 archive?",
}


class BrokenImage(Exception):
    """A file that cannot become a radiograph; the message is the reason in plain words.

    Examples:
        >>> from pathlib import Path
        >>> from cxr_data import BrokenImage, read_image
        >>> size = Path("torn.png").write_bytes(b"no picture")
        >>> try:
        ...     read_image("torn.png", 32)
        ... except BrokenImage:
        ...     print("left out")
        left out
    """


NO_IMAGE = "a DICOM file without an image"
"""Reason given for reports, presentation states and directories, which lie beside radiographs and are not damaged."""


class UnreadFormat(BrokenImage):
    """A picture of a format that is not read."""


class Header(NamedTuple):
    """Kind and size a file claims; the size is 0 for DICOM, which says it in its data set."""

    kind: str
    width: int
    height: int


def image_kind(data: bytes) -> str:
    """Tell what a file is.

    Args:
        data: The file, or its first :data:`FIRST_BYTES`.

    Returns:
        One of :data:`KINDS`.

    Raises:
        UnreadFormat: A picture of another format.
        BrokenImage: Empty, or no image; the reason says what it looks like.
    """
    if not data:
        raise BrokenImage("zero bytes")
    if data[128:132] == b"DICM":
        return "DICOM"
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and (len(data) < 18 or int.from_bytes(data[14:18], "little") in _BMP_HEADERS):
        return "BMP"
    if is_dicom(data[:SNIFFED]):
        return "DICOM"
    _refuse(data)
    raise BrokenImage(f"not an image of a known kind ({', '.join(KINDS)})")


def _refuse(data: bytes) -> None:
    """Say what a file that is not read looks like."""
    if data[4:8] == b"ftyp":
        brand = "AVIF" if data[8:12] in (b"avif", b"avis") else "HEIF"
        if data[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"heim", b"heis", b"hevc"):
            raise UnreadFormat(f"a picture in {brand}, which is not read: convert it to PNG")
        raise BrokenImage("not an image (a video?)")
    for magic, name in _PICTURES.items():
        if data.startswith(magic) and (magic[:1] != b"P" or data[2:3].isspace()):
            raise UnreadFormat(f"a picture in {name} format, which is not read: convert it to PNG")
    for magic, what in _ELSE.items():
        if data.startswith(magic):
            raise BrokenImage(f"not an image ({what})")
    if data[344:347] in (b"n+1", b"ni1"):
        raise BrokenImage("not an image (a NIfTI volume?)")
    start = data[:FIRST_BYTES]
    if b"<html" in start.lower() or b"<!doctype" in start.lower():
        raise BrokenImage("not an image (a web page saved in its place?)")
    if all(byte in b"\t\n\r\f" or (byte >= 0x20 and byte != 0x7F) for byte in start):
        raise BrokenImage("not an image (text file?)")
    if not any(data):
        raise BrokenImage("nothing but zero bytes (an interrupted copy?)")


def read_content(path: str | Path) -> bytes:
    """Bytes of an image file; one compressed by gzip (``.dcm.gz``) is unpacked.

    Raises:
        BrokenImage: It cannot be read or unpacked.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {error.strerror or error}") from error
    return _unpacked(data, MAX_BYTES) if data.startswith(_GZIP) else data


@contextmanager
def open_content(path: str | Path) -> Iterator[BinaryIO]:
    """Open an image file; one compressed by gzip is unpacked while it is read.

    Raises:
        OSError: It cannot be opened, or, while it is read, unpacked; also EOFError and zlib.error.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked  # pyright: ignore[reportReturnType]


def first_bytes(path: str | Path) -> bytes:
    """The first :data:`FIRST_BYTES` of a file, unpacked where it is compressed by gzip.

    Raises:
        BrokenImage: It cannot be read or unpacked.
    """
    try:
        with open_content(path) as file:
            return file.read(FIRST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise BrokenImage(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _unpacked(data: bytes, most: int) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BrokenImage("a damaged gzip file") from error
    if len(content) > most:
        raise BrokenImage("a gzip file of more than 2 GiB")
    return content


def inspect(data: bytes) -> Header:
    """Tell what a file is and how large its image would be; nothing is decoded.

    Args:
        data: The file, or as much of it as holds the header.

    Returns:
        Kind, width and height.

    Raises:
        BrokenImage: Empty, not an image, cut within the header, or of a size that is not decoded.
    """
    kind = image_kind(data)
    if kind == "DICOM":
        return Header(kind, 0, 0)
    width, height = _claimed(data, kind)
    check_size(width, height)
    return Header(kind, width, height)


def _claimed(data: bytes, kind: str) -> tuple[int, int]:
    if kind == "TIFF":  # Pillow knows fewer depths
        from cxr_data.images.tiff import tiff_size

        return tiff_size(data)
    from cxr_data.images.raster import open_raster

    return open_raster(data, kind).size


def check_size(width: int, height: int) -> None:
    """Refuse sizes that no radiograph has.

    Raises:
        BrokenImage: Too large to decode safely, or too small to show anything.
    """
    if width * height > MAX_PIXELS:
        raise BrokenImage(f"{width} x {height} pixels, more than the {MAX_PIXELS // 10**6} million allowed")
    if min(width, height) < MIN_EDGE:
        raise BrokenImage(f"{width} x {height} pixels, too small for a radiograph")


def claimed_size(path: str | Path) -> Header | None:
    """Kind and size a file claims, from its first bytes; whether the rest is whole is not looked at.

    Args:
        path: Image file.

    Returns:
        The header, for DICOM too with its rows and columns; None where the file does not say.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_HEADER_BYTES)
            if data.startswith(_GZIP):
                data = _unpacked(data + file.read(), MAX_BYTES)
            kind = image_kind(data)
            if kind == "DICOM":
                return _dicom_size(path)
            try:
                return Header(kind, *_claimed(data, kind))
            except BrokenImage:  # a long preamble, or a directory at the end
                return Header(kind, *_claimed(data + file.read(), kind))
    except (BrokenImage, OSError):
        return None


def _dicom_size(path: str | Path) -> Header | None:
    from cxr_data.images.dicom import rows_and_columns

    size = rows_and_columns(path)
    return size and Header("DICOM", size[1], size[0])
