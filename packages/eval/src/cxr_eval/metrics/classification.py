"""How well a classifier ranks and decides, vectorised over labels, with missing labels masked.

Arrays everywhere: ``targets`` (N, L) float in {0, 1, NaN}, NaN unknown; ``scores`` (N, L) float, larger is
more positive; ``decisions`` (N, L) bool. A metric that has no value (no positive, nothing called positive)
is NaN, never 0.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

OPERATING_LEVELS = (90, 95)
"""Percent of specificity (sensitivity) at which the sensitivity (specificity) is read off the ROC curve."""

COUNTS = ("tp", "fp", "fn", "tn")


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
    values = {
        f"{one}_at_{other}_{level}": np.full(labels, np.nan)
        for one, other in (("sensitivity", "specificity"), ("specificity", "sensitivity"))
        for level in OPERATING_LEVELS
    }
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
            values[f"sensitivity_at_specificity_{level}"][label] = tp[specific].max() / positives
            values[f"specificity_at_sensitivity_{level}"][label] = 1 - fp[sensitive].min() / negatives
    return values


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


def f1(tp: NDArray, fp: NDArray, fn: NDArray, tn: NDArray) -> Floats:
    """``2 TP / (2 TP + FP + FN)`` from (weighted) counts of one shape; NaN where it is 0 / 0, as in all below."""
    return ratio(2.0 * tp, 2.0 * tp + fp + fn)


def accuracy(tp: NDArray, fp: NDArray, fn: NDArray, tn: NDArray) -> Floats:
    """``(TP + TN) / all``."""
    return ratio(tp + tn, tp + fp + fn + tn)


def recall(tp: NDArray, fp: NDArray, fn: NDArray, tn: NDArray) -> Floats:
    """Sensitivity, ``TP / (TP + FN)``."""
    return ratio(tp, tp + fn)


def specificity(tp: NDArray, fp: NDArray, fn: NDArray, tn: NDArray) -> Floats:
    """``TN / (TN + FP)``."""
    return ratio(tn, tn + fp)


def balanced_accuracy(tp: NDArray, fp: NDArray, fn: NDArray, tn: NDArray) -> Floats:
    """Mean of sensitivity and specificity."""
    return (recall(tp, fp, fn, tn) + specificity(tp, fp, fn, tn)) / 2


def precision(tp: NDArray, fp: NDArray, fn: NDArray, tn: NDArray) -> Floats:
    """Positive predictive value, ``TP / (TP + FP)``."""
    return ratio(tp, tp + fp)


def npv(tp: NDArray, fp: NDArray, fn: NDArray, tn: NDArray) -> Floats:
    """Negative predictive value, ``TN / (TN + FN)``."""
    return ratio(tn, tn + fn)


def mcc(tp: NDArray, fp: NDArray, fn: NDArray, tn: NDArray) -> Floats:
    """``(TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN))`` (Matthews 1975); NaN, not 0, where a sum is 0."""
    tp, fp, fn, tn = (np.asarray(count, np.float64) for count in (tp, fp, fn, tn))
    # Roots first: the product of four counts overflows what float64 holds exactly.
    scale = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return ratio(tp * tn - fp * fn, scale)


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
    return ratio((np.nan_to_num(values, nan=0.0) * share).sum(axis=-1), share.sum(axis=-1))


def confusion_matrix(targets: NDArray, decisions: NDArray) -> NDArray[np.int64]:
    """Images by true class (rows) and decided class (columns); unknown images are left out.

    Args:
        targets: (N, K) one-hot or NaN rows.
        decisions: (N, K) one-hot bool.

    Returns:
        (K, K) int64.
    """
    return (targets == 1).astype(np.int64).T @ decisions.astype(np.int64)


def classes_accuracy(matrix: NDArray) -> Floats:
    """Share of images whose decided class is the true one; (..., K, K) confusion matrices, rows the truth -> (...,)."""
    matrix = np.asarray(matrix, np.float64)
    return ratio(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum(axis=(-2, -1)))


def classes_balanced_accuracy(matrix: NDArray) -> Floats:
    """Mean recall of the classes that occur; (..., K, K) -> (...,)."""
    matrix = np.asarray(matrix, np.float64)
    return macro(ratio(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1)))


def classes_mcc(matrix: NDArray) -> Floats:
    """The multi-class coefficient R_K (Gorodkin 2004); (..., K, K) -> (...,), NaN where undefined.

    ``(c s - sum_k t_k d_k) / sqrt((s^2 - sum_k d_k^2)(s^2 - sum_k t_k^2))`` with s images, c of them right, t_k of
    class k and d_k decided to be.
    """
    matrix = np.asarray(matrix, np.float64)
    right = np.trace(matrix, axis1=-2, axis2=-1)
    truth, decided, images = matrix.sum(axis=-1), matrix.sum(axis=-2), matrix.sum(axis=(-2, -1))
    scale = np.sqrt(images**2 - (decided**2).sum(axis=-1)) * np.sqrt(images**2 - (truth**2).sum(axis=-1))
    return ratio(right * images - (truth * decided).sum(axis=-1), scale)


def ratio(numerator: NDArray | float, denominator: NDArray | float) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)
