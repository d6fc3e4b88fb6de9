"""Where findings are, as far as a data set says: boxes and masks as outlines on the stored images."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_common.cohorts.cohort import Cohort
from cxr_common.cohorts.image_header import BrokenImage
from cxr_common.cohorts.images import read_image
from cxr_common.cohorts.readers import chestxray14, rsna

_BOXES = {
    "chestxray14": (chestxray14.boxes, chestxray14.BOX_FRAME),
    "rsna": (rsna.boxes, rsna.BOX_FRAME),
}
"""Data set -> its boxes, and width and height of the images they are drawn on."""
Outlines = Callable[[int, str], list[NDArray[np.float64]]]
"""(row, label) -> polygons (K, 2) of x and y as shares of the stored image's edge."""


def outlines(cohort: Cohort) -> Outlines:
    """Everything that is known of where things are.

    Masks of the cohort; boxes of ChestX-ray14 and RSNA, and lung masks of the COVID-19 Radiography Database, where
    the data set is still at ``cohort.source``.

    Args:
        cohort: The cohort.

    Returns:
        A function that gives the outlines of one label on one image; lungs are outlined whatever the label.
    """
    root = Path(cohort.source)
    boxes = _boxes(cohort, root)
    lungs = cohort.table["mask"].to_list() if "mask" in cohort.table.columns and root.is_dir() else None
    columns = {label: i for i, label in enumerate(cohort.labels)}

    def of(row: int, label: str) -> list[NDArray[np.float64]]:
        found = list(boxes.get((row, label), ()))
        if cohort.masks is not None and label in columns:
            found += contours(np.asarray(cohort.masks[row])[columns[label]])
        if lungs is not None and lungs[row] is not None:
            try:
                found += contours(read_image(root / lungs[row], cohort.pixel_size, **cohort.pixel_mapping) > 127)
            except BrokenImage:
                return found  # an image without its mask is still an image
        return found

    return of


def contours(mask: NDArray[np.generic]) -> list[NDArray[np.float64]]:
    """Outlines of a mask (P, P), as shares of its edge."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [(contour.reshape(-1, 2) + 0.5) / len(mask) for contour in found]


def placed(x: float, y: float, width: float, height: float, frame: tuple[int, int], aspect: str) -> NDArray[np.float64]:
    """A box of a source image as it lies on the stored square.

    Args:
        x: Left edge, source pixels.
        y: Upper edge.
        width: Its width.
        height: Its height.
        frame: Width and height of the source image.
        aspect: How the image became square, see :func:`cxr_common.cohorts.images.read_image`.

    Returns:
        (4, 2) corners as shares of the square's edge.
    """
    edges = {"squash": np.array(frame), "crop": np.full(2, min(frame)), "pad": np.full(2, max(frame))}[aspect]
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float64)
    return np.clip((corners - (np.array(frame) - edges) / 2) / edges, 0, 1)


def _boxes(cohort: Cohort, root: Path) -> dict[tuple[int, str], list[NDArray[np.float64]]]:
    boxes = _BOXES.get(cohort.name)
    if not root.is_dir() or boxes is None:
        return {}
    read, frame = boxes
    rows = {Path(image).stem: row for row, image in enumerate(cohort.table["image"])}
    found: dict[tuple[int, str], list[NDArray[np.float64]]] = {}
    for image, label, x, y, width, height in read(root).iter_rows():
        if (row := rows.get(Path(image).stem)) is not None:
            corners = placed(x, y, width, height, frame, cohort.pixel_mapping["aspect"])
            found.setdefault((row, label), []).append(corners)
    return found
