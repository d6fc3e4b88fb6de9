"""Measurements of every image for an audit: one pass over the stored pixels, one over the files' headers."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.cohort import Cohort
from cxr_data.images.header import claimed_size
from cxr_data.machine import usable_cores

THUMB, SMALL = 48, 16
"""Edges of the reduced copies that images are compared by."""
_BLOCK = 256


@dataclass(frozen=True)
class Measures:
    """Of N images.

    Attributes:
        thumbs: (N, 48, 48) uint8, gray levels equalised: the same for any monotone change of tone.
        small: (N, 16, 16) uint8, gray levels as they are.
        brightness: (N,) mean gray level, 0 to 255.
        contrast: (N,) standard deviation of the gray levels.
        sharpness: (N,) standard deviation of the Laplacian as a share of ``contrast``.
        digest: N hashes of the stored pixels: equal for identical images.
    """

    thumbs: NDArray[np.uint8]
    small: NDArray[np.uint8]
    brightness: NDArray[np.float64]
    contrast: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    digest: list[bytes]


def measure(cohort: Cohort) -> Measures:
    """Reduce every image to what the checks compare; reads the memory map once, block by block, on all cores."""
    n = len(cohort)
    thumbs, small = np.empty((n, THUMB, THUMB), np.uint8), np.empty((n, SMALL, SMALL), np.uint8)
    numbers = np.empty((n, 3))
    digests: list[bytes] = [b""] * n

    def block(start: int) -> None:
        for row, image in enumerate(np.asarray(cohort.pixels[start : start + _BLOCK]), start):
            image = np.ascontiguousarray(image)
            small[row] = cv2.resize(image, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
            thumbs[row] = thumb(image)
            mean, spread = (float(value.item()) for value in cv2.meanStdDev(image))
            edges = float(cv2.meanStdDev(cv2.Laplacian(image, cv2.CV_32F))[1].item())
            numbers[row] = mean, spread, edges / max(spread, 1e-6)
            digests[row] = hashlib.blake2b(image.tobytes(), digest_size=16).digest()

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(block, range(0, n, _BLOCK)))
    brightness, contrast, sharpness = numbers.T
    return Measures(thumbs, small, brightness, contrast, sharpness, digests)


def thumb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(P, P) image as (48, 48), gray levels equalised."""
    method = cv2.INTER_AREA if len(image) >= THUMB else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(image), (THUMB, THUMB), interpolation=method)
    return cv2.equalizeHist(small)  # pyright: ignore[reportReturnType]


def unit_descriptors(thumbs: NDArray[np.uint8], edge: int) -> NDArray[np.float32]:
    """Images as unit vectors whose dot product is the correlation of their fine structure.

    Args:
        thumbs: (N, T, T) gray images.
        edge: Edge they are reduced to first.

    Returns:
        (N, edge²) rows: the reduced image less its Gaussian blur (sigma an eighth of the edge), which all
        radiographs have in common, centred and of length 1; a row of zeros for a flat image.
    """
    rows = np.empty((len(thumbs), edge, edge), np.float32)
    for i, thumb in enumerate(thumbs):
        image = thumb if len(thumb) == edge else cv2.resize(thumb, (edge, edge), interpolation=cv2.INTER_AREA)
        image = image.astype(np.float32)
        rows[i] = image - cv2.GaussianBlur(image, (0, 0), edge / 8)
    return unit(rows)


def unit(images: NDArray[np.generic]) -> NDArray[np.float32]:
    """(N, …) images as centred rows of length 1; flat images become rows of zeros."""
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-3)


def file_facts(root: Path, paths: Sequence[str]) -> pl.DataFrame | None:
    """What the files say of themselves before they are decoded.

    Args:
        root: Folder of the data set.
        paths: (N,) images below it.

    Returns:
        ``kind`` ("JPEG", …), ``width`` and ``height`` in pixels, ``bytes``, nulls where a file is not there; None
        when none of them is (arrays, a folder that was moved).
    """

    def facts(path: str) -> tuple[str | None, int | None, int | None, int | None]:
        file = root / path
        try:
            size = file.stat().st_size
        except OSError:
            return None, None, None, None
        header = claimed_size(file)
        return (header.kind, header.width, header.height, size) if header else (None, None, None, size)

    with ThreadPoolExecutor(4 * usable_cores()) as pool:
        rows = list(pool.map(facts, paths, chunksize=64))
    schema = {"kind": pl.String, "width": pl.Int64, "height": pl.Int64, "bytes": pl.Int64}
    table = pl.DataFrame(rows, schema, orient="row")
    return None if table["bytes"].null_count() == table.height else table
