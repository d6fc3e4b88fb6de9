"""How well a classifier ranks and decides, vectorised over labels, with missing labels masked.

Arrays everywhere: ``targets`` (N, L) float in {0, 1, NaN}, NaN unknown; ``scores`` (N, L) float, larger is
more positive; ``decisions`` (N, L) bool. A metric that has no value (no positive, nothing called positive)
is NaN, never 0.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cxr_common.metrics import auroc
from cxr_eval.metrics.calibration import brier, expected_calibration_error

Floats = NDArray[np.float64]

RANKING = ("auroc", "auprc")
DECISION = ("f1", "accuracy", "balanced_accuracy", "precision", "recall", "specificity", "npv", "mcc")
CALIBRATION = ("brier", "ece")
METRICS = (*RANKING, *DECISION, *CALIBRATION)
COUNTS = ("tp", "fp", "fn", "tn")
LOWER_IS_BETTER = frozenset(CALIBRATION)

TITLES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Precision",
    "recall": "Sensitivity",
    "specificity": "Specificity",
    "npv": "NPV",
    "mcc": "MCC",
    "brier": "Brier",
    "ece": "ECE",
    "top1_accuracy": "Accuracy",
}


def average_precision(targets: NDArray, scores: NDArray) -> Floats:
    """Area under the precision-recall curve by steps, ``AP = sum_k (R_k - R_{k-1}) P_k``, k a distinct score.

    Equal scores form one operating point, so the value does not depend on the order of the rows.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L), larger is more positive.

    Returns:
        (L,) in [0, 1]; NaN for a label without a known positive.
    """
    result = np.full(targets.shape[1], np.nan)
    for label in range(targets.shape[1]):
        known = ~np.isnan(targets[:, label])
        true_positives, false_positives, _ = operating_points(targets[known, label], scores[known, label])
        if true_positives[-1] > 0:
            gained = np.diff(true_positives)
            called = (true_positives + false_positives)[1:]
            result[label] = np.sum(gained * true_positives[1:] / called) / true_positives[-1]
    return result


def operating_points(target: NDArray, score: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Counts at every distinct threshold, from "nothing is positive" down to "everything is".

    Args:
        target: (N,) in {0, 1}, no NaN.
        score: (N,).

    Returns:
        True positives (K+1,), false positives (K+1,) and thresholds (K+1,), the first of them inf; an
        image is called positive when ``score >= threshold``. K is the number of distinct scores.
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    last_of_tie = np.flatnonzero(np.append(np.diff(ordered) != 0, True)) if len(ordered) else np.empty(0, np.int64)
    true_positives = np.cumsum(target[order] == 1)[last_of_tie]
    called = last_of_tie + 1
    return (
        np.concatenate(([0], true_positives)).astype(np.int64),
        np.concatenate(([0], called - true_positives)).astype(np.int64),
        np.concatenate(([np.inf], ordered[last_of_tie])).astype(np.float64),
    )


def confusion_counts(targets: NDArray, decisions: NDArray) -> dict[str, NDArray[np.int64]]:
    """True and false positives and negatives per label, over the rows whose target is known.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        decisions: (N, L) bool.

    Returns:
        "tp", "fp", "fn", "tn", each (L,) int64.
    """
    positive, negative = targets == 1, targets == 0
    called = decisions.astype(bool)
    return {
        "tp": (positive & called).sum(axis=0),
        "fp": (negative & called).sum(axis=0),
        "fn": (positive & ~called).sum(axis=0),
        "tn": (negative & ~called).sum(axis=0),
    }


def from_counts(tp: NDArray, fp: NDArray, fn: NDArray, tn: NDArray) -> dict[str, Floats]:
    """Every decision metric from confusion counts of any (common) shape; weighted counts are fine.

    F1 = 2TP/(2TP+FP+FN); MCC = (TP·TN - FP·FN)/sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) (Matthews 1975),
    undefined (not 0) when one of the four sums is 0; balanced accuracy = (sensitivity + specificity)/2.

    Returns:
        The names of ``DECISION``, each of the shape of ``tp``; NaN where the denominator is 0.
    """
    tp, fp, fn, tn = (np.asarray(count, dtype=np.float64) for count in (tp, fp, fn, tn))
    recall, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    # Roots first: the product of four counts overflows what float64 holds exactly.
    scale = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return {
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
        "balanced_accuracy": (recall + specificity) / 2,
        "precision": _ratio(tp, tp + fp),
        "recall": recall,
        "specificity": specificity,
        "npv": _ratio(tn, tn + fn),
        "mcc": _ratio(tp * tn - fp * fn, scale),
    }


def per_label(targets: NDArray, scores: NDArray, decisions: NDArray) -> dict[str, NDArray]:
    """Every metric for every label.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L) probabilities in [0, 1].
        decisions: (N, L) bool.

    Returns:
        The names of ``METRICS`` as float64 (L,), NaN where undefined, and of ``COUNTS`` as int64 (L,).
    """
    counts = confusion_counts(targets, decisions)
    return {
        "auroc": auroc(targets, scores),
        "auprc": average_precision(targets, scores),
        **from_counts(**counts),
        "brier": brier(targets, scores),
        "ece": expected_calibration_error(targets, scores),
        **counts,
    }


def micro(targets: NDArray, scores: NDArray, decisions: NDArray) -> dict[str, NDArray]:
    """Every metric with all known (image, label) pairs pooled into one column; values as (1,) arrays."""
    return per_label(targets.reshape(-1, 1), scores.reshape(-1, 1), decisions.reshape(-1, 1))


def macro(values: Floats) -> Floats:
    """Mean over the labels (last axis) whose value is defined; NaN when none is."""
    return weighted(values, np.ones_like(values))


def weighted(values: Floats, positives: NDArray) -> Floats:
    """Mean over the labels (last axis) whose value is defined, weighted by their number of positives.

    Args:
        values: (..., L) with NaN where undefined.
        positives: (..., L) or (L,) number of known positives of each label.

    Returns:
        (...,); NaN when no label with a positive is defined.
    """
    share = np.where(np.isnan(values), 0.0, positives)
    return _ratio((np.nan_to_num(values, nan=0.0) * share).sum(axis=-1), share.sum(axis=-1))


def averages(values: Mapping[str, NDArray]) -> tuple[dict[str, float], dict[str, float]]:
    """Macro and weighted averages of what ``per_label`` gave, as two dicts over ``METRICS``."""
    positives = values["tp"] + values["fn"]
    return (
        {name: float(macro(values[name])) for name in METRICS},
        {name: float(weighted(values[name], positives)) for name in METRICS},
    )


def top1_accuracy(targets: NDArray, decisions: NDArray) -> float:
    """Share of known images whose decided class is the true one.

    Args:
        targets: (N, K) one-hot; an unknown image is a row of NaN.
        decisions: (N, K) one-hot bool.

    Returns:
        In [0, 1]; NaN without a known image.
    """
    known = ~np.isnan(targets).any(axis=1)
    correct = ((targets == 1) & decisions).any(axis=1)
    return float(_ratio(int(np.sum(correct & known)), int(np.sum(known))))


def confusion_matrix(targets: NDArray, decisions: NDArray) -> NDArray[np.int64]:
    """Images by true class (rows) and decided class (columns); unknown images are left out.

    Args:
        targets: (N, K) one-hot or NaN rows.
        decisions: (N, K) one-hot bool.

    Returns:
        (K, K) int64.
    """
    return (targets == 1).astype(np.int64).T @ decisions.astype(np.int64)


def why_undefined(name: str, tp: int, fp: int, fn: int, tn: int) -> str:
    """The reason in words for a metric of one label that came out NaN, from the label's confusion counts."""
    positives, negatives = tp + fn, fp + tn
    if positives + negatives == 0:
        return "no image has a known label"
    if name in ("auroc", "balanced_accuracy", "mcc", "auprc", "recall") and positives == 0:
        return "no positive image"
    if name in ("auroc", "balanced_accuracy", "mcc", "specificity") and negatives == 0:
        return "no negative image"
    if name in ("precision", "mcc") and tp + fp == 0:
        return "no image was called positive"
    if name in ("npv", "mcc") and tn + fn == 0:
        return "no image was called negative"
    if name == "f1":
        return "no positive image and none called positive"
    return "undefined for these counts"


def _ratio(numerator: NDArray | float, denominator: NDArray | float) -> Floats:
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)
