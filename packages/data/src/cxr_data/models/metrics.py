"""AUROC as training and evaluation share it, and the ranks it is computed from."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auroc(targets: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """Area under the ROC curve of every label, exact with ties (Mann-Whitney U / (P N)).

    Args:
        targets: (N, L) in {0, 1, NaN}; rows that are NaN for a label do not count for it.
        scores: (N, L), higher means more likely positive.

    Returns:
        (L,) values in [0, 1]; NaN where a label lacks positives or negatives, or where a score is NaN.
    """
    target, score = np.asarray(targets, np.float64), np.asarray(scores, np.float64)
    if target.shape != score.shape or target.ndim != 2:
        raise ValueError(f"targets and scores must share one shape (N, L), got {target.shape} and {score.shape}")
    areas = np.full(target.shape[1], np.nan)
    for label in range(target.shape[1]):
        known = ~np.isnan(target[:, label])
        positive, values = target[known, label] > 0.5, score[known, label]
        n_positive = int(positive.sum())
        n_negative = len(positive) - n_positive
        if n_positive and n_negative and not np.isnan(values).any():
            u = midranks(values)[positive].sum() - n_positive * (n_positive + 1) / 2
            areas[label] = u / (n_positive * n_negative)
    return areas


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, ties sharing their mean rank; (N,) -> (N,)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def placements(target: NDArray, scores: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of the other class that each image is ranked rightly against; ties count one half.

    Args:
        target: (N,) in {0, 1}, no NaN; P positives, Q negatives.
        scores: (M, N) of M models.

    Returns:
        (M, P) for the positives and (M, Q) for the negatives; the mean of either over a row is the AUROC.
    """
    positive, negative = scores[:, target == 1], scores[:, target == 0]
    of_positives, of_negatives = np.empty(positive.shape), np.empty(negative.shape)
    for model in range(len(scores)):
        p, q = np.sort(positive[model]), np.sort(negative[model])
        of_positives[model] = _below(q, positive[model]) / len(q)
        of_negatives[model] = 1 - _below(p, negative[model]) / len(p)
    return of_positives, of_negatives


def macro(values: ArrayLike) -> float:
    """Mean over the defined (not NaN) values; NaN when none is."""
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if len(defined) else float("nan")


def _below(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many of ``ordered`` lie below each value, ties counting one half."""
    low, high = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray((low + high) / 2, np.float64)
