"""Contact sheets: sample images of a cohort by class, as stored or as a network receives them."""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.augment import ViewSpec, draw, render, training_views
from cxr_data.cohorts.cohort import Cohort
from cxr_data.preparation.outlines import Outlines

_GAP, _BAR, _CAPTION = 4, 26, 16
_BACK, _TEXT = 24, 235


def contact_sheet(
    cohort: Cohort, *, columns: int = 8, tile: int = 160, outlines: Outlines | None = None
) -> NDArray[np.uint8]:
    """Draw one strip of images per label, with the label burned in above and split and name below each image.

    Images are taken at even distances among those with the label, so the sheet is the same each time.
    Multilabel cohorts get a strip of images without any finding as well.

    Args:
        cohort: The cohort.
        columns: Images a strip.
        tile: Edge of an image on the sheet, pixels.
        outlines: Where findings are, from :func:`cxr_data.outlines.outlines`: those of a strip's label are
            drawn on its images.

    Returns:
        (height, width) gray sheet.
    """
    strips = [_strip(cohort, title, rows, columns, tile, outlines) for title, rows in _titled_rows(cohort)]
    return np.concatenate(strips)


def view_sheet(
    cohort: Cohort, *, columns: int = 8, tile: int = 160, seed: int = 0, spec: ViewSpec | None = None
) -> NDArray[np.uint8]:
    """Draw an image of each label followed by views of it, augmented as in training.

    Args:
        cohort: The cohort.
        columns: Images a strip, the original among them; at least 2.
        tile: Edge of an image on the sheet, pixels.
        seed: Fixes the views.
        spec: What a view may look like; by default what training uses by default.

    Returns:
        (height, width) gray sheet.
    """
    spec = replace(training_views("strong", tile), count=columns - 1) if spec is None else spec
    strips = []
    for title, rows in _titled_rows(cohort):
        if not len(rows):
            continue
        image = cohort.pixels[rows[len(rows) // 2]][None]
        views = render(image, draw(spec, 1, seed, 0), spec)[:, 0]
        whole = cv2.resize(np.ascontiguousarray(image[0]), (tile, tile), interpolation=cv2.INTER_AREA)
        sheet = np.full((_BAR + tile + _GAP, columns * (tile + _GAP) + _GAP), _BACK, np.uint8)
        _write(sheet, f"{title}: as stored, then {columns - 1} views", (_GAP, _BAR - 8), 0.6)
        for place, shown in enumerate([whole, *views]):
            left = _GAP + place * (tile + _GAP)
            sheet[_BAR : _BAR + tile, left : left + tile] = shown
        strips.append(sheet)
    return np.concatenate(strips)


def _titled_rows(cohort: Cohort) -> list[tuple[str, NDArray[np.int64]]]:
    if not cohort.labels:
        return [("unlabelled", np.arange(len(cohort)))]
    positive = cohort.targets == 1
    titled = [(label, np.flatnonzero(positive[:, i])) for i, label in enumerate(cohort.labels)]
    if cohort.task == "multilabel":
        titled.insert(0, ("no finding", np.flatnonzero((cohort.targets == 0).all(axis=1))))
    return titled


def _strip(
    cohort: Cohort, title: str, rows: NDArray[np.int64], columns: int, tile: int, outlines: Outlines | None
) -> NDArray[np.uint8]:
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
        shown = cv2.resize(pixels, (tile, tile), interpolation=method)
        for polygon in outlines(int(row), title) if outlines else ():
            points = np.rint(polygon * tile * 16 - 8).astype(np.int32)[:, None]  # 4 fractional bits
            for shade, width in ((0, 3), (255, 1)):  # white on black: seen on bone and on air
                cv2.polylines(shown, [points], True, shade, width, cv2.LINE_AA, 4)
        sheet[_BAR : _BAR + tile, left : left + tile] = shown
        caption = f"{split} {image.rsplit('/', 1)[-1]}"[: tile // 6]
        _write(sheet[:, : left + tile], caption, (left, _BAR + tile + 12), 0.34)
    return sheet


def _write(sheet: NDArray[np.uint8], text: str, at: tuple[int, int], scale: float) -> None:
    plain = text.encode("ascii", "replace").decode()  # OpenCV's letters are ASCII
    drawn = np.ascontiguousarray(sheet)
    cv2.putText(drawn, plain, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, 1, cv2.LINE_AA)
    sheet[:] = drawn
