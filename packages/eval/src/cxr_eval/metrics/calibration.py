"""Calibration of one label: whether probabilities agree with frequencies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special


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
    which = bin_numbers(probability, bins)
    count = np.bincount(which)
    filled = count > 0
    size = count[filled]
    return Reliability(
        predicted=np.bincount(which, probability)[filled] / size,
        observed=np.bincount(which, target)[filled] / size,
        count=size,
    )


def bin_numbers(probability: NDArray[np.float64], bins: int = 15) -> NDArray[np.int64]:
    """The bin of each probability: quantiles, equal ones together; (N,) -> (N,) in [0, bins), N > 0."""
    bins = max(1, min(bins, len(probability) // 10))
    edges = np.sort(probability)[(np.arange(1, bins) * len(probability)) // bins]
    return np.searchsorted(edges, probability, side="right")


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


@dataclass(frozen=True)
class BrierParts:
    """What a Brier score consists of: ``brier = reliability - resolution + uncertainty + within``.

    Attributes:
        reliability: Squared distance between predicted and observed frequency, >= 0; 0 is calibrated.
        resolution: How far the bins' frequencies lie from the prevalence, >= 0; larger is better.
        uncertainty: Prevalence times its complement: the score of always answering the prevalence.
        within: What varies inside the bins, variance less twice the covariance with the outcome.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float


def brier_parts(target: NDArray, probability: NDArray, bins: int = 15) -> BrierParts:
    """Decompose the Brier score over the bins of ``reliability`` (Murphy 1973).

    With n_b images, mean probability p_b and frequency o_b in bin b and prevalence o: ``reliability = sum_b n_b/N
    (p_b - o_b)^2``, ``resolution = sum_b n_b/N (o_b - o)^2``, ``uncertainty = o (1 - o)``. Probabilities that vary
    within a bin leave ``within = (1/N) sum_i (p_i - p_b)^2 - (2/N) sum_i (p_i - p_b)(t_i - o_b)`` (Stephenson,
    Coelho & Jolliffe 2008), with which the sum is exact.

    Args:
        target: (N,) in {0, 1, NaN}.
        probability: (N,) in [0, 1].
        bins: Number of bins at most.

    Returns:
        The parts; NaN without a known target.
    """
    known = ~np.isnan(target)
    target, probability = target[known].astype(np.float64), probability[known].astype(np.float64)
    curve = reliability(target, probability, bins)
    if len(curve.count) == 0:
        return BrierParts(np.nan, np.nan, np.nan, np.nan)
    share, prevalence = curve.count / curve.count.sum(), target.mean()
    of_bins = float(np.sum(share * (curve.predicted - curve.observed) ** 2))
    resolution = float(np.sum(share * (curve.observed - prevalence) ** 2))
    uncertainty = float(prevalence * (1 - prevalence))
    which = bin_numbers(probability, bins)
    count = np.maximum(np.bincount(which), 1)
    p, t = (values - (np.bincount(which, values) / count)[which] for values in (probability, target))
    return BrierParts(of_bins, resolution, uncertainty, float(np.mean(p**2) - 2 * np.mean(p * t)))


def recalibration(targets: NDArray, probabilities: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Calibration slope and intercept of every label (Cox 1958; Van Calster et al. 2019).

    The slope is b of the logistic regression ``logit P(t = 1) = a + b logit(p)``: below 1 the probabilities are too
    extreme, above 1 too timid. The intercept is a of ``logit P(t = 1) = a + logit(p)``: below 0 the probabilities
    are too high on the whole, above 0 too low. Probabilities are clipped to [1e-12, 1 - 1e-12].

    Args:
        targets: (N, L) in {0, 1, NaN}.
        probabilities: (N, L) in [0, 1].

    Returns:
        Slope (L,) and intercept (L,). NaN without both classes; the slope also where the probabilities do not
        vary, or separate the classes without error, so that no finite one fits best.
    """
    fits = [fit_recalibration(t, p) for t, p in zip(targets.T, probabilities.T, strict=True)]
    return np.array([fit.slope for fit in fits]), np.array([fit.intercept for fit in fits])


@dataclass(frozen=True)
class Recalibration:
    """The two logistic regressions behind ``recalibration``.

    Attributes:
        slope: b of the regression on logit(p).
        shift: a of the same regression.
        intercept: a of the regression with b = 1.
    """

    slope: float
    shift: float
    intercept: float


def fit_recalibration(target: NDArray, probability: NDArray) -> Recalibration:
    """Fit both regressions of one label by Newton's method; NaN where there is no finite fit.

    Args:
        target: (N,) in {0, 1, NaN}.
        probability: (N,) in [0, 1].
    """
    known = ~np.isnan(target)
    t, z = target[known].astype(np.float64), logit(probability[known])
    if not 0 < t.sum() < len(t):
        return Recalibration(np.nan, np.nan, np.nan)
    (intercept,) = _newton(np.ones((len(t), 1)), t, z)
    positive, negative = z[t == 1], z[t == 0]
    apart = positive.min() >= negative.max() or positive.max() <= negative.min()
    if apart or z.max() - z.min() < 1e-9:
        return Recalibration(np.nan, np.nan, intercept)
    # From the calibrated answer (slope 1), and centred, so that steep slopes stay well conditioned.
    centre = z.mean()
    shift, excess = _newton(np.stack([np.ones_like(z), z - centre], axis=1), t, z)
    return Recalibration(1 + excess, shift - excess * centre, intercept)


def logit(probability: NDArray) -> NDArray[np.float64]:
    """Log odds of probabilities clipped to [1e-12, 1 - 1e-12], so that certainty stays finite."""
    return special.logit(np.clip(np.asarray(probability, np.float64), 1e-12, 1 - 1e-12))


def _newton(x: NDArray, t: NDArray, offset: NDArray) -> list[float]:
    """Coefficients of the logistic regression of t on the columns of x with an offset; NaN if it diverges."""

    def loss(beta: NDArray) -> float:
        z = offset + x @ beta
        return float(np.sum(np.logaddexp(0, z) - t * z))

    beta = np.zeros(x.shape[1])
    for _ in range(100):
        q = special.expit(offset + x @ beta)
        curvature = (x * (q * (1 - q))[:, None]).T @ x
        try:
            step = np.linalg.solve(curvature, x.T @ (t - q))
        except np.linalg.LinAlgError:
            return [np.nan] * len(beta)
        if np.abs(step).max() > 0.1:
            # Far from the optimum a full step may overshoot; near it Newton's method is safe.
            before = loss(beta)
            while loss(beta + step) > before and np.abs(step).max() > 1e-8:
                step /= 2
        beta = beta + step
        if np.abs(step).max() < 1e-10 * (1 + np.abs(beta).max()):
            return [float(value) for value in beta]
    return [np.nan] * len(beta)
