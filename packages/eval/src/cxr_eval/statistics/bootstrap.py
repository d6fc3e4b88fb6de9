"""Patient-clustered bootstrap of every metric, with all resamples computed at once.

Images of one patient resemble each other, so patients are drawn, not images (Field & Welsh 2007). A
resample is a vector of weights: how often each patient was drawn. Scores are sorted once; a resample only
changes the weights, and a weighted AUROC is a weighted Mann-Whitney statistic. Weights are small integers,
so float32 sums of them are exact (up to 2**24 images) and tied scores count exactly one half.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_eval.metrics.calibration import squared_error
from cxr_eval.metrics.classification import DECISION, RANKING, from_counts, macro, weighted

Floats = NDArray[np.float64]
BLOCK = 32
"""Resamples computed at a time: wide enough for vector instructions, small enough for the cache."""

RESAMPLED = (*RANKING, *DECISION, "brier")
"""Metrics with an interval. ECE has none: a sum of absolute errors is biased upwards in every resample."""

Weights = NDArray[np.float32]


def patient_numbers(patients: NDArray) -> NDArray[np.int64]:
    """Number the patients 0..P-1; (N,) names -> (N,) int64."""
    return np.unique(patients, return_inverse=True)[1].astype(np.int64)


def draw_weights(patients: int, resamples: int, seed: int) -> Weights:
    """How often each patient is drawn in each resample (multinomial: P draws with replacement).

    Args:
        patients: Number of patients P.
        resamples: Number of resamples R.
        seed: Seed of the draw; the same seed gives every model the same resamples.

    Returns:
        (P, R) float32 of small integers; every column sums to P.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((patients, resamples), np.float32)
    for start in range(0, resamples, 64):
        rows = min(64, resamples - start)
        drawn = rng.integers(0, patients, (rows, patients))
        drawn += np.arange(rows)[:, None] * patients
        weights[:, start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * patients).reshape(rows, -1).T
    return weights


def resample(
    targets: NDArray, scores: NDArray, decisions: NDArray, patient: NDArray[np.int64], weights: Weights
) -> dict[str, Floats]:
    """Every metric of every label in every resample.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L) probabilities.
        decisions: (N, L) bool.
        patient: (N,) patient number of each image, in [0, P).
        weights: (P, R) from ``draw_weights``.

    Returns:
        The names of ``RESAMPLED`` and "positives" (the weighted number of positives), each (R, L) float64;
        NaN where the metric is undefined in that resample.
    """
    labels = targets.shape[1]
    auroc, auprc = ranking(targets, scores, patient, weights)
    known, positive, called = ~np.isnan(targets), targets == 1, decisions.astype(bool)
    parts = [
        positive & called,
        known & ~positive & called,
        positive & ~called,
        known & ~positive & ~called,
        squared_error(targets, scores),
    ]
    sums = weighted_sums(np.concatenate(parts, axis=1), patient, weights)
    tp, fp, fn, tn, squared = (sums[:, k * labels : (k + 1) * labels] for k in range(5))
    count = tp + fp + fn + tn
    return {
        "auroc": auroc,
        "auprc": auprc,
        **from_counts(tp, fp, fn, tn),
        "brier": np.where(count > 0, squared / np.maximum(count, 1), np.nan),
        "positives": tp + fn,
    }


def weighted_sums(values: NDArray, patient: NDArray[np.int64], weights: Weights) -> Floats:
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


def ranking(targets: NDArray, scores: NDArray, patient: NDArray[np.int64], weights: Weights) -> tuple[Floats, Floats]:
    """Weighted AUROC and average precision, exact with ties.

    With the positives grouped by distinct score (group g, weight p_g), ``b_g`` the weight of the negatives
    below it and ``t_g`` of those tied with it: ``AUROC = sum_g p_g (b_g + t_g / 2) / (P N)`` and
    ``AP = sum_g (p_g / P) TP_g / (TP_g + FP_g)`` where TP_g and FP_g count everything at or above the
    group. Only sums of weights between neighbouring groups are needed, which is what an embedding bag
    computes.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L).
        patient: (N,) patient number of each image, in [0, P).
        weights: (P, R).

    Returns:
        AUROC (R, L), NaN for a resample without positives or negatives, and average precision (R, L), NaN
        without positives.
    """
    resamples, labels = weights.shape[1], targets.shape[1]
    plans = [_plan(targets[:, label], scores[:, label], patient) for label in range(labels)]
    auroc, auprc = np.empty((resamples, labels)), np.empty((resamples, labels))
    with _one_thread():
        for start in range(0, resamples, BLOCK):
            part = slice(start, start + BLOCK)
            block = torch.from_numpy(np.ascontiguousarray(weights[:, part]))
            for label, plan in enumerate(plans):
                auroc[part, label], auprc[part, label] = _ranking_block(plan, block)
    return auroc, auprc


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: the pieces are so small that threads cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Plan:
    """One label, sorted: which patients' weights to add up, and where each sum begins and ends."""

    positives: torch.Tensor
    positive_groups: torch.Tensor
    negatives: torch.Tensor
    negative_groups: torch.Tensor


def _plan(target: NDArray, score: NDArray, patient: NDArray[np.int64]) -> _Plan:
    order = np.argsort(score, kind="stable")
    positive, negative = order[target[order] == 1], order[target[order] == 0]
    groups, sizes = np.unique(score[positive], return_counts=True)
    # Negatives alternate: below the first group, tied with it, between it and the next, ...
    low = np.searchsorted(score[negative], groups, "left")
    high = np.searchsorted(score[negative], groups, "right")
    bounds = np.concatenate(([0], np.stack([low, high], axis=1).ravel(), [len(negative)]))
    return _Plan(
        positives=torch.from_numpy(patient[positive]),
        positive_groups=torch.from_numpy(np.concatenate(([0], np.cumsum(sizes)))),
        negatives=torch.from_numpy(patient[negative]),
        negative_groups=torch.from_numpy(bounds),
    )


def _ranking_block(plan: _Plan, weights: torch.Tensor) -> tuple[Floats, Floats]:
    bag = torch.nn.functional.embedding_bag
    columns = weights.shape[1]
    undefined = np.full(columns, np.nan)
    if len(plan.positives) == 0:
        return undefined, undefined
    p = bag(plan.positives, weights, plan.positive_groups, mode="sum", include_last_offset=True)
    positives = p.sum(dim=0)
    if len(plan.negatives) == 0:
        return undefined, np.where(positives.numpy() > 0, 1.0, np.nan)
    segments = bag(plan.negatives, weights, plan.negative_groups, mode="sum", include_last_offset=True)
    upto = segments.cumsum(dim=0)
    negatives, below, tied = upto[-1], upto[0:-1:2], segments[1::2]
    wins = torch.add(below, tied, alpha=0.5).mul_(p).sum(dim=0, dtype=torch.float64)
    true_positives = positives + p - p.cumsum(dim=0)
    called = true_positives + negatives - below
    # A group drawn by nobody adds nothing, also where nothing is called at all (0 / 0).
    steps = true_positives.div_(called.clamp_(min=1)).mul_(p).sum(dim=0, dtype=torch.float64)
    return (wins / (positives.double() * negatives)).numpy(), (steps / positives).numpy()


def averages(values: dict[str, Floats]) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Macro and weighted averages over the labels of what ``resample`` gave, each name -> (R,).

    As for the point estimate, labels undefined in a resample are left out of that resample's average.
    """
    return (
        {name: macro(values[name]) for name in RESAMPLED},
        {name: weighted(values[name], values["positives"]) for name in RESAMPLED},
    )


def interval(values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile interval over the resamples in which the metric is defined.

    Args:
        values: (R, ...) one value a resample, NaN where undefined.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper bounds, each (...); NaN where fewer than half of the resamples are defined.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    flat = values.reshape(len(values), -1)
    bounds = np.full((2, flat.shape[1]), np.nan)
    for column in range(flat.shape[1]):
        defined = flat[~np.isnan(flat[:, column]), column]
        if len(defined) * 2 >= len(flat) and len(defined):
            bounds[:, column] = np.quantile(defined, tails)
    return bounds[0].reshape(values.shape[1:]), bounds[1].reshape(values.shape[1:])


@dataclass(frozen=True)
class Difference:
    """A paired difference between two models on the same resamples.

    Attributes:
        low: Lower bound of the interval of (this - reference).
        high: Upper bound.
        p: Two-sided bootstrap p value of "no difference", in (0, 1].
    """

    low: float
    high: float
    p: float


def paired_difference(values: Floats, reference: Floats, level: float = 0.95) -> Difference:
    """Interval and p value of a difference between two models drawn on the same resamples.

    ``p = min(1, 2 (1 + min(#{d <= 0}, #{d >= 0})) / (R + 1))``: the add-one form never claims p = 0
    (Davison & Hinkley 1997, eq. 4.11).

    Args:
        values: (R,) the metric of one model.
        reference: (R,) the metric of the other on the same resamples.
        level: Coverage of the interval.

    Returns:
        The difference; NaN everywhere when fewer than half of the resamples are defined for both.
    """
    d = values - reference
    low, high = interval(d, level)
    if np.isnan(low):
        return Difference(np.nan, np.nan, np.nan)
    d = d[~np.isnan(d)]
    tail = min(int(np.sum(d <= 0)), int(np.sum(d >= 0)))
    return Difference(float(low), float(high), min(1.0, 2 * (1 + tail) / (len(d) + 1)))
