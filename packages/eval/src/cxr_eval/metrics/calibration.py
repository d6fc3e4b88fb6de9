"""Whether a probability means what it says."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Reliability:
    """A reliability curve: how often the finding was there among images given about the same probability.

    Attributes:
        predicted: (B,) mean probability of each bin, ascending.
        observed: (B,) share of positives of each bin.
        count: (B,) images of each bin.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]


def reliability(target: NDArray, probability: NDArray, bins: int = 15) -> Reliability:
    """Reliability curve with bins of equal mass.

    Bin edges are quantiles of the probabilities, so that every bin holds about as many images (equal-width
    bins leave most of a rare finding in one bin; Nixon et al. 2019, "Measuring calibration in deep
    learning"). Equal probabilities always share a bin, so ties never depend on the order of the rows;
    empty bins are dropped.

    Args:
        target: (N,) in {0, 1, NaN}.
        probability: (N,) in [0, 1].
        bins: Number of bins at most; never fewer than about 10 images a bin are used.

    Returns:
        The curve; empty arrays when no target is known.
    """
    known = ~np.isnan(target)
    target, probability = target[known].astype(np.float64), probability[known].astype(np.float64)
    if len(target) == 0:
        return Reliability(np.empty(0), np.empty(0), np.empty(0, np.int64))
    bins = max(1, min(bins, len(target) // 10))
    ordered = np.sort(probability)
    edges = ordered[(np.arange(1, bins) * len(ordered)) // bins]
    which = np.searchsorted(edges, probability, side="right")
    count = np.bincount(which, minlength=bins)
    filled = count > 0
    size = count[filled]
    return Reliability(
        predicted=np.bincount(which, probability, minlength=bins)[filled] / size,
        observed=np.bincount(which, target, minlength=bins)[filled] / size,
        count=size,
    )


def expected_calibration_error(targets: NDArray, probabilities: NDArray, bins: int = 15) -> NDArray[np.float64]:
    """Mean distance between probability and frequency, ``ECE = sum_b n_b/N |predicted_b - observed_b|``.

    Bins of equal mass, as in ``reliability``.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        probabilities: (N, L) in [0, 1].
        bins: Number of bins at most.

    Returns:
        (L,) in [0, 1]; NaN for a label without a known target.
    """
    result = np.full(targets.shape[1], np.nan)
    for label in range(targets.shape[1]):
        curve = reliability(targets[:, label], probabilities[:, label], bins)
        if len(curve.count):
            gap = np.abs(curve.predicted - curve.observed)
            result[label] = np.sum(curve.count * gap) / np.sum(curve.count)
    return result


def brier(targets: NDArray, probabilities: NDArray) -> NDArray[np.float64]:
    """Mean squared difference between probability and outcome (Brier 1950).

    Args:
        targets: (N, L) in {0, 1, NaN}.
        probabilities: (N, L) in [0, 1].

    Returns:
        (L,) in [0, 1]; NaN for a label without a known target.
    """
    count = (~np.isnan(targets)).sum(axis=0)
    total = squared_error(targets, probabilities).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def squared_error(targets: NDArray, probabilities: NDArray) -> NDArray[np.float64]:
    """(probability - target) squared, 0 where the target is unknown; (N, L) float64."""
    difference = np.nan_to_num(targets).astype(np.float64) - probabilities
    return np.where(np.isnan(targets), 0.0, difference**2)
