"""Find duplicate images: identical ones, and copies that were re-encoded, rescaled, toned, inverted or turned."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.auditing.measures import SMALL, THUMB, unit_descriptors
from cxr_data.auditing.orientations import Close, close_pairs, reoriented

CANDIDATE = 0.955
"""Correlation of the 16-px descriptors from which a pair is looked at closer."""
ALIKE = 0.96
"""Correlation of the 48-px descriptors from which a pair counts as copies of one image. Different patients of the
Kermany radiographs reach 0.92, 0.87 when one is mirrored, 0.76 at most turned otherwise; exposures of one patient of
ChestX-ray14 0.952; copies saved as JPEG at quality 30, halved, gamma-corrected, equalised or inverted stay above it."""
_CHECKED = 4096
MOST = 2_000_000
"""Candidate pairs that are followed up: a cohort with more is one image over and over."""


class Pairs(NamedTuple):
    """Copies.

    Attributes:
        rows: (M, 2), rows[:, 0] < rows[:, 1].
        correlation: (M,), negative for negatives.
        orientation: (M,) how the first has to be turned to be like the second, 0 not at all; see
            :func:`cxr_data.auditing.orientations.reoriented`.
        complete: Whether all pairs were looked at.
    """

    rows: NDArray[np.int64]
    correlation: NDArray[np.float32]
    orientation: NDArray[np.int64]
    complete: bool


def identical_groups(digests: list[bytes]) -> list[NDArray[np.int64]]:
    """Rows of each set of identical images, in order of first appearance."""
    seen: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        seen.setdefault(digest, []).append(row)
    return [np.array(rows) for rows in seen.values() if len(rows) > 1]


def near_pairs(thumbs: NDArray[np.uint8], digests: Sequence[bytes]) -> Pairs:
    """Pairs of images, not identical, that are copies of one image by :data:`ALIKE`.

    Descriptors of 256 numbers are compared in all eight orientations, in blocks of matrix products (112,120 images:
    6·10⁹ pairs, some minutes a core); what comes close is compared again with 2,304 numbers. An inverted copy has
    correlation -1 and is found as well. Of identical images the first stands for all.

    Args:
        thumbs: (N, 48, 48), see :class:`cxr_data.auditing.measures.Measures`.
        digests: N hashes, equal for identical images.

    Returns:
        The pairs, by first row, then second.
    """
    _, first = np.unique(np.array([digest.hex() for digest in digests]), return_index=True)
    first.sort()
    none = np.zeros(0, np.int64)
    blocks, count, complete = [Close(none, none, none)], 0, True
    for close in close_pairs(unit_descriptors(thumbs[first], SMALL), None, CANDIDATE):
        blocks.append(close)
        count += len(close.one)
        if count > MOST:
            complete = False
            break
    one, other, orientation = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
    pairs = first[np.column_stack([one, other])]
    correlation = _correlations(thumbs, pairs, orientation)
    kept = np.flatnonzero(np.abs(correlation) >= ALIKE)
    order = kept[np.lexsort(pairs[kept].T[::-1])]
    return Pairs(pairs[order], correlation[order], orientation[order], complete)


def _correlations(
    thumbs: NDArray[np.uint8], pairs: NDArray[np.int64], orientation: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(M,) correlation of the 48-px descriptors of each pair; an image of many pairs is described once.

    Descriptors are kept in half precision, 4.6 kB an image, which moves a correlation by some 1e-5.
    """
    rows, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    described = np.empty((len(rows), THUMB, THUMB), np.float16)
    for start in range(0, len(rows), _CHECKED):
        block = slice(start, start + _CHECKED)
        described[block] = unit_descriptors(thumbs[rows[block]], THUMB).reshape(-1, THUMB, THUMB)
    correlation = np.empty(len(pairs), np.float32)
    for turn in np.unique(orientation).tolist():
        these = np.flatnonzero(orientation == turn)
        for start in range(0, len(these), _CHECKED):
            block = these[start : start + _CHECKED]
            one, other = (described[places[block, side]].astype(np.float32) for side in (0, 1))
            correlation[block] = np.einsum("nij,nij->n", reoriented(one, turn), other)
    return correlation
