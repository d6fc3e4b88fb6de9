"""Find duplicate images: identical ones, and copies that were re-encoded, rescaled, toned or inverted."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.auditing.measures import SMALL, THUMB, unit_descriptors

CANDIDATE = 0.955
"""Correlation of the 16-px descriptors from which a pair is looked at closer."""
ALIKE = 0.96
"""Correlation of the 48-px descriptors from which a pair counts as copies of one image. Different patients of the
Kermany radiographs reach 0.92, exposures of one patient of ChestX-ray14 0.952; copies saved as JPEG at quality 30,
halved, gamma-corrected, equalised or inverted stay above it."""
_ROWS, _COLUMNS = 2048, 8192
_CHECKED = 4096
MOST = 2_000_000
"""Candidate pairs that are followed up: a cohort with more is one image over and over."""


class Pairs(NamedTuple):
    """Copies: ``rows`` (M, 2) with rows[:, 0] < rows[:, 1], their correlation (M,), and whether all were looked at."""

    rows: NDArray[np.int64]
    correlation: NDArray[np.float32]
    complete: bool


def identical_groups(digests: list[bytes]) -> list[NDArray[np.int64]]:
    """Rows of each set of identical images, in order of first appearance."""
    seen: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        seen.setdefault(digest, []).append(row)
    return [np.array(rows) for rows in seen.values() if len(rows) > 1]


def near_pairs(thumbs: NDArray[np.uint8], digests: Sequence[bytes]) -> Pairs:
    """Pairs of images, not identical, that are copies of one image by :data:`ALIKE`.

    Descriptors of 256 numbers are compared in blocks of matrix products (112,120 images: 6·10⁹ pairs, about a
    minute a core); what comes close is compared again with 2,304 numbers. An inverted copy has correlation -1 and
    is found as well. Of identical images the first stands for all.

    Args:
        thumbs: (N, 48, 48), see :class:`cxr_data.auditing.measures.Measures`.
        digests: N hashes, equal for identical images.

    Returns:
        The pairs, by first row, then second.
    """
    _, first = np.unique(np.array([digest.hex() for digest in digests]), return_index=True)
    first.sort()
    descriptors = unit_descriptors(thumbs[first], SMALL)
    blocks: list[NDArray[np.int64]] = []
    count, complete = 0, True
    for top in range(0, len(first), _ROWS):
        block = descriptors[top : top + _ROWS]
        for left in range(top, len(first), _COLUMNS):
            product = block @ descriptors[left : left + _COLUMNS].T
            np.abs(product, out=product)
            one, other = np.divmod(np.flatnonzero(product >= CANDIDATE), product.shape[1])
            one, other = one + top, other + left
            upper = one < other
            blocks.append(np.column_stack([one[upper], other[upper]]))
            count += int(upper.sum())
        if count > MOST:
            complete = False
            break
    candidates = first[np.concatenate(blocks)] if blocks else np.zeros((0, 2), np.int64)
    correlation = _correlations(thumbs, candidates)
    kept = np.abs(correlation) >= ALIKE
    order = np.lexsort(candidates[kept].T[::-1])
    return Pairs(candidates[kept][order], correlation[kept][order], complete)


def _correlations(thumbs: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """(M,) correlation of the 48-px descriptors of each pair; an image of many pairs is described once.

    Descriptors are kept in half precision, 4.6 kB an image, which moves a correlation by some 1e-5.
    """
    rows, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    described = np.empty((len(rows), THUMB**2), np.float16)
    for start in range(0, len(rows), _CHECKED):
        block = slice(start, start + _CHECKED)
        described[block] = unit_descriptors(thumbs[rows[block]], THUMB)
    correlation = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _CHECKED):
        one, other = (described[places[start : start + _CHECKED, side]].astype(np.float32) for side in (0, 1))
        correlation[start : start + _CHECKED] = np.einsum("ij,ij->i", one, other)
    return correlation
