"""A contact sheet: what a cohort looks like, class by class."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_common.cohorts.cohort import Cohort

_GAP, _BAR, _CAPTION = 4, 26, 16
_BACK, _TEXT = 24, 235


def contact_sheet(cohort: Cohort, *, columns: int = 8, tile: int = 160) -> NDArray[np.uint8]:
    """Draw one strip of images a label, with the label burned in above and split and name below each image.

    Images are taken at even distances among those with the label, so the sheet is the same each time.
    Multilabel cohorts get a strip of images without any finding as well.

    Args:
        cohort: The cohort.
        columns: Images a strip.
        tile: Edge of an image on the sheet, pixels.

    Returns:
        (height, width) gray sheet.
    """
    strips = [_strip(cohort, title, rows, columns, tile) for title, rows in _titled_rows(cohort)]
    return np.concatenate(strips)


def _titled_rows(cohort: Cohort) -> list[tuple[str, NDArray[np.int64]]]:
    if not cohort.labels:
        return [("unlabelled", np.arange(len(cohort)))]
    positive = cohort.targets == 1
    found = [(label, np.flatnonzero(positive[:, i])) for i, label in enumerate(cohort.labels)]
    if cohort.task == "multilabel":
        found.insert(0, ("no finding", np.flatnonzero((cohort.targets == 0).all(axis=1))))
    return found


def _strip(cohort: Cohort, title: str, rows: NDArray[np.int64], columns: int, tile: int) -> NDArray[np.uint8]:
    width = columns * (tile + _GAP) + _GAP
    sheet = np.full((_BAR + tile + _CAPTION + _GAP, width), _BACK, np.uint8)
    _write(sheet, f"{title}: {len(rows)} images", (_GAP, _BAR - 8), 0.6)
    if not len(rows):
        return sheet
    chosen = np.unique(rows[np.linspace(0, len(rows) - 1, columns).round().astype(int)])
    table = cohort.table[chosen]
    for place, (row, image, split) in enumerate(zip(chosen, table["image"], table["split"], strict=True)):
        left = _GAP + place * (tile + _GAP)
        pixels = np.ascontiguousarray(cohort.pixels[row])
        method = cv2.INTER_AREA if len(pixels) >= tile else cv2.INTER_LINEAR
        sheet[_BAR : _BAR + tile, left : left + tile] = cv2.resize(pixels, (tile, tile), interpolation=method)
        caption = f"{split} {image.rsplit('/', 1)[-1]}"[: tile // 6]
        _write(sheet[:, : left + tile], caption, (left, _BAR + tile + 12), 0.34)
    return sheet


def _write(sheet: NDArray[np.uint8], text: str, at: tuple[int, int], scale: float) -> None:
    plain = text.encode("ascii", "replace").decode()  # OpenCV's letters are ASCII
    drawn = np.ascontiguousarray(sheet)
    cv2.putText(drawn, plain, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, 1, cv2.LINE_AA)
    sheet[:] = drawn
