"""Pictures of the most confident correct and wrong answers for a label, with the maps of every model."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_eval.predictions import Answers

TILE = 192
"""Edge of one picture, pixels."""
_GAP, _LEVELS, _STRENGTH = 4, 48, 0.65
_OUTLINE = (255, 255, 0)  # cyan in OpenCV's order: far from the colours of the map


def surest(targets: NDArray[np.float32], answers: Answers, label: int, cases: int) -> list[tuple[int, str, str]]:
    """The cases to show of one label: found and sure, called in error and sure, missed and sure.

    Args:
        targets: (N, L) in {0, 1, NaN}; unknown ones are never shown.
        answers: The model whose answers decide.
        label: Column.
        cases: Most of each sort.

    Returns:
        (image, "right" or "wrong", what it is), the surest first, equals in the order of the images.
    """
    p, called, target = answers.probabilities[:, label], answers.decisions[:, label], targets[:, label]
    examples = []
    for of_sort, sureness, kind, words in (
        ((target == 1) & called, p, "right", "present, called"),
        ((target == 0) & called, p, "wrong", "absent, called (false alarm)"),
        ((target == 1) & ~called, -p, "wrong", "present, not called (miss)"),
    ):
        images = np.flatnonzero(of_sort)
        order = np.argsort(-sureness[images], kind="stable")[:cases]
        examples += [(int(image), kind, words) for image in images[order]]
    return examples


def caption(words: str, names: Sequence[str], blank: Sequence[str], *, outlined: bool, row: int) -> str:
    """What stands below a picture; images are named by their number, for file names may name patients.

    Args:
        words: From :func:`surest`.
        names: Names of the models, in the order of the maps.
        blank: Those whose map is nowhere positive.
        outlined: Whether the lesion is outlined.
        row: Row of ``predictions.parquet``.
    """
    lesion = " The lesion is outlined." if outlined else ""
    without = f" No colour: nothing in the image speaks for the label in {', '.join(blank)}." if blank else ""
    order = f"From left: radiograph, {', '.join(names)}."
    return f"{words[0].upper()}{words[1:]}. {order}{lesion}{without} Row {row} of predictions.parquet."


def strip(radiograph: NDArray[np.uint8], maps: Sequence[NDArray[np.floating]], lesion: NDArray[np.uint8]) -> bytes:
    """One case: the radiograph, then each map over it, side by side.

    Args:
        radiograph: (P, P) gray.
        maps: M maps (S, S) in [0, 1], each of its own edge; an empty one leaves the radiograph as it is.
        lesion: (T, T), 1 where the lesion is; all 0 draws no outline.

    Returns:
        A PNG file, TILE high and (M + 1) tiles wide.
    """
    method = cv2.INTER_AREA if len(radiograph) > TILE else cv2.INTER_LINEAR
    gray = cv2.resize(np.ascontiguousarray(radiograph), (TILE, TILE), interpolation=method)
    gray = (gray.astype(np.float32) * (_LEVELS / 256)).astype(np.uint8).astype(np.float32) * (255 / (_LEVELS - 1))
    tiles = [_outlined(_overlay(gray, saliency), lesion) for saliency in (np.zeros((1, 1)), *maps)]
    gap = np.full((TILE, _GAP, 3), 255, np.uint8)
    parts = [part for tile in tiles for part in (gap, tile)][1:]
    done, png = cv2.imencode(".png", np.concatenate(parts, axis=1))
    if not done:
        raise RuntimeError("OpenCV could not write a PNG")
    return png.tobytes()


def _overlay(gray: NDArray[np.float32], saliency: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour where there is evidence, the more the stronger; (TILE, TILE, 3) in OpenCV's order."""
    share = cv2.resize(saliency.astype(np.float32), (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    share = np.clip(np.rint(share * 32) / 32, 0, 1)  # few levels: a smaller file
    colour = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    weight = (_STRENGTH * share)[:, :, None]
    return np.rint(gray[:, :, None] * (1 - weight) + colour * weight).astype(np.uint8)


def _outlined(tile: NDArray[np.uint8], lesion: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if lesion.any():
        large = cv2.resize((lesion > 0).astype(np.float32), (TILE, TILE), interpolation=cv2.INTER_LINEAR) >= 0.5
        outlines, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, outlines, -1, _OUTLINE, 1)
    return tile
