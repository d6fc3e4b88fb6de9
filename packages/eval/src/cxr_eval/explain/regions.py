"""Where the lesions are, for cohorts that know: masks of the phantom, boxes of a release."""

from collections.abc import Sequence

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.cohort import Cohort


def known(cohort: Cohort, boxes: pl.DataFrame, labels: Sequence[str]) -> NDArray[np.bool_]:
    """Whether the lesion of each label is known in each image.

    Args:
        cohort: The cohort.
        boxes: From :func:`cxr_data.preparation.outlines.boxes_of`; only used where the cohort has no masks.
        labels: L names.

    Returns:
        (N, L).
    """
    has_region = np.zeros((len(cohort), len(labels)), bool)
    for i, label in enumerate(labels):
        if cohort.masks is not None and label in cohort.labels:
            # A mask is empty exactly where its target is not 1: only those are read.
            column = cohort.labels.index(label)
            rows = np.flatnonzero(cohort.targets[:, column] == 1)
            has_region[rows, i] = [bool(cohort.masks[row, column].any()) for row in rows]
        elif cohort.masks is None:
            has_region[boxes.filter(pl.col("label") == label)["row"].to_numpy(), i] = True
    return has_region


def masks(
    cohort: Cohort, boxes: pl.DataFrame, rows: NDArray[np.int64], labels: Sequence[str], size: int
) -> NDArray[np.uint8]:
    """The lesion of one label in each of some images.

    Args:
        cohort: The cohort.
        boxes: From :func:`cxr_data.preparation.outlines.boxes_of`.
        rows: (M,) rows of the cohort.
        labels: M names, the label wanted in each row.
        size: Edge of the result.

    Returns:
        (M, size, size), 1 inside the mask or any of the boxes, 0 elsewhere and where nothing is known.
    """
    out = np.zeros((len(rows), size, size), np.uint8)
    for i, (row, label) in enumerate(zip(rows.tolist(), labels, strict=True)):
        if cohort.masks is not None and label in cohort.labels:
            out[i] = _resized(np.asarray(cohort.masks[row, cohort.labels.index(label)]), size)
        elif cohort.masks is None:
            of_image = boxes.filter((pl.col("row") == row) & (pl.col("label") == label))
            for x, y, width, height in of_image.select("x", "y", "width", "height").iter_rows():
                left, top = int(np.floor(x * size)), int(np.floor(y * size))
                out[i, top : int(np.ceil((y + height) * size)), left : int(np.ceil((x + width) * size))] = 1
    return out


def _resized(mask: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """More than half of a pixel, or the fullest pixel where none is half full."""
    if len(mask) == size or not mask.any():
        return mask if len(mask) == size else np.zeros((size, size), np.uint8)
    method = cv2.INTER_AREA if len(mask) > size else cv2.INTER_LINEAR
    share = cv2.resize(mask.astype(np.float32), (size, size), interpolation=method)
    return (share >= min(0.5, float(share.max()))).astype(np.uint8)
