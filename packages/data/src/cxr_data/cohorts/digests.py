"""Hashes that tell images and cohorts apart: of pixels, and of pixels, labels and table together."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.pixel_rows import PixelRows


def pixel_digests(pixels: NDArray[np.uint8]) -> list[bytes]:
    """SHA-256 of every image's pixels.

    Args:
        pixels: (N, P, P) images.

    Returns:
        N digests of 32 bytes.
    """

    def digests(start: int) -> list[bytes]:
        return [hashlib.sha256(image.tobytes()).digest() for image in pixels[start : start + 256]]

    with ThreadPoolExecutor() as pool:
        return [digest for block in pool.map(digests, range(0, len(pixels), 256)) for digest in block]


def image_keys(pixels: NDArray[np.uint8], rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """A key of every image's pixels: the first 8 bytes of their SHA-256.

    Args:
        pixels: (N, P, P) images, or `PixelRows`.
        rows: (M,) rows wanted, in this order; all when None. No more than a few are in memory at a time.

    Returns:
        (M,) keys; equal for identical images of one size.
    """
    if rows is not None:
        pixels = cast(NDArray[np.uint8], PixelRows([pixels], rows))
    return np.array([int.from_bytes(digest[:8], "little", signed=True) for digest in pixel_digests(pixels)], np.int64)


_HASHED_AS = {"projection": "view"}
"""Columns that were called otherwise once: the same data keeps its fingerprint."""


def fingerprint(labels: tuple[str, ...], table: pl.DataFrame, digests: list[bytes]) -> str:
    """SHA-256 over labels, table and pixels.

    Patients count by order of appearance, not by name: salted DICOM hashes differ between machines.

    Args:
        labels: Label names in order.
        table: The cohort's table.
        digests: :func:`pixel_digests` of its pixels.

    Returns:
        64 hexadecimal digits.
    """
    total = hashlib.sha256(json.dumps(list(labels)).encode())
    for name in table.columns:
        column = order_of_appearance(table[name]).tolist() if name == "patient" else table[name].to_list()
        values = [None if isinstance(v, float) and v != v else v for v in column]
        total.update(json.dumps([_HASHED_AS.get(name, name), values], ensure_ascii=False, default=str).encode())
    for digest in digests:
        total.update(digest)
    return total.hexdigest()


def order_of_appearance(column: pl.Series) -> NDArray[np.int64]:
    """Numbers from 0 in order of first appearance."""
    values, numbers = column.to_list(), {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)
