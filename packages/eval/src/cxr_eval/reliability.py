"""Calibration of one model in full: curves, the parts of the Brier score, before and after the stored temperature."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_eval import entries
from cxr_eval.metrics import calibration as metrics
from cxr_eval.metrics import records
from cxr_eval.metrics.classification import macro
from cxr_eval.predictions import Answers
from cxr_eval.statistics.bootstrap import Draws


def summarise(
    answer: Answers,
    targets: NDArray,
    columns: list[int],
    patient: NDArray[np.int64],
    draws: Draws | None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the four calibration metrics do not say by themselves.

    Args:
        answer: The model's answers, with those before the temperature where it has one.
        targets: (N, L) in {0, 1, NaN}, the reported labels.
        columns: Columns of the answers these labels are.
        patient: (N,) number of each image's patient.
        draws: Resamples of the patients; None for no intervals.

    Returns:
        For each label "after" and "before": the "curve" (see ``curve``) and "brier_parts"; "before" also with the
        calibration metrics. For the model "temperature" and "before", their macro averages.
        "before" is None for a model without a stored temperature.
    """
    after = answer.probabilities[:, columns]
    labels: list[dict[str, Any]] = [
        {"after": _shape(target, p), "before": None} for target, p in zip(targets.T, after.T, strict=True)
    ]
    if answer.uncalibrated is None:
        return labels, {"temperature": None, "before": None}
    before, decisions = answer.uncalibrated[:, columns], answer.decisions[:, columns]
    figures = records.of_family("calibration")
    values, drawn, of_each = entries.of_labels(targets, before, decisions, patient, draws, figures)
    for i, label in enumerate(labels):
        label["before"] = {**of_each[i], **_shape(targets[:, i], before[:, i])}
    averaged = {key: macro(sample) for key, sample in drawn.items()} if drawn else None
    overall = {
        key: entries.over_labels(entries.metric(key, float(macro(values[key])), averaged), values[key])
        for key in figures
    }
    return labels, {"temperature": answer.temperature, "before": overall}


def _shape(target: NDArray, probability: NDArray) -> dict[str, Any]:
    parts = metrics.brier_parts(target, probability)
    named = {
        name: entries.number(getattr(parts, name)) for name in ("reliability", "resolution", "uncertainty", "within")
    }
    return {"curve": curve(target, probability), "brier_parts": named}


def curve(target: NDArray, probability: NDArray) -> list[dict[str, float]]:
    """The reliability curve as JSON: bins of equal mass, ascending.

    Args:
        target: (N,) in {0, 1, NaN}.
        probability: (N,) in [0, 1].

    Returns:
        For each bin "predicted" (mean probability), "observed" (share of positives), "count", and "low" and
        "high", Wilson's 95 % interval of the share with images taken as independent (Wilson 1927).
    """
    bins = metrics.reliability(target, probability)
    low, high = wilson(bins.observed, bins.count)
    return [
        {"predicted": float(p), "observed": float(o), "count": int(n), "low": float(a), "high": float(b)}
        for p, o, n, a, b in zip(bins.predicted, bins.observed, bins.count, low, high, strict=True)
    ]


def wilson(
    share: NDArray[np.float64], count: NDArray[np.int64], z: float = 1.959963984540054
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval of a share of ``count`` > 0 independent trials, each (B,); the default z gives 95 %."""
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
