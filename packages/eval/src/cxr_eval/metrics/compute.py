"""Every metric of every label, once and in many resamples at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxr_eval.metrics import classification
from cxr_eval.metrics.classification import COUNTS
from cxr_eval.metrics.records import METRICS, Floats, Metric, Resampled


def per_label(
    targets: NDArray, scores: NDArray, decisions: NDArray, names: Sequence[str] | None = None
) -> dict[str, NDArray]:
    """Metrics of every label.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L) probabilities in [0, 1].
        decisions: (N, L) bool.
        names: Which of ``METRICS`` are wanted; all when None.

    Returns:
        The names as float64 (L,), NaN where undefined, and those of ``COUNTS`` as int64 (L,).
    """
    counts = classification.confusion_counts(targets, decisions)
    values: dict[str, NDArray] = {}
    for name in METRICS if names is None else names:
        metric = METRICS[name]
        if metric.of_counts is not None:
            values[name] = metric.of_counts(*(counts[count] for count in COUNTS))
        elif metric.of_arrays is not None:
            values[name] = np.asarray(metric.of_arrays(targets, scores, decisions), np.float64)
    return values | counts


def resample(
    targets: NDArray,
    scores: NDArray,
    decisions: NDArray,
    patient: NDArray[np.int64],
    weights: NDArray[np.float32],
    names: Sequence[str],
) -> dict[str, Floats]:
    """Metrics of every label in every resample.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L) probabilities.
        decisions: (N, L) bool.
        patient: (N,) patient number of each image, in [0, P).
        weights: (P, R) how often each patient counts.
        names: Which of ``METRICS`` are wanted.

    Returns:
        The names and "positives" (the weighted number of positives), each (R, L) float64; NaN where the metric is
        undefined in that resample. Slope and intercept of the calibration are one-step estimates (see
        ``statistics.calibration``).
    """
    labels = targets.shape[1]
    known, positive, called = ~np.isnan(targets), targets == 1, decisions.astype(bool)
    parts = [positive & called, known & ~positive & called, positive & ~called, known & ~positive & ~called]
    sums = weighted_sums(np.concatenate(parts, axis=1), patient, weights)
    tp, fp, fn, tn = (sums[:, k * labels : (k + 1) * labels] for k in range(4))
    figures: dict[str, Floats] = {"positives": tp + fn}
    batches: dict[Resampled, list[str]] = {}
    for name in names:
        metric = METRICS[name]
        if metric.of_counts is not None:
            figures[name] = metric.of_counts(tp, fp, fn, tn)
        elif metric.resampled is not None:
            batches.setdefault(metric.resampled, []).append(name)
        else:
            figures[name] = _one_by_one(metric, targets, scores, decisions, patient, weights)
    for batch, wanted in batches.items():
        figures |= batch(targets, scores, patient, weights, wanted)
    return {name: figures[name] for name in (*names, "positives")}


def _one_by_one(
    metric: Metric, targets: NDArray, scores: NDArray, decisions: NDArray, patient: NDArray, weights: NDArray
) -> Floats:
    assert metric.of_arrays is not None
    values = np.empty((weights.shape[1], targets.shape[1]))
    for r in range(weights.shape[1]):
        rows = np.repeat(np.arange(len(targets)), weights[patient, r].astype(np.int64))
        values[r] = metric.of_arrays(targets[rows], scores[rows], decisions[rows])
    return values


def weighted_sums(values: NDArray, patient: NDArray[np.int64], weights: NDArray[np.float32]) -> Floats:
    """Sum of ``values`` over the images of every resample.

    Args:
        values: (N, K), no NaN.
        patient: (N,) patient number of each image.
        weights: (P, R).

    Returns:
        (R, K) float64, summed in float32: exact for counts.
    """
    by_patient = [np.bincount(patient, column, minlength=len(weights)) for column in values.T]
    return (weights.T @ np.stack(by_patient, axis=1).astype(np.float32)).astype(np.float64)
