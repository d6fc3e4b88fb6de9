"""Short keys that copies of an image share: saved again, rescaled, changed in tone, inverted or turned.

A key is the 16 x 16 descriptor that the audit compares images by first (`cxr_data.auditing.measures`), 4 bits a number.
"""

import numpy as np
from numpy.typing import NDArray

from cxr_data.auditing.measures import SMALL, thumb, unit_descriptors
from cxr_data.auditing.orientations import close_pairs
from cxr_data.models.header import LIKENESS_WORDS

ALIKE = 0.97
"""Correlation from which images count as copies. At 64 pixels different patients of 795 radiographs of ChestX-ray14
reach 0.935, and 0.890 when one is mirrored; copies saved as JPEG at quality 50, halved or enlarged stay above 0.975,
98 % of inverted above this, mirrored and turned ones alike."""
MOST_COMPARED = 20_000
"""Images up to which cohorts that are joined are searched for copies that are not identical, a few seconds, and up to
which weights files carry such keys, which are 2.5 MB then."""
MOST_ALIKE = 12
"""Different images up to which a set that look alike counts as copies of one; larger sets are drawings or phantoms."""
_LEVELS = 7
_SPREAD = 3 / SMALL
"""Three standard deviations of the numbers of a descriptor, which is of length 1."""
_BLOCK = 1024


def likeness_keys(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A key of what every image looks like, nearly the same at any stored size.

    Args:
        pixels: (N, P, P) images, or `PixelRows`.
        rows: (M,) rows wanted; no more than a few images are in memory at a time.

    Returns:
        (M, 16) keys.
    """
    keys = np.empty((len(rows), LIKENESS_WORDS), np.int64)
    for start in range(0, len(rows), _BLOCK):
        thumbs = np.stack([thumb(image) for image in pixels[rows[start : start + _BLOCK]]])
        numbers = np.rint(unit_descriptors(thumbs, SMALL) * (_LEVELS / _SPREAD)).clip(-_LEVELS, _LEVELS)
        numbers = (numbers + _LEVELS + 1).astype(np.uint8)
        keys[start : start + _BLOCK] = (numbers[:, ::2] << 4 | numbers[:, 1::2]).view("<i8")
    return keys


def alike(keys: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether images look like some of others, and not like many of them, which would say nothing.

    Args:
        keys: (M, 16) `likeness_keys`.
        known: (N, 16) those of the others, each once.

    Returns:
        (M,); a blank image looks like no other.
    """
    counts = np.zeros(len(keys), np.int64)
    for close in close_pairs(_descriptors(keys), _descriptors(known), ALIKE):
        counts += np.bincount(close.one, minlength=len(keys))
    return (counts > 0) & (counts <= MOST_ALIKE)


def _descriptors(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    """(M, 256) of length 1, zeros for a blank image."""
    packed = keys.astype("<i8").view(np.uint8)
    numbers = np.stack([packed >> 4, packed & 15], axis=-1).astype(np.float32) - (_LEVELS + 1)
    numbers = numbers.reshape(len(keys), SMALL**2)
    length = np.linalg.norm(numbers, axis=1, keepdims=True)
    return np.divide(numbers, length, out=np.zeros_like(numbers), where=length > 0)
