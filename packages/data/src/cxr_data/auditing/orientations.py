"""Compare images with each other as they are, mirrored and turned: eight orientations from two comparisons.

An image is the sum of four parts, each even or odd from left to right and from top to bottom. Correlations of parts of
different kinds are 0, so the correlation of two images is the sum of four, and mirroring one of the images changes
signs of these: four orientations for one comparison. The other four are those of the transposed image.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROWS, _COLUMNS = 512, 2048
"""Images compared at a time: their products stay in the processor's cache."""
_SIGNS = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], np.float32)
"""Of the four parts, as they are, mirrored, upside down, and turned by half."""


class Close(NamedTuple):
    """Pairs of images that are alike.

    Attributes:
        one: (M,) rows of the first.
        other: (M,) rows of the second.
        orientation: (M,) 0 to 7, in which the first is like the second; see :func:`reoriented`.
    """

    one: NDArray[np.int64]
    other: NDArray[np.int64]
    orientation: NDArray[np.int64]


def reoriented(images: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Images as they are (0), mirrored (1), upside down (2), turned by half (3), or so after transposing them (4 to 7).

    Args:
        images: (..., P, P) images.
        orientation: 0 to 7.

    >>> import numpy as np
    >>> from cxr_data.auditing.orientations import reoriented
    >>> reoriented(np.array([[1, 2], [3, 4]]), 5).tolist()  # a quarter to the right
    [[3, 1], [4, 2]]
    """
    if orientation >= 4:
        images = np.swapaxes(images, -1, -2)
    if orientation % 4 in (1, 3):
        images = images[..., ::-1]
    return images[..., ::-1, :] if orientation % 4 in (2, 3) else images


def close_pairs(one: NDArray[np.float32], other: NDArray[np.float32] | None, least: float) -> Iterator[Close]:
    """Find the pairs whose correlation in any orientation is at least so large, or so negative, block by block.

    Args:
        one: (N, P²) images of unit length, of an even edge P.
        other: (M, P²) likewise; None compares the images with each other, the first of a pair before the second.
        least: Correlation wanted.

    Yields:
        Those of each block with any, no pair twice.
    """
    edge = int(one.shape[1] ** 0.5)
    squares = one.reshape(-1, edge, edge)
    ours, turned = (_parts(reoriented(squares, orientation)) for orientation in (0, 4))
    theirs = ours if other is None else _parts(other.reshape(-1, edge, edge))
    for top in range(0, len(one), _ROWS):
        for left in range(top if other is None else 0, len(theirs[0]), _COLUMNS):
            block = [part[left : left + _COLUMNS].T for part in theirs]
            found = [_close([part[top : top + _ROWS] for part in parts], block, least) for parts in (ours, turned)]
            at, first = np.unique(np.concatenate([places for places, _ in found]), return_index=True)
            orientation = np.concatenate([found[0][1], found[1][1] + 4])[first]
            row, column = np.divmod(at, block[0].shape[1])
            kept = slice(None) if other is not None else row + top < column + left
            if len(row[kept]):
                yield Close(row[kept] + top, column[kept] + left, orientation[kept])


def _parts(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Even-even, even-odd, odd-even and odd-odd part (left-right, top-bottom), (N, P²/4): a quarter tells the whole."""
    half = images.shape[-1] // 2
    mirrored = reoriented(images, 1)
    found = []
    for part in (images + mirrored, images - mirrored):
        below = reoriented(part, 2)
        for quarter in (part + below, part - below):
            found.append(np.ascontiguousarray(quarter[:, :half, :half]).reshape(len(images), half**2) / 2)
    return found


def _close(
    ours: list[NDArray[np.float32]], theirs: list[NDArray[np.float32]], least: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(K,) places in the matrix of all pairs of a block that are alike, and in which of the four orientations."""
    products = [one @ other for one, other in zip(ours, theirs, strict=True)]
    bound = np.abs(products[0])
    for product in products[1:]:
        bound += np.abs(product)
    at = np.flatnonzero(bound >= least)
    correlation = np.abs(_SIGNS @ np.stack([product.ravel()[at] for product in products]))
    best = correlation.argmax(axis=0)
    kept = correlation[best, np.arange(len(at))] >= least
    return at[kept], best[kept]
