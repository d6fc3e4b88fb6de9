"""Locations of findings: the boxes and masks of a data set as outlines on the stored images."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.cohort import Cohort
from cxr_data.images.header import BrokenImage, claimed_size
from cxr_data.images.read import read_image
from cxr_data.readers import extras

Outlines = Callable[[int, str], list[NDArray[np.float64]]]
"""(row, label) -> polygons (K, 2) of x and y as shares of the stored image's edge."""


def outlines(cohort: Cohort) -> Outlines:
    """Everything that is known of where things are.

    Masks of the cohort; boxes of ChestX-ray14, RSNA and VinDr-CXR, and lung masks of the COVID-19 Radiography
    Database, where the data set is still at ``cohort.source``.

    Returns:
        A function that gives the outlines of one label on one image; lungs are outlined whatever the label.
    """
    root = Path(cohort.source)
    boxes: dict[tuple[int, str], list[NDArray[np.float64]]] = {}
    for row, label, x, y, width, height in boxes_of(cohort).iter_rows():
        corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
        boxes.setdefault((row, label), []).append(np.array(corners))
    lungs = cohort.table["mask"].to_list() if "mask" in cohort.table.columns and root.is_dir() else None
    columns = {label: i for i, label in enumerate(cohort.labels)}

    def of(row: int, label: str) -> list[NDArray[np.float64]]:
        drawn = list(boxes.get((row, label), ()))
        if cohort.masks is not None and label in columns:
            drawn += contours(np.asarray(cohort.masks[row])[columns[label]])
        if lungs is not None and lungs[row] is not None:
            try:
                drawn += contours(read_image(root / lungs[row], cohort.pixel_size, **cohort.pixel_mapping) > 127)
            except BrokenImage:
                return drawn  # an image without its mask is still an image
        return drawn

    return of


def contours(mask: NDArray[np.generic]) -> list[NDArray[np.float64]]:
    """Outlines of a mask (P, P), as shares of its edge."""
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [(contour.reshape(-1, 2) + 0.5) / len(mask) for contour in borders]


def boxes_of(cohort: Cohort) -> pl.DataFrame:
    """The boxes that a release has for images of a cohort, as they lie on the stored squares.

    Args:
        cohort: The cohort; its release must still be at ``cohort.source``.

    Returns:
        A row a box: ``row`` of the cohort, ``label``, and ``x``, ``y`` (upper left), ``width``, ``height`` as shares
        of the stored edge. No row where the release has no boxes, or is no longer there.

    Raises:
        BadInput: The release's table of boxes is damaged.
    """
    root = Path(cohort.source)
    schema = {"row": pl.Int64, "label": pl.String, **dict.fromkeys(("x", "y", "width", "height"), pl.Float64)}
    placed_boxes: list[tuple[int, str, float, float, float, float]] = []
    _, read, frame = extras(cohort.name)
    if read is not None and root.is_dir():
        images = cohort.table["image"].to_list()
        rows = {Path(image).stem: row for row, image in enumerate(images)}
        sizes: dict[int, tuple[int, int] | None] = {}
        for image, label, x, y, width, height in read(root).iter_rows():
            row = rows.get(Path(image).stem)
            if row is None:
                continue
            if row not in sizes:
                sizes[row] = frame or _size(root / images[row])
            size = sizes[row]
            if size is not None:
                where = placed(x, y, width, height, size, cohort.pixel_mapping["aspect"])
                placed_boxes.append((row, label, *where))
    return pl.DataFrame(placed_boxes, schema=schema, orient="row")


def placed(
    x: float, y: float, width: float, height: float, frame: tuple[int, int], aspect: str
) -> tuple[float, float, float, float]:
    """A box of a source image as it lies on the stored square.

    Args:
        x: Left edge, source pixels.
        y: Upper edge.
        width: Its width.
        height: Its height.
        frame: Width and height of the source image.
        aspect: How the image became square, see :func:`cxr_data.images.read.read_image`.

    Returns:
        Left, upper edge, width and height as shares of the square's edge; what lies outside is cut off.
    """
    edges = {"squash": np.array(frame), "crop": np.full(2, min(frame)), "pad": np.full(2, max(frame))}[aspect]
    corners = np.array([[x, y], [x + width, y + height]], np.float64)
    low, high = np.clip((corners - (np.array(frame) - edges) / 2) / edges, 0, 1)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image file; None where it cannot be told."""
    header = claimed_size(path)
    return None if header is None else (header.width, header.height)
