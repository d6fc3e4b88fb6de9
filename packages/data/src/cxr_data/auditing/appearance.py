"""Find images that do not look like the other chest radiographs: flat, inverted, or of something else."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.auditing.measures import THUMB, Measures, unit

FLAT = 6.0
"""Standard deviation of the gray levels (of 255) below which an image shows next to nothing."""
INVERTED = -0.3
"""Correlation with the typical image below which an image counts as inverted, when its negative looks typical."""
INVERTED_FEW = -0.1
"""The same for a drawn chest in place of the typical image: real ones the right way round lie between 0.0 and 0.8."""
UNLIKE, RESIDUAL, TIMES = 0.1, 0.65, 6.0
"""Least correlation with the typical image, and largest share of an image's variance that the first eight principal
components of the cohort leave unexplained, of an image that looks like a chest; also a multiple of the median share."""
COMPONENTS, LEAST, MOST = 8, 100, 500
"""Principal components, images from which they are taken to be typical, and images they are fitted on."""


class Looks(NamedTuple):
    """Rows that look wrong, each list by row number; ``whole``: median correlation with a drawn chest."""

    flat: NDArray[np.int64]
    inverted: NDArray[np.int64]
    unlike: NDArray[np.int64] | None
    whole: float


def looks(measures: Measures) -> Looks:
    """Compare every image with what is typical of the cohort, and the cohort with a drawn chest.

    Each image, reduced to 24 x 24 pixels with equalised gray levels and normalised, is correlated with the mean
    image and projected on the first principal components of up to 500 images. With fewer than 100 images
    the drawn chest stands for the mean, and what is unlike a chest is not judged.

    Args:
        measures: Of N images.

    Returns:
        Flat images; inverted ones; ones that are neither but unlike a chest (None: too few images to say).
    """
    rows = _rows(measures.thumbs)
    chest = _drawn_chest()
    mean = rows.mean(axis=0)
    length = float(np.linalg.norm(mean))
    whole = float(np.median(rows @ chest))
    flat = measures.contrast < FLAT
    enough = len(rows) >= LEAST
    # Where most images are negatives, the drawn chest says which way round is right.
    most = np.float32(1 if whole >= 0 else -1)
    typical = most * mean / length if enough and length > 1e-6 else chest
    likeness = rows @ typical
    if not enough:
        inverted = ~flat & (likeness < INVERTED_FEW)
        return Looks(np.flatnonzero(flat), np.flatnonzero(inverted), None, whole)
    # Only what agrees with the typical image says how chests vary: outliers would explain themselves.
    chests = most * rows[~flat & (most * likeness >= UNLIKE)]
    sample = chests[:: -(-len(chests) // MOST)] if len(chests) else typical[None]
    centre = np.median(sample, axis=0)
    components = _components(sample - centre)
    residual, negative = (_residual(sign * rows, centre, components) for sign in (1, -1))
    limit = min(RESIDUAL, TIMES * float(np.median(residual if whole >= 0 else negative)))
    inverted = ~flat & (likeness < INVERTED) & (negative < RESIDUAL)
    unlike = ~flat & ~inverted & ((likeness < UNLIKE) | (residual > limit))
    return Looks(np.flatnonzero(flat), np.flatnonzero(inverted), np.flatnonzero(unlike), whole)


def _rows(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 576) unit rows: means of 2 x 2 gray levels."""
    quarter = THUMB // 2
    return unit(thumbs.reshape(-1, quarter, 2, quarter, 2).mean(axis=(2, 4), dtype=np.float32))


def _components(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(8, D) orthonormal directions of most variance of (n, D) centred rows, by way of their (n, n) products."""
    values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    scale = np.sqrt(np.maximum(values[-COMPONENTS:], 1e-12))
    return (rows.T @ (vectors[:, -COMPONENTS:] / scale)).T.astype(np.float32)


def _residual(
    rows: NDArray[np.float32], centre: NDArray[np.float32], components: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(N,) squared distance of unit rows to the plane of the components through the centre."""
    residual = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 4096):
        away = rows[start : start + 4096] - centre
        residual[start : start + 4096] = (away**2).sum(axis=1) - ((away @ components.T) ** 2).sum(axis=1)
    return residual


def _drawn_chest() -> NDArray[np.float32]:
    """(576,) unit row: the mean of some drawn radiographs, the right way round by construction."""
    import cv2

    from cxr_data.synthetic.phantom import phantom

    drawn = phantom(8, size=THUMB, seed=0, task="multilabel")["pixels"]
    mean = _rows(np.stack([cv2.equalizeHist(image) for image in drawn])).mean(axis=0)
    return (mean / np.linalg.norm(mean)).astype(np.float32)
