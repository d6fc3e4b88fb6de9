"""Ranking metrics of every resample at once, exact with ties.

Scores are sorted once; a resample only changes the weights, and a weighted AUROC is a weighted
Mann-Whitney statistic. Weights are small integers, so float32 sums of them are exact (up to 2**24 images);
what is not a sum of weights is computed in float64.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_eval.metrics.classification import OPERATING_LEVELS

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

    Only sums of weights between neighbouring groups are needed, which is what an embedding bag computes.

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
    plans = [_plan(targets[:, label], scores[:, label], patient) for label in range(labels)]
    found = {name: np.empty((resamples, labels)) for name in names}

    def fill(start: int) -> None:
        part = slice(start, start + BLOCK)
        block = torch.from_numpy(np.ascontiguousarray(weights[:, part]))
        for label, plan in enumerate(plans):
            for name, values in _block(plan, block, names).items():
                found[name][part, label] = values

    with _one_thread() as workers, ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, range(0, resamples, BLOCK)))
    return found


@contextmanager
def _one_thread() -> Iterator[int]:
    """Keep torch to one thread: the pieces are so small that blocks side by side bring more. Yields how many."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield max(1, min(before, os.cpu_count() or 1))
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Plan:
    """One label, sorted: which patients' weights to add up, and where each sum begins and ends."""

    positives: torch.Tensor
    positive_groups: torch.Tensor
    negatives: torch.Tensor
    negative_groups: torch.Tensor
    ties: bool


def _plan(target: NDArray, score: NDArray, patient: NDArray[np.int64]) -> _Plan:
    order = np.argsort(score, kind="stable")
    positive, negative = order[target[order] == 1], order[target[order] == 0]
    groups, sizes = np.unique(score[positive], return_counts=True)
    low = np.searchsorted(score[negative], groups, "left")
    high = np.searchsorted(score[negative], groups, "right")
    ties = bool(np.any(low < high))
    # With ties the negatives alternate: below the first group, tied with it, between it and the next, ...
    inner = np.stack([low, high], axis=1).ravel() if ties else low
    return _Plan(
        positives=torch.from_numpy(patient[positive]),
        positive_groups=torch.from_numpy(np.concatenate(([0], np.cumsum(sizes)))),
        negatives=torch.from_numpy(patient[negative]),
        negative_groups=torch.from_numpy(np.concatenate(([0], inner, [len(negative)]))),
        ties=ties,
    )


def _block(plan: _Plan, weights: torch.Tensor, names: Sequence[str]) -> dict[str, Floats]:
    columns = weights.shape[1]
    undefined = np.full(columns, np.nan)
    if len(plan.positives) == 0:
        return dict.fromkeys(names, undefined)
    p = _sums(weights, plan.positives, plan.positive_groups)
    positives = p.sum(dim=0)
    if len(plan.negatives) == 0:
        alone = np.where(positives.numpy() > 0, 1.0, np.nan)
        return {name: alone if name == "auprc" else undefined for name in names}
    segments = _sums(weights, plan.negatives, plan.negative_groups)
    between, tied = (segments[0::2], segments[1::2]) if plan.ties else (segments, None)
    negatives = segments.sum(dim=0)
    before = p.cumsum(dim=0) - p
    called = positives - before
    found: dict[str, Floats] = {}
    if "auroc" in names:
        # Counted from the negatives: those between two groups lose to all groups above. The factors are whole or
        # half numbers, exact in float32; their products need float64.
        wins = (between[:-1].double() * called).sum(dim=0)
        if tied is not None:
            wins += (tied.double() * torch.sub(called, p, alpha=0.5)).sum(dim=0)
        found["auroc"] = (wins / (positives.double() * negatives)).numpy()
    if len(names) > len(found):
        below = between[:-1].cumsum(dim=0)
        if tied is not None:
            below += tied.cumsum(dim=0) - tied
        if "auprc" in names:
            # A group drawn by nobody adds nothing, also where nothing is called at all (0 / 0).
            precision = called.double() / (called + negatives - below).clamp_(min=1)
            found["auprc"] = (precision.mul_(p).sum(dim=0) / positives).numpy()
        if len(names) > len(found):
            found |= _levels(before.T.contiguous(), below.T.contiguous(), positives, negatives)
    return {name: found[name] for name in names}


def _sums(weights: torch.Tensor, rows: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """Sums of neighbouring rows: (P, C) weights -> (G, C), exact."""
    return torch.nn.functional.embedding_bag(rows, weights, bounds, mode="sum", include_last_offset=True)


def _levels(
    before: torch.Tensor, below: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor
) -> dict[str, Floats]:
    """Points of the ROC curve from the positives (``before``) and negatives (``below``) below each group, (C, G)."""
    levels = torch.tensor(OPERATING_LEVELS, dtype=torch.float64) / 100
    # Whole numbers: rounding must not turn 90 of 100 into 91.
    specific = torch.ceil(negatives.double()[:, None] * levels - 1e-6).float()
    first = torch.searchsorted(below, specific)
    missed = torch.cat([before, positives[:, None]], dim=1).gather(1, first)
    sensitive = torch.ceil(positives.double()[:, None] * levels - 1e-6).float()
    last = torch.searchsorted(before, positives[:, None] - sensitive, right=True) - 1
    spared = below.gather(1, last.clamp_(min=0))
    both = ((positives > 0) & (negatives > 0))[:, None]
    sensitivity = torch.where(both, (positives[:, None] - missed).double() / positives[:, None], torch.nan).numpy()
    specificity = torch.where(both, spared.double() / negatives[:, None], torch.nan).numpy()
    return {
        **{f"sensitivity_at_specificity_{level}": sensitivity[:, i] for i, level in enumerate(OPERATING_LEVELS)},
        **{f"specificity_at_sensitivity_{level}": specificity[:, i] for i, level in enumerate(OPERATING_LEVELS)},
    }
