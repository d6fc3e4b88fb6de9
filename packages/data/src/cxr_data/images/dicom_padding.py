"""Pixels of a DICOM image that lie outside the image proper (PS3.3 C.7.5.1.1.2), whatever VR and sign marks them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.images.header import BrokenImage

if TYPE_CHECKING:
    from pydicom import Dataset


def padding_mask(dataset: "Dataset", raw: NDArray[Any], allocated: int, signed: bool) -> NDArray[np.bool_] | None:
    """Pixels of the padding value or range.

    Args:
        dataset: The header.
        raw: (H, W) values as stored.
        allocated: Bits allocated to each.
        signed: Whether they are signed.

    Returns:
        (H, W), or None where there are none or nothing else.

    Raises:
        BrokenImage: A range that holds most of the values.
    """
    value, limit = _number(dataset, "PixelPaddingValue"), _number(dataset, "PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = [_resigned(end, allocated, signed) for end in (value, value if limit is None else limit)]
    wide = raw.astype(np.int64)
    mask = (wide >= min(ends)) & (wide <= max(ends))
    if ends[0] != ends[1] and not mask.all() and len(np.unique(wide[mask])) > len(np.unique(wide[~mask])):
        raise BrokenImage("a DICOM file that calls most of its values padding (PixelPaddingRangeLimit)")
    return mask if mask.any() and not mask.all() else None


def extreme_padding(dataset: "Dataset", values: NDArray[Any], bits: int, signed: bool) -> NDArray[np.bool_] | None:
    """Pixels of a padding value that is the smallest or largest of the stored bits, written in more or fewer bits.

    Args:
        dataset: The header.
        values: (H, W) in the stored bits.
        bits: Their number.
        signed: Whether values are signed.

    Returns:
        (H, W), or None where there are none or nothing else.
    """
    value = _number(dataset, "PixelPaddingValue")
    if value is None or _number(dataset, "PixelPaddingRangeLimit") is not None:
        return None
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    value = _resigned(value & ((1 << bits) - 1), bits, signed) if not low <= value <= high else value
    mask = values == value
    return mask if value in (low, high) and mask.any() and not mask.all() else None


def _resigned(value: int, bits: int, signed: bool) -> int:
    """A value written as the other sign: 65535 for -1 where pixels are signed, -1 for 65535 where they are not."""
    if signed and value >= 1 << (bits - 1):
        return value - (1 << bits)
    return value + (1 << bits) if not signed and value < 0 else value


def _number(dataset: "Dataset", keyword: str) -> int | None:
    """An integer element, whatever VR it has; None where it is absent, empty or no number."""
    value: Any = dataset.get(keyword)
    if isinstance(value, (bytes, bytearray)):
        order = "little" if dataset.original_encoding[1] is not False else "big"
        return int.from_bytes(value[:2], order) if value else None
    if hasattr(value, "__getitem__") and not isinstance(value, str):
        value = value[0] if len(value) else None
    try:
        return None if value is None else int(float(value))
    except (ValueError, OverflowError):  # text that is no number
        return None


def float_padding(dataset: "Dataset", values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Pixels of the padding value or range of (H, W) floats; None where there are none or nothing else."""
    for prefix in ("Float", "DoubleFloat"):
        value = dataset.get(f"{prefix}PixelPaddingValue")
        if value is not None:
            limit = dataset.get(f"{prefix}PixelPaddingRangeLimit")
            ends = sorted((float(value), float(value if limit is None else limit)))
            mask = (values >= ends[0]) & (values <= ends[1])
            return mask if mask.any() and not mask.all() else None
    return None
