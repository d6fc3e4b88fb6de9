"""How well a classifier ranks and decides, vectorised over labels, with missing labels masked.

Arrays everywhere: ``targets`` (N, L) float in {0, 1, NaN}, NaN unknown; ``scores`` (N, L) float, larger is
more positive; ``decisions`` (N, L) bool. A metric that has no value (no positive, nothing called positive)
is NaN, never 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cxr_data.metrics import auroc
from cxr_eval.metrics.calibration import brier, expected_calibration_error, recalibration

Floats = NDArray[np.float64]

OPERATING_LEVELS = (90, 95)
"""Percent of specificity (sensitivity) at which the sensitivity (specificity) is read off the ROC curve."""

RANKING = (
    "auroc",
    "auprc",
    *(f"sensitivity_at_specificity_{level}" for level in OPERATING_LEVELS),
    *(f"specificity_at_sensitivity_{level}" for level in OPERATING_LEVELS),
)
"""What the order of the scores alone decides. The last four are points of the ROC curve of the evaluated images: they
describe the ranking, and no decision is taken with the threshold that reaches them."""
DECISION = ("f1", "accuracy", "balanced_accuracy", "precision", "recall", "specificity", "npv", "mcc")
CALIBRATION = ("brier", "ece", "calibration_slope", "calibration_intercept")
METRICS = (*RANKING, *DECISION, *CALIBRATION)
COUNTS = ("tp", "fp", "fn", "tn")
PREVALENCE_DEPENDENT = frozenset({"auprc", "f1", "accuracy", "precision", "npv", "mcc", *CALIBRATION})
"""Metrics that change with the share of positive images while the model answers either class as before. The others
are rates within the positives and within the negatives. The calibration slope is free of the prevalence only where
the logistic recalibration is the right model (Prentice & Pyke 1979), which nobody knows."""
DECIDED = ("accuracy", "balanced_accuracy", "mcc")
"""Metrics that more than two exclusive classes have for the decided class, see ``from_confusion_matrix``."""
LOWER_IS_BETTER = frozenset({"brier", "ece"})
IDEAL = {"calibration_slope": 1.0, "calibration_intercept": 0.0}
"""Metrics that are neither better high nor better low, and the value they should have."""

TITLES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    **{f"sensitivity_at_specificity_{level}": f"Sensitivity at {level} % specificity" for level in OPERATING_LEVELS},
    **{f"specificity_at_sensitivity_{level}": f"Specificity at {level} % sensitivity" for level in OPERATING_LEVELS},
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
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
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


def operating_levels(targets: NDArray, scores: NDArray) -> dict[str, Floats]:
    """Sensitivity at given specificities and the reverse: the best attainable point of each label's ROC curve.

    Sensitivity at specificity s is the largest sensitivity of any threshold whose specificity is at least s;
    nothing is interpolated.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L), larger is more positive.

    Returns:
        ``sensitivity_at_specificity_90`` and so on for every level of ``OPERATING_LEVELS``, each (L,); NaN for a
        label without known positives or negatives.
    """
    labels = targets.shape[1]
    found = {name: np.full(labels, np.nan) for name in RANKING if "_at_" in name}
    for label in range(labels):
        known = ~np.isnan(targets[:, label])
        tp, fp, _ = operating_points(targets[known, label], scores[known, label])
        positives, negatives = int(tp[-1]), int(fp[-1])
        if not positives or not negatives:
            continue
        for level in OPERATING_LEVELS:
            # Whole percents of whole numbers: integers, so that 90 of 100 is 90 %.
            specific = 100 * (negatives - fp) >= level * negatives
            sensitive = 100 * tp >= level * positives
            found[f"sensitivity_at_specificity_{level}"][label] = tp[specific].max() / positives
            found[f"specificity_at_sensitivity_{level}"][label] = 1 - fp[sensitive].min() / negatives
    return found


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


def per_label(
    targets: NDArray, scores: NDArray, decisions: NDArray, names: Sequence[str] = METRICS
) -> dict[str, NDArray]:
    """Metrics of every label.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L) probabilities in [0, 1].
        decisions: (N, L) bool.
        names: Which of ``METRICS`` are wanted.

    Returns:
        The names as float64 (L,), NaN where undefined, and those of ``COUNTS`` as int64 (L,).
    """
    counts = confusion_counts(targets, decisions)
    found: dict[str, NDArray] = {**counts, **from_counts(**counts)}
    if "auroc" in names:
        found["auroc"] = auroc(targets, scores)
    if "auprc" in names:
        found["auprc"] = average_precision(targets, scores)
    if any("_at_" in name for name in names):
        found |= operating_levels(targets, scores)
    if "brier" in names:
        found["brier"] = brier(targets, scores)
    if "ece" in names:
        found["ece"] = expected_calibration_error(targets, scores)
    if set(IDEAL) & set(names):
        found["calibration_slope"], found["calibration_intercept"] = recalibration(targets, scores)
    return {name: found[name] for name in (*names, *COUNTS)}


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


def confusion_matrix(targets: NDArray, decisions: NDArray) -> NDArray[np.int64]:
    """Images by true class (rows) and decided class (columns); unknown images are left out.

    Args:
        targets: (N, K) one-hot or NaN rows.
        decisions: (N, K) one-hot bool.

    Returns:
        (K, K) int64.
    """
    return (targets == 1).astype(np.int64).T @ decisions.astype(np.int64)


def from_confusion_matrix(matrix: NDArray) -> dict[str, Floats]:
    """Metrics of exclusive classes, from confusion matrices (rows the truth); weighted counts are fine.

    Accuracy is the share of images whose decided class is the true one; balanced accuracy the mean recall of the
    classes that occur; MCC the multi-class coefficient R_K (Gorodkin 2004):
    ``(c s - sum_k t_k d_k) / sqrt((s^2 - sum_k d_k^2)(s^2 - sum_k t_k^2))`` with s images, c of them right, t_k
    of class k and d_k decided to be.

    Args:
        matrix: (..., K, K).

    Returns:
        "accuracy", "balanced_accuracy" and "mcc", each (...,); NaN where undefined.
    """
    matrix = np.asarray(matrix, np.float64)
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    truth, decided, images = matrix.sum(axis=-1), matrix.sum(axis=-2), matrix.sum(axis=(-2, -1))
    scale = np.sqrt(images**2 - (decided**2).sum(axis=-1)) * np.sqrt(images**2 - (truth**2).sum(axis=-1))
    return {
        "accuracy": _ratio(right.sum(axis=-1), images),
        "balanced_accuracy": macro(_ratio(right, truth)),
        "mcc": _ratio(right.sum(axis=-1) * images - (truth * decided).sum(axis=-1), scale),
    }


def why_undefined(name: str, tp: int, fp: int, fn: int, tn: int) -> str:
    """The reason in words for a metric of one label that came out NaN, from the label's confusion counts."""
    positives, negatives = tp + fn, fp + tn
    if positives + negatives == 0:
        return "no image has a known label"
    both = "_at_" in name or name in ("auroc", "balanced_accuracy", "mcc", *IDEAL)
    if (both or name in ("auprc", "recall")) and positives == 0:
        return "no positive image"
    if (both or name == "specificity") and negatives == 0:
        return "no negative image"
    if name == "calibration_slope":
        return "the probabilities do not vary, or separate the classes without error"
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
