"""How DICOM writes its elements: enough to tell DICOM from other files by the first bytes, preamble or not."""

import re
from typing import Literal

SNIFFED = 512
"""First bytes that :func:`is_dicom` wants to see."""
VRS = frozenset(re.findall(b"..", b"AEASATCSDADSDTFDFLISLOLTOBODOFOLOVOWPNSHSLSQSSSTSVTMUCUIULUNURUSUTUV"))
"""Value representations (PS3.5 6.2)."""
LONG = frozenset(re.findall(b"..", b"OBODOFOLOVOWSQSVUCUNURUTUV"))
"""Those with a length of four bytes after two unused ones (PS3.5 7.1.2)."""


def is_dicom(start: bytes) -> bool:
    """Whether a file is DICOM, by its first :data:`SNIFFED` bytes.

    The preamble may be missing before its mark. Without the mark, two elements of group 2 or 8 must follow each other
    as DICOM orders them.
    """
    if start[128:132] == b"DICM" or start[:6] == b"DICM\x02\0":
        return True
    order = "little" if start[:2] in (b"\x02\x00", b"\x08\x00") else "big"
    first = _element(start, 0, order)
    if first is None or first[0] >> 16 not in (2, 8):
        return False
    if first[1] >= len(start):  # a long first value: what follows is not seen
        return start[4:6] in VRS
    # The data set after a file meta information may be of another byte order.
    second = _element(start, first[1], order) or _element(start, first[1], "big")
    return second is not None and second[0] > first[0] and second[0] >> 16 <= 0x7FE0


def _element(data: bytes, at: int, order: Literal["little", "big"]) -> tuple[int, int] | None:
    """(tag, where the next element begins) of the element at a position, None where none can be."""
    head = data[at : at + 12]
    if len(head) < 8:
        return None
    size = 8
    if head[4:6] in LONG:
        size, length = 12, int.from_bytes(head[8:12], order)
    elif head[4:6] in VRS:
        length = int.from_bytes(head[6:8], order)
    else:
        length = int.from_bytes(head[4:8], order)
        if length > 2**20:
            return None
    return int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order), at + size + length
