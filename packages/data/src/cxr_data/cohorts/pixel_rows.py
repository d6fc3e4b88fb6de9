"""One or several memory maps read as a single uint8 array, row by row, without loading all of it."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PixelRows:
    """What stands for ``Cohort.pixels`` where one memory map does not do: several of them, or 16-bit ones.

    Indexing along the first axis, with a number, a slice, rows or a mask, reads just these from disk. 16-bit
    values are rounded to 8 bits on the way (v / 257).

    Args:
        parts: Arrays (N, P, P), uint8 or uint16, with one P.
        rows: (M,) rows of all parts together that are shown, in this order; None shows all.
    """

    ndim = 3
    dtype = np.dtype(np.uint8)

    def __init__(self, parts: Sequence[NDArray[Any]], rows: NDArray[np.int64] | None = None):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.rows = rows
        self.shape = (int(self.starts[-1]) if rows is None else len(rows), *self.parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Image by image."""
        return (self[row] for row in range(len(self)))

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """(P, P) image of one row, or (n, P, P) images of a slice, of row numbers, or of a mask."""
        if isinstance(index, int | np.integer):
            return self._read(np.array([range(len(self))[index]]))[0]
        if isinstance(index, slice):
            return self._read(np.arange(len(self))[index])
        rows = np.asarray(index)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} images")
        return self._read(np.where(rows < 0, rows + len(self), rows))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All images, in memory; only on explicit request."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        part_of, local = self.located(rows)
        runs = np.flatnonzero(np.diff(part_of, prepend=-1, append=-1)) if len(rows) else part_of
        for start, stop in itertools.pairwise(runs.tolist()):  # of neighbours that lie in one part
            part = self.parts[part_of[start]]
            if isinstance(part, PixelRows) or part.dtype != np.uint8:
                images[start:stop] = to_bytes(part[local[start:stop]])
            else:  # straight from the map; "clip" since NumPy would copy twice to raise, and all rows are within
                np.asarray(part).take(local[start:stop], axis=0, out=images[start:stop], mode="clip")
        return images

    def located(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The part that each row is in, and its row there."""
        rows = rows if self.rows is None else self.rows[rows]
        part_of = np.searchsorted(self.starts, rows, side="right") - 1
        return part_of, rows - self.starts[part_of]


def to_bytes(images: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit gray values of 8-bit or 16-bit images."""
    if images.dtype == np.uint8:
        return images
    return ((images.astype(np.uint32) + 128) // 257).astype(np.uint8)
