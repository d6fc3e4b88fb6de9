"""What models still know of corrupted copies of the images: blurred, noisy, too dark, of strong JPEG compression.

Fixed corruptions at fixed strengths, as for ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261), of what
befalls radiographs between detector and file. Strengths are shares of the edge or of the gray range, so that they mean
the same at every input size.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import nn

from cxr_data import pixel_size_for
from cxr_data.augment import LAST_NOISE_PLACE, ViewSpec, render, whole
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.terminal import counting
from cxr_data.models.header import Header
from cxr_eval import entries, results
from cxr_eval.arrays import Figure, compare, evaluate
from cxr_eval.models import Match
from cxr_eval.predictions import Answers, answers, predict

STRENGTHS = ("mild", "strong")
CORRUPTIONS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "blurred": ({"sigma": 0.01}, {"sigma": 0.02}),
    "noisy": ({"noise": 0.05}, {"noise": 0.1}),
    "low in contrast": ({"contrast": 0.6}, {"contrast": 0.35}),
    "darker": ({"brightness": -0.15}, {"brightness": -0.3}),
    "brighter": ({"brightness": 0.15}, {"brightness": 0.3}),
    "rotated": ({"angle": math.radians(8)}, {"angle": math.radians(16)}),
    "enlarged": ({"shown": 0.85}, {"shown": 0.7}),
    "reduced": ({"shown": 1.2}, {"shown": 1.5}),
    "compressed": ({"quality": 30}, {"quality": 10}),
}
"""What is changed, mildly and strongly: standard deviation of a blur as a share of the edge; of noise as a share of the
gray range; slope around middle gray; shift as a share of the range; radians; share of the edge that is shown, the
border continued; quality of JPEG."""
_SAME = {
    "x": 0.5,
    "y": 0.5,
    "mirror": 1.0,
    "brightness": 0.0,
    "contrast": 1.0,
    "gamma": 1.0,
    "sigma": 0.0,
    "angle": 0.0,
}


class CorruptedImages:
    """Images of a cohort, corrupted when they are read.

    Args:
        pixels: (N, P, P) uint8, usually the cohort's memory map.
        size: Edge of the network's input, to which they are reduced first.
        change: A value of :data:`CORRUPTIONS`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, pixels: NDArray[np.uint8], size: int, change: Mapping[str, float]):
        self.pixels, self.size, self.change = pixels, size, dict(change)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(B, size, size) copies of these rows; those of a row are always the same."""
        images, change = whole(self.pixels[rows], self.size), dict(self.change)
        if quality := change.pop("quality", None):
            return np.stack([_compressed(image, int(quality)) for image in images])
        shown = change.pop("shown", 1.0)
        same = _SAME | {"width": shown, "height": shown} | change
        views = {name: np.full((len(rows), 1), value, np.float32) for name, value in same.items()}
        if "noise" in change:
            places = [np.random.default_rng(int(row)).integers(0, LAST_NOISE_PLACE, 2, endpoint=True) for row in rows]
            across, down = np.array(places, np.float32).T[:, :, None]
            views |= {"noise_x": across, "noise_y": down}
        return render(images, views, ViewSpec(self.size))[0]


def _compressed(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Any = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    return decoded


def measure(
    networks: Mapping[str, tuple[nn.Module, int]],
    headers: Mapping[str, Header],
    cohorts: Mapping[int, Cohort],
    given: Mapping[str, Answers],
    match: Match,
    targets: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    intervals: bool = True,
    **forward: Any,
) -> dict[str, list[dict[str, Any]]]:
    """AUROC of models on every kind of corrupted copies, and its paired difference from that on the images as they are.

    Args:
        networks: Network and its input size by model name.
        headers: Headers by model name.
        cohorts: The cohort by stored pixel size.
        given: Answers for the images as they are, by model name.
        match: Task and labels.
        targets: (N, L) in {0, 1, NaN}.
        rows: (N,) evaluated rows.
        intervals: Whether to give the figures intervals.
        **forward: Options of :func:`cxr_eval.predictions.predict`.

    Returns:
        For each model a list of "name", "strength", "auroc" and "difference", as in metrics.json.
    """
    kinds = [
        (name, strength, change)
        for name, changes in CORRUPTIONS.items()
        for strength, change in zip(STRENGTHS, changes, strict=True)
    ]
    columns = results.reported(match.task, match.labels)
    known, lost = targets[:, columns], {}
    for model, (network, size) in networks.items():
        cohort = cohorts[pixel_size_for(size)]
        lost[model], asked = [], cast(Any, {"groups": cohort.groups[rows], "metrics": ["auroc"]})
        with counting(f"evaluate: {model} on corrupted copies", len(kinds) * len(rows)) as advance:
            for name, strength, change in kinds:
                copies: Any = CorruptedImages(cohort.pixels, size, change)
                logits = predict(network, copies, size, rows=rows, on_batch=advance, **forward)
                p = answers(logits, headers[model], match.labels, model).probabilities[:, columns]
                clean = given[model].probabilities[:, columns]
                auroc = evaluate(known, p, **asked).overall["auroc"]
                difference = compare(known, p, clean, **asked).overall["auroc"]
                figures = {"auroc": _entry(auroc, intervals), "difference": _entry(difference, intervals)}
                lost[model].append({"name": name, "strength": strength, **figures})
    return lost


def _entry(figure: Figure, interval: bool) -> dict[str, Any]:
    """A figure as metrics.json has it."""
    numbers = (figure.value, *((figure.low, figure.high) if interval else (math.nan, math.nan)))
    value, low, high = (None if math.isnan(number) else number for number in numbers)
    entry: dict[str, Any] = {"value": value, "low": low, "high": high}
    if value is None:
        entry["reason"] = figure.reason
    elif low is None:
        entry["interval_reason"] = figure.reason if interval else entries.NO_RESAMPLES
    return entry
