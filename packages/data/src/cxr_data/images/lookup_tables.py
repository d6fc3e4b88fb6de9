"""Lookup tables of DICOM (modality, VOI, palette; PS3.3 C.11.1, C.11.2, C.7.6.3.1.5), checked against their entries.

A descriptor says how many entries a table has, the first value it maps and the bits of an entry. Files get each of the
three wrong; what the entries prove is used, and a table that leaves a doubt is refused.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.images.header import BrokenImage

if TYPE_CHECKING:
    from pydicom import Dataset

FULL = 0.95
"""Share of a depth's largest value that entries of this depth reach."""
LEAST_MAPPED = 0.1
"""Least share of an image's values that lie within the table made for it."""
MOST_TURNS = 8
"""How often entries may go up and down over their whole range; a curve does it once."""


class Table(NamedTuple):
    """Entries (N,), the first value mapped, and the bits an entry has."""

    entries: NDArray[np.int64]
    first: int
    bits: int


def table_of(item: "Dataset", prefix: str = "LUT") -> Table:
    """Read a table.

    Args:
        item: The item of a LUT sequence, or the data set itself for a palette.
        prefix: What the keywords of its descriptor and data begin with.

    Raises:
        BrokenImage: Absent, or the number of entries is not the descriptor's.
    """
    number, first, bits = _descriptor(item.get(f"{prefix}Descriptor"))
    data: Any = item.get(f"{prefix}Data")
    if isinstance(data, (bytes, bytearray)):
        if len(data) == 2 * number:
            entries = np.frombuffer(data, "<u2" if item.original_encoding[1] is not False else ">u2")
        else:
            entries = np.frombuffer(data, np.uint8)
    else:
        values = np.atleast_1d(np.asarray(data if data is not None else [], np.int64)) & 0xFFFF
        # 8 bits an entry, two of them in a word
        entries = values if len(values) == number else values.astype("<u2").view(np.uint8)
    if len(entries) == number + 1 and number % 2:  # padded to an even length
        entries = entries[:number]
    if len(entries) != number:
        raise BrokenImage(f"a DICOM lookup table of another length than its descriptor says ({number} entries)")
    smooth = entries.dtype != np.uint8 or bits <= 8 or np.median(np.abs(np.diff(entries.astype(np.int64)))) <= 8
    if not smooth:
        raise BrokenImage(f"a DICOM lookup table of 8 bits an entry where its descriptor says {bits}")
    return Table(entries.astype(np.int64), first, bits)


def _descriptor(value: Any) -> tuple[int, int, int]:
    if isinstance(value, (bytes, bytearray)) and len(value) == 6:
        value = np.frombuffer(value, "<u2").tolist()
    if value is None or isinstance(value, (str, bytes, int)) or len(value) != 3:
        raise BrokenImage("a DICOM lookup table without a descriptor")
    return (int(value[0]) & 0xFFFF) or 2**16, int(value[1]), int(value[2])


def depth(bits: int, largest: int) -> int:
    """Bits an entry really has.

    Args:
        bits: What the descriptor says.
        largest: The largest entry.

    Returns:
        ``bits`` where the entries use all of them but the last, else the depth that the entries fill.

    Raises:
        BrokenImage: The entries neither agree with the descriptor nor fill another depth.
    """
    used = int(largest).bit_length()
    if used == bits:
        return bits
    full = used >= 8 and largest >= FULL * (2**used - 1)
    if full and (used != bits - 1 or largest == 2**used - 1):
        return used
    if used == bits - 1 and bits <= 16:
        return bits
    raise BrokenImage(f"a DICOM lookup table of {bits} bits an entry by its descriptor, with entries up to {largest}")


def look_up(table: Table, values: NDArray[Any]) -> NDArray[np.int64]:
    """Map values (any shape) through a table; what lies outside takes its first or last entry.

    Raises:
        BrokenImage: Few values lie in the range of the table, or its entries are all the same or no curve.
    """
    entries, first, _ = table
    if entries.min() == entries.max():
        raise BrokenImage("a DICOM lookup table whose entries are all the same")
    if np.abs(np.diff(entries)).sum() > MOST_TURNS * np.ptp(entries):
        raise BrokenImage("a DICOM lookup table whose entries go up and down like noise (bytes in the other order?)")
    whole = np.rint(values).astype(np.int64)
    return entries[_places(whole, first, len(entries), "lookup table")]


def _places(whole: NDArray[np.int64], first: int, number: int, what: str) -> NDArray[np.int64]:
    """Index of each value into a table that begins at a value."""
    # That value is signed or not as the pixels are, and often written as the other.
    for start in (first, first - 2**16 if first >= 2**15 else first + 2**16):
        places = whole - start
        inside = float(((places >= 0) & (places < number)).mean())
        if inside >= LEAST_MAPPED:
            return np.clip(places, 0, number - 1)
    raise BrokenImage(f"a DICOM {what} that maps none of the values of its image, or few")


def palette(dataset: "Dataset", stored: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Colours (H, W, 3) of palette indices (H, W), and their depth in bits.

    Raises:
        BrokenImage: A palette that does not fit its descriptor.
    """
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        tables = _segmented(dataset)
    else:
        tables = [table_of(dataset, f"{colour}PaletteColorLookupTable") for colour in ("Red", "Green", "Blue")]
    if len({(len(table.entries), table.first, table.bits) for table in tables}) > 1:
        raise BrokenImage("a DICOM palette whose three tables differ in their descriptors")
    bits = depth(tables[0].bits, max(int(table.entries.max()) for table in tables))
    index = _places(stored.astype(np.int64), tables[0].first, len(tables[0].entries), "palette")
    return np.stack([table.entries[index] for table in tables], axis=-1), bits


def _segmented(dataset: "Dataset") -> list[Table]:
    from pydicom.pixels.processing import apply_color_lut

    number, first, bits = _descriptor(dataset.get("RedPaletteColorLookupTableDescriptor"))
    entries = apply_color_lut(np.arange(first, first + number)[None], dataset)[0].astype(np.int64)
    return [Table(entries[:, channel], first, bits) for channel in range(3)]
