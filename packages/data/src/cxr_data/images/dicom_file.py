"""Opening DICOM files: one way for headers and for pixels, whatever the file lacks or has of its own.

Read are files with and without the 128 byte preamble, the file meta information or a transfer syntax, in explicit or
implicit VR, little or big endian, deflated (also with a header of zlib or gzip) or not. Where the transfer syntax and
the bytes disagree on how the data set is written, the bytes decide.
"""

import io
import logging
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from cxr_data.images.elements import LONG, SNIFFED, VRS, is_dicom
from cxr_data.images.header import BrokenImage, open_content

if TYPE_CHECKING:
    from pydicom import Dataset

DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
"""Transfer syntaxes of deflated data sets; the last two refer to pixels elsewhere."""
MAX_INFLATED = 2**29
"""Largest deflated data set that is unpacked, bytes."""
_PIXELS, _UNDEFINED = 0x7FE00010, 0xFFFFFFFF
_MARK = 0x49444D43
"""What "DICM" is as a tag."""
_DECISIVE = (0x0010, 0x0028, 0x2050, 0x5200, 0x7FE0)
"""Groups of whose elements one given twice makes a file mean two things: readers take the first or the last."""


def open_dicom(source: bytes | BinaryIO, tags: Sequence[str] | None = None) -> tuple["Dataset", str | None]:
    """Read a data set and the transfer syntax its file names.

    Args:
        source: The whole file, or a binary file at its start.
        tags: Keywords of the elements wanted, to read the header alone; None reads everything.

    Returns:
        The data set, and the UID of its transfer syntax as the file meta information gives it, None where it does not.

    Raises:
        BrokenImage: Not readable as DICOM, for whatever reason. The reason never quotes pydicom, whose messages hold
            text of the header.
    """
    quiet()
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return _open(file, tags)
    except BrokenImage:
        raise
    except Exception as error:  # a damaged data set can fail anywhere in pydicom, with any exception
        raise BrokenImage("damaged DICOM: its header cannot be read") from error


def _open(file: BinaryIO, tags: Sequence[str] | None) -> tuple["Dataset", str | None]:
    from pydicom.datadict import keyword_for_tag, tag_for_keyword
    from pydicom.filereader import read_dataset

    start = file.read(132)
    file.seek(132 if start[128:] == b"DICM" else 4 if start[:4] == b"DICM" else 0)
    syntax = _transfer_syntax(file)
    if syntax in DEFLATED:
        file = _inflated(file)
    at = file.tell()
    head = file.read(6)
    file.seek(at)
    implicit = not (head[4:6].isalpha() and head[4:6].isupper())
    # The groups that a data set begins with are small. Big endian is explicit but in files of old.
    little = int.from_bytes(head[:2], "little") <= int.from_bytes(head[:2], "big")
    wanted = None if tags is None else [tag for name in tags if (tag := tag_for_keyword(name)) is not None]
    places: dict[int, int] = {}

    def stop(tag: int, vr: str | None, length: int) -> bool:
        if tag == _MARK or (tag in places and tag >> 16 in _DECISIVE):
            named = keyword_for_tag(tag) or "its mark"
            raise BrokenImage(f"a DICOM file of two data sets, or one that gives {named} twice")
        places[tag] = file.tell()
        filled = tag >> 16 == 0xFFFF  # bytes of ones after the data set
        return filled or (tags is not None and tag == _PIXELS and length == _UNDEFINED)

    dataset = read_dataset(file, implicit, little, stop_when=stop, specific_tags=wanted)
    if file.tell() < places.get(_PIXELS, 0):  # some have elements behind the pixels that belong before them
        file.seek(places[_PIXELS])
        _pass_fragments(file, "little" if little else "big")
        dataset.update(read_dataset(file, implicit, little, stop_when=stop, specific_tags=wanted))
    dataset.set_original_encoding(implicit, little, dataset._character_set)
    return dataset, syntax


def _transfer_syntax(file: BinaryIO) -> str | None:
    """The transfer syntax of the file meta information, which is passed over; its group length is not relied on."""
    syntax = None
    while True:
        at = file.tell()
        head = file.read(12)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            file.seek(at)
            return syntax
        if head[4:6] in LONG:
            start, length = at + 12, int.from_bytes(head[8:12], "little")
        elif head[4:6] in VRS:
            start, length = at + 8, int.from_bytes(head[6:8], "little")
        else:
            start, length = at + 8, int.from_bytes(head[4:8], "little")
        file.seek(start)
        if head[2:4] == b"\x10\x00":
            syntax = file.read(min(length, 64)).decode("latin-1").strip("\0 ") or None
        file.seek(start + length)


def _inflated(file: BinaryIO) -> BinaryIO:
    """A deflated data set unpacked (PS3.5 A.5), which has no checksum: it must at least end as such data do."""
    data = file.read()
    if is_dicom(data[:SNIFFED]):
        return io.BytesIO(data)
    # Some writers put the header of zlib or gzip before it, which no data set begins with.
    wrapped = data[:2] == b"\x1f\x8b" or (data[:1] == b"\x78" and int.from_bytes(data[:2]) % 31 == 0)
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32 if wrapped else -zlib.MAX_WBITS)
    try:
        whole = unpack.decompress(data, MAX_INFLATED)
    except zlib.error as error:
        raise BrokenImage("damaged DICOM: its deflated data set cannot be unpacked") from error
    if unpack.unconsumed_tail:
        raise BrokenImage(f"a deflated DICOM file of more than {MAX_INFLATED // 2**20} MiB")
    if not unpack.eof:
        raise BrokenImage("truncated DICOM: its deflated data set ends early")
    return io.BytesIO(whole)


def _pass_fragments(file: BinaryIO, order: Literal["little", "big"]) -> None:
    """Go on after compressed pixels, at whose first fragment a file stands."""
    while len(item := file.read(8)) == 8 and int.from_bytes(item[2:4], order) != 0xE0DD:
        file.seek(int.from_bytes(item[4:], order), io.SEEK_CUR)


def dicom_header(path: str | Path, tags: Sequence[str]) -> "Dataset | None":
    """Some elements of a DICOM file's header; None where the file is no DICOM or cannot be read.

    Args:
        path: Any file; its content decides.
        tags: Keywords of the elements wanted.
    """
    try:
        with open_content(path) as file:
            if not is_dicom(file.read(SNIFFED)):
                return None
            file.seek(0)
            return open_dicom(file, tags)[0]
    except (BrokenImage, OSError, EOFError, zlib.error):
        return None  # decoding says what is wrong


def text_of(dataset: "Dataset", keyword: str) -> str:
    """An element's value as text, "" where it is absent or empty.

    A value that pydicom cannot convert (an unknown VR, a wrong one) is taken as the bytes that the file holds.
    """
    try:
        return str(dataset.get(keyword) or "").strip()
    except Exception:  # conversion fails with whatever the value provokes
        value = getattr(dataset.get_item(keyword), "value", None)
        return value.decode("latin-1").strip("\0 ") if isinstance(value, bytes) else ""


def identifier_of(dataset: "Dataset", keyword: str) -> str:
    """:func:`text_of` for what must be the same text in every file, however it is encoded and padded.

    Writers often name another character set than they use: bytes that are UTF-8 count as that, bytes that cannot be as
    Windows-1252. What follows a null byte is left over from something else.
    """
    value = getattr(dataset.get_item(keyword), "value", None)
    if not isinstance(value, bytes) or b"\x1b" in value:  # ISO 2022 names its characters within the value
        return text_of(dataset, keyword).strip("\\ ")
    value = value.lstrip(b"\0 ").partition(b"\0")[0]
    for encoding in ("utf-8", *(["cp1252"] if dataset._character_set == ["UTF8"] else [])):
        with suppress(UnicodeDecodeError):
            return value.decode(encoding).strip("\\ ")
    return text_of(dataset, keyword).strip("\\ ")


def quiet() -> None:
    """Real headers break many small rules; pydicom's word on each would bury ours on what matters."""
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
