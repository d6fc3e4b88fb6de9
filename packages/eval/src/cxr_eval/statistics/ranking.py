"""Ranking metrics of every resample at once, exact with ties.

Scores are sorted once; a resample only changes the weights, and a weighted AUROC is a weighted
Mann-Whitney statistic. Weights are small integers, so float32 sums of them are exact (up to 2**24 images);
what is not a sum of weights is computed in float64.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from cxr_eval.metrics.classification import OPERATING_LEVELS, ratio

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]

BLOCK = 32
"""Resamples computed at a time: wide enough for vector instructions, small enough for the cache."""

NAMES = (
    "auroc",
    "auprc",
    *(f"sensitivity_at_specificity_{level}" for level in OPERATING_LEVELS),
    *(f"specificity_at_sensitivity_{level}" for level in OPERATING_LEVELS),
)


def ranking(
    targets: NDArray,
    scores: NDArray,
    patient: NDArray[np.int64],
    weights: Weights,
    names: Sequence[str] = NAMES,
) -> dict[str, Floats]:
    """AUROC, average precision, and points of the ROC curve, of every label in every resample.

    With the positives grouped by distinct score (group g, weight p_g), ``b_g`` the weight of the negatives
    below it, ``t_g`` of those tied with it, P and N the weights of all positives and negatives, and ``TP_g``
    and ``FP_g = N - b_g`` what is called when the group's score is the threshold:

    - ``AUROC = sum_g p_g (b_g + t_g / 2) / (P N)``
    - ``AP = sum_g (p_g / P) TP_g / (TP_g + FP_g)``
    - sensitivity at specificity s: ``TP_g / P`` of the first group with ``b_g >= s N``, else 0
    - specificity at sensitivity s: ``b_g / N`` of the last group with ``TP_g >= s P``

    Only sums of weights between neighbouring groups are needed: a sparse matrix of images by group times the weights.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L), larger is more positive.
        patient: (N,) patient number of each image, in [0, P).
        weights: (P, R) how often each patient is drawn.
        names: Which of ``NAMES`` are wanted.

    Returns:
        Name -> (R, L) float64. NaN in a resample without positives, or (but for the average precision)
        without negatives.
    """
    resamples, labels = weights.shape[1], targets.shape[1]
    plans = [_plan(targets[:, label], scores[:, label], patient, len(weights)) for label in range(labels)]
    figures = {name: np.empty((resamples, labels)) for name in names}

    def fill(start: int) -> None:
        part = slice(start, start + BLOCK)
        block = np.ascontiguousarray(weights[:, part])
        for label, plan in enumerate(plans):
            for name, values in _block(plan, block, names).items():
                figures[name][part, label] = values

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, resamples, BLOCK)))
    return figures


@dataclass(frozen=True)
class _Plan:
    """One label, sorted: how many images each patient has in each group.

    Attributes:
        positives: (G, P) positives by group of equal score, ascending.
        negatives: (G + 1, P) negatives below the first group, between the groups and above the last; with ties
            (2 G + 1, P), those tied with each group standing between.
        ties: Whether a negative is tied with a positive.
    """

    positives: scipy.sparse.csr_array
    negatives: scipy.sparse.csr_array
    ties: bool


def _plan(target: NDArray, score: NDArray, patient: NDArray[np.int64], patients: int) -> _Plan:
    order = np.argsort(score, kind="stable")
    positive, negative = order[target[order] == 1], order[target[order] == 0]
    groups, sizes = np.unique(score[positive], return_counts=True)
    low = np.searchsorted(score[negative], groups, "left")
    high = np.searchsorted(score[negative], groups, "right")
    ties = bool(np.any(low < high))
    inner = np.stack([low, high], axis=1).ravel() if ties else low

    def matrix(images: NDArray, bounds: NDArray) -> scipy.sparse.csr_array:
        ones = np.ones(len(images), np.float32)
        return scipy.sparse.csr_array((ones, patient[images], bounds), shape=(len(bounds) - 1, patients))

    return _Plan(
        matrix(positive, np.concatenate(([0], np.cumsum(sizes)))),
        matrix(negative, np.concatenate(([0], inner, [len(negative)]))),
        ties,
    )


def _block(plan: _Plan, weights: Weights, names: Sequence[str]) -> dict[str, Floats]:
    """The metrics of one label in some of the resamples, (P, C) weights -> (C,) each."""
    undefined = np.full(weights.shape[1], np.nan)
    if plan.positives.nnz == 0:
        return dict.fromkeys(names, undefined)
    p = plan.positives @ weights
    positives = p.sum(axis=0, dtype=np.float64)
    if plan.negatives.nnz == 0:
        alone = np.where(positives > 0, 1.0, np.nan)
        return {name: alone if name == "auprc" else undefined for name in names}
    segments = plan.negatives @ weights
    between, tied = (segments[0::2], segments[1::2]) if plan.ties else (segments, None)
    negatives = segments.sum(axis=0, dtype=np.float64)
    before = np.cumsum(p, axis=0) - p
    called = positives.astype(np.float32) - before
    figures: dict[str, Floats] = {}
    if "auroc" in names:
        # Counted from the negatives: those between two groups lose to all groups above. The factors are whole or
        # half numbers, exact in float32; their products need float64.
        wins = np.einsum("gc,gc->c", between[:-1], called, dtype=np.float64)
        if tied is not None:
            wins += np.einsum("gc,gc->c", tied, called - 0.5 * p, dtype=np.float64)
        figures["auroc"] = ratio(wins, positives * negatives)
    if len(names) > len(figures):
        below = np.cumsum(between[:-1], axis=0)
        if tied is not None:
            below += np.cumsum(tied, axis=0) - tied
        if "auprc" in names:
            # A group drawn by nobody adds nothing, also where nothing is called at all (0 / 0).
            shares = called / np.maximum(called + (negatives.astype(np.float32) - below), 1).astype(np.float64)
            figures["auprc"] = ratio(np.einsum("gc,gc->c", shares, p), positives)
        if len(names) > len(figures):
            figures |= _levels(before.T, below.T, positives, negatives)
    return {name: figures[name] for name in names}


def _levels(before: NDArray, below: NDArray, positives: Floats, negatives: Floats) -> dict[str, Floats]:
    """Points of the ROC curve from the positives (``before``) and negatives (``below``) below each group, (C, G)."""
    both = (positives > 0) & (negatives > 0)
    figures = {}
    for level in OPERATING_LEVELS:
        # Whole numbers: rounding must not turn 90 of 100 into 91.
        specific, sensitive = (np.ceil(n * (level / 100) - 1e-6) for n in (negatives, positives))
        first = np.sum(below < specific[:, None], axis=1)
        missed = np.take_along_axis(np.concatenate([before, positives[:, None]], axis=1), first[:, None], 1)[:, 0]
        last = np.sum(before <= (positives - sensitive)[:, None], axis=1) - 1
        spared = np.take_along_axis(below, np.maximum(last, 0)[:, None], 1)[:, 0]
        figures[f"sensitivity_at_specificity_{level}"] = np.where(both, ratio(positives - missed, positives), np.nan)
        figures[f"specificity_at_sensitivity_{level}"] = np.where(both, ratio(spared, negatives), np.nan)
    return figures
