"""Whether pixels of a DICOM or TIFF file are a picture as their header reads them.

Depth and length can be checked against the bytes; the order of bytes, rows for columns, planes and signs cannot. A
wrong one of them makes noise, stripes or steps of the picture, and the right one a smooth image: where another reading
is far smoother, the header is wrong.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.images.header import BrokenImage

FAR = 0.5
"""Share of the steps between rows that another reading must do without."""
_PART, _ROUGH = 0.8, 0.3
"""Likewise for rows that are a whole part of those claimed, and steps from which other lengths of rows are tried."""
_FEW = 48**2
"""Pixels below which a picture may be of any pattern."""
_SAMPLED = 256
"""Rows that are looked at."""


def check_order(values: NDArray[Any], kind: str, *, planes: bool = False) -> None:
    """Refuse pixels, not lossily compressed, that another order of the same bytes makes far smoother.

    Args:
        values: (H, W) or (H, W, S), as the header reads them.
        kind: "DICOM" or "TIFF".
        planes: Whether the file holds colours in planes.

    Raises:
        BrokenImage: Rows for columns or of another length, bytes of a value in the other order, or planes for pixels.
    """
    first = values if values.ndim == 2 else values[..., 0]
    claimed = _steps(first)
    height, width = first.shape
    if height != width and _steps(first.reshape(width, height)) < FAR * claimed:
        raise _contradicted(kind, "height and width (Rows and Columns), which are exchanged")
    if first.size == values.size and _smoother_in_other_rows(first, claimed):
        raise _contradicted(kind, "height and width (Rows and Columns)")
    if values.dtype.kind == "f":
        swapped = _likely(first) < 0.5 and _likely(first.byteswap()) > 0.99
    else:
        swapped = values.dtype.itemsize > 1 and _steps(first.byteswap()) < FAR * claimed
    if swapped:
        raise _contradicted(kind, "the order of bytes")
    if values.ndim == 2 or values.shape[2] == 1:
        return
    flat = (np.moveaxis(values, -1, 0) if planes else values).reshape(-1)
    other = flat.reshape(values.shape) if planes else np.moveaxis(flat.reshape(-1, height, width), 0, -1)
    steps = _steps(other[..., 0])
    # Planes read as pixels are rather smooth too, but their thirds are one picture.
    if steps < FAR * claimed or (not planes and steps < 0.8 * claimed and _alike(other)):
        raise _contradicted(kind, "the order of its colours (PlanarConfiguration)")


def _smoother_in_other_rows(values: NDArray[Any], claimed: float) -> bool:
    """Whether rows of another length, up to four times as long as there are rows or the reverse, are far smoother.

    Rows twice as long as the true ones show the picture twice side by side, and are rather smooth themselves.
    """
    width, pixels = values.shape[1], values.size
    if pixels < _FEW:
        return False
    rows = values[_sampled(len(values))]
    with np.errstate(all="ignore"):  # floats may be no numbers
        varied = float(rows.std(axis=1, dtype=np.float64).mean()) > 0.3 * float(rows.std(dtype=np.float64))
    for other in range(math.isqrt(pixels // 4), math.isqrt(4 * pixels) + 1):
        part = varied and width % other == 0
        if other == width or pixels % other or not (part or claimed > _ROUGH):
            continue
        if _steps(values.reshape(-1, other)) < (_PART if part else FAR) * claimed:
            return True
    return False


def check_differences(values: NDArray[Any], kind: str) -> None:
    """Refuse sums along the rows of (H, W) values that were no differences: a wrong Predictor.

    Raises:
        BrokenImage: The values before they were summed are far smoother.
    """
    if _steps(np.diff(values, axis=1, prepend=values.dtype.type(0))) < FAR * _steps(values):
        raise _contradicted(kind, "whether it holds differences (Predictor)")


def check_sign(values: NDArray[Any], bits: int, kind: str) -> None:
    """Refuse values that run over one end of their range and go on at the other: signed for unsigned, or the reverse.

    Many neighbours lie at the two ends, at many values (a label is of one), and few are far apart otherwise.

    Args:
        values: (H, W) of integers.
        bits: Bits of a value.
        kind: "DICOM" or "TIFF".

    Raises:
        BrokenImage: They do.
    """
    if bits > 32:
        return
    rows = values[_sampled(len(values))].astype(np.int64)
    whole = 1 << bits
    steps = np.abs(np.diff(rows, axis=1))
    over = steps > whole - (whole >> 2)
    apart = np.minimum(steps, whole - steps) > whole >> 2
    if over.sum() < max(20, 1e-4 * steps.size) or 4 * apart.sum() > over.sum():
        return
    for ends in (np.maximum(rows[:, 1:], rows[:, :-1]), np.minimum(rows[:, 1:], rows[:, :-1])):
        if 2 * np.unique(ends[over], return_counts=True)[1].max() > over.sum():
            return
    raise _contradicted(kind, "whether its values are signed (PixelRepresentation, SampleFormat)")


def as_rgb(values: NDArray[Any], photometric: str) -> NDArray[Any]:
    """Colours as RGB, by what the values prove where the header calls them something else.

    Args:
        values: (H, W, 3) as stored.
        photometric: What the header says: "RGB" or one that begins with "YBR".
    """
    if is_gray(values):  # a picture whose chroma is its luma would be a strange one
        return values
    if photometric == "RGB":
        if values.dtype.itemsize == 1 and (np.abs(values[..., 1:].astype(np.int16) - 128) <= 2).all():
            return np.repeat(values[..., :1], 3, axis=-1)  # luma with the chroma of gray
        return values
    from pydicom.pixels.processing import convert_color_space

    return convert_color_space(values, photometric, "RGB")


def is_gray(values: NDArray[Any]) -> bool:
    """Whether the three channels of (H, W, 3) are the same."""
    return bool((values[..., 1:] == values[..., :1]).all())


def _alike(values: NDArray[Any]) -> bool:
    """Whether the channels of (H, W, S) are one picture but for contrast and noise."""
    rows = values[_sampled(len(values))].reshape(-1, values.shape[2]).T
    return all(np.ptp(channel) for channel in rows) and bool((np.corrcoef(rows) > 0.95).all())


def _sampled(height: int) -> NDArray[np.int64]:
    return np.linspace(0, height - 1, min(height, _SAMPLED)).astype(np.int64)


def _likely(values: NDArray[Any]) -> float:
    """Share of floats that are of a size as measured values are, or 0."""
    with np.errstate(all="ignore"):  # floats may be no numbers
        size = np.abs(values[_sampled(len(values))].astype(np.float64))
    return float(((size == 0) | ((size > 1e-9) & (size < 1e9))).mean())


def _steps(values: NDArray[Any]) -> float:
    """Mean step from a row to the next, in standard deviations."""
    rows = _sampled(len(values) - 1)
    with np.errstate(all="ignore"):  # floats may be no numbers
        upper, lower = (values[at].astype(np.float64) for at in (rows, rows + 1))
        spread = float(upper.std())
        return float(np.abs(upper - lower).mean()) / spread if spread else 0.0


def _contradicted(kind: str, what: str) -> BrokenImage:
    return BrokenImage(f"a {kind} file whose pixels contradict what its header says of {what}")
