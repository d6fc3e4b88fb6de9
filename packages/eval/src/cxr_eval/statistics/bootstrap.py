"""Patient-clustered bootstrap of every metric, with all resamples computed at once.

Images of one patient resemble each other, so patients are drawn, not images (Field & Welsh 2007), and drawn twice.
For metrics that do not depend on the prevalence they are drawn within strata of patients who share their rarest
finding, so that every resample holds about as many patients with each finding as the data do and a rare finding
never vanishes. That fixes the prevalence, which is a chance of the data as much as anything else: metrics that
depend on it would get intervals far too narrow, so they meet a second draw from all patients alike. A resample is a
vector of weights: how often each patient was drawn. Every model and subgroup meets the same resamples, which makes
their differences paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_eval.metrics.classification import METRICS, PREVALENCE_DEPENDENT, RANKING, from_counts
from cxr_eval.statistics import calibration
from cxr_eval.statistics.ranking import Floats, Weights, ranking

LEAST_OF_STRATUM = 5
"""Patients of the smallest stratum: of fewer, a bootstrap would think them too much alike."""


def patient_numbers(patients: NDArray) -> NDArray[np.int64]:
    """Number the patients 0..P-1; (N,) names -> (N,) int64."""
    return np.unique(patients, return_inverse=True)[1].astype(np.int64)


def strata(targets: NDArray, patient: NDArray[np.int64]) -> NDArray[np.int64]:
    """The stratum each patient is drawn from: its rarest finding, or none.

    A finding's patients are those with any image positive for it; findings with fewer than ``LEAST_OF_STRATUM``
    patients make no stratum, and strata that rarer findings have left with fewer join the patients without.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        patient: (N,) patient number of each image, in [0, P), all of them used.

    Returns:
        (P,) number of the stratum: 0 without a finding, else 1 + column of the finding.
    """
    patients = int(patient.max()) + 1
    has = np.stack([np.bincount(patient, column == 1, minlength=patients) > 0 for column in targets.T], axis=1)
    found = np.zeros(patients, np.int64)
    common = has.sum(axis=0)
    for label in np.argsort(-common, kind="stable"):
        if common[label] >= LEAST_OF_STRATUM:
            found[has[:, label]] = label + 1
    sizes = np.bincount(found, minlength=targets.shape[1] + 1)
    found[sizes[found] < LEAST_OF_STRATUM] = 0
    if 0 < np.sum(found == 0) < LEAST_OF_STRATUM and sizes.max() >= LEAST_OF_STRATUM:
        found[found == 0] = np.argmax(sizes)
    return found


@dataclass(frozen=True)
class Draws:
    """Two draws of the same patients; a metric takes its resamples from exactly one of them.

    Attributes:
        stratified: (P, R) how often each patient is drawn in each resample, within strata.
        plain: (P, R) the same from all patients alike, for ``PREVALENCE_DEPENDENT`` metrics and for averages that
            weigh labels by their positives.
    """

    stratified: Weights
    plain: Weights

    def of(self, patients: NDArray[np.int64]) -> "Draws":
        """The same resamples of some patients alone."""
        return Draws(self.stratified[patients], self.plain[patients])


def draw(targets: NDArray, patient: NDArray[np.int64], resamples: int, seed: int) -> Draws:
    """Draw the patients within the strata of ``strata`` and without any.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        patient: (N,) patient number of each image, in [0, P), all of them used.
        resamples: Number of resamples R.
        seed: Seed of both draws, which are independent of each other.

    Returns:
        The draws.
    """
    stratum = strata(targets, patient)
    return Draws(draw_weights(stratum, resamples, seed), draw_weights(np.zeros_like(stratum), resamples, (seed, 1)))


def draw_weights(stratum: NDArray[np.int64], resamples: int, seed: int | Sequence[int]) -> Weights:
    """How often each patient is drawn in each resample (from each stratum as many as it has, with replacement).

    Args:
        stratum: (P,) stratum of each patient; all zero for a bootstrap without strata.
        resamples: Number of resamples R.
        seed: Seed of the draw; the same seed gives every model the same resamples.

    Returns:
        (P, R) float32 of small integers; every column sums to the stratum's size over every stratum.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(stratum == number) for number in np.unique(stratum)]
    weights = np.empty((len(stratum), resamples), np.float32)
    for start in range(0, resamples, 64):
        rows = min(64, resamples - start)
        for patients in members:
            drawn = rng.integers(0, len(patients), (rows, len(patients)))
            drawn += np.arange(rows)[:, None] * len(patients)
            counts = np.bincount(drawn.ravel(), minlength=rows * len(patients)).reshape(rows, -1)
            weights[patients, start : start + rows] = counts.T
    return weights


def resample_each(
    targets: NDArray,
    scores: NDArray,
    decisions: NDArray,
    patient: NDArray[np.int64],
    draws: Draws,
    names: Sequence[str] = METRICS,
) -> dict[str, Floats]:
    """Metrics of every label, each in the resamples of the draw that suits it.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L) probabilities.
        decisions: (N, L) bool.
        patient: (N,) patient number of each image, in [0, P).
        draws: Both draws.
        names: Which of ``METRICS`` are wanted.

    Returns:
        Each name (R, L) float64, as from ``resample``.
    """
    found: dict[str, Floats] = {}
    for weights, dependent in ((draws.stratified, False), (draws.plain, True)):
        wanted = [name for name in names if (name in PREVALENCE_DEPENDENT) == dependent]
        found |= resample(targets, scores, decisions, patient, weights, wanted)
    return {name: found[name] for name in names}


def resample(
    targets: NDArray,
    scores: NDArray,
    decisions: NDArray,
    patient: NDArray[np.int64],
    weights: Weights,
    names: Sequence[str] = METRICS,
) -> dict[str, Floats]:
    """Metrics of every label in every resample.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L) probabilities.
        decisions: (N, L) bool.
        patient: (N,) patient number of each image, in [0, P).
        weights: (P, R) from ``draw_weights``.
        names: Which of ``METRICS`` are wanted.

    Returns:
        The names and "positives" (the weighted number of positives), each (R, L) float64; NaN where the
        metric is undefined in that resample. The ECE keeps the bins of the whole data, and slope and
        intercept of the calibration are one-step estimates (see ``statistics.calibration``).
    """
    labels = targets.shape[1]
    known, positive, called = ~np.isnan(targets), targets == 1, decisions.astype(bool)
    parts = [positive & called, known & ~positive & called, positive & ~called, known & ~positive & ~called]
    sums = weighted_sums(np.concatenate(parts, axis=1), patient, weights)
    tp, fp, fn, tn = (sums[:, k * labels : (k + 1) * labels] for k in range(4))
    found = {"positives": tp + fn}
    found |= {name: values for name, values in from_counts(tp, fp, fn, tn).items() if name in names}
    if ranks := [name for name in RANKING if name in names]:
        found |= ranking(targets, scores, patient, weights, ranks)
    if asked := [name for name in calibration.NAMES if name in names]:
        found |= calibration.resample(targets, scores, patient, weights, asked)
    return found


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


def concerned(targets: NDArray, decisions: NDArray, patient: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Patients with an image in the denominator of each proportion of images.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        decisions: (N, L) bool.
        patient: (N,) patient number of each image.

    Returns:
        "accuracy", "precision", "recall", "specificity" and "npv", each (L,).
    """
    known, called = ~np.isnan(targets), decisions.astype(bool)
    images = {
        "accuracy": known,
        "precision": known & called,
        "recall": targets == 1,
        "specificity": targets == 0,
        "npv": known & ~called,
    }
    return {
        name: np.array([np.count_nonzero(np.bincount(patient[column])) for column in used.T])
        for name, used in images.items()
    }


def constant(values: Floats) -> bool:
    """Whether all resamples (R,) in which a figure is defined agree, so that they say nothing of its spread."""
    defined = values[~np.isnan(values)]
    return len(defined) > 0 and float(np.ptp(defined)) < 1e-12


def exact_interval(value: float, patients: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion that is 0 or 1, in which resamples cannot differ (Clopper & Pearson 1934).

    With n trials that all succeed it is ``[a^(1/n), 1]``, ``a = (1 - level)/2``, and mirrored when none does. Patients
    count as the trials, as if the images of each were copies, which is conservative.

    Args:
        value: The proportion.
        patients: Patients n with an image that counts, > 0.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper bound; NaN for a value between 0 and 1.
    """
    bound = ((1 - level) / 2) ** (1 / patients)
    if value == 1:
        return bound, 1.0
    return (0.0, 1 - bound) if value == 0 else (np.nan, np.nan)


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


def basic_interval(values: Floats, estimate: float, level: float = 0.95) -> tuple[float, float]:
    """Basic (reverse percentile) interval ``[2 e - q_high, 2 e - q_low]`` of an error in [0, 1].

    A sum of absolute errors is larger in every resample than in the data it was drawn from; reflecting the
    quantiles takes that bias out (Davison & Hinkley 1997, section 5.2.1), where percentiles would double it. The
    interval is cut to [0, 1] and, as the estimate is biased upwards itself, extended to it where it lies above.

    Args:
        values: (R,) one value a resample, NaN where undefined.
        estimate: The value of the data.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper bound; NaN where fewer than half of the resamples are defined.
    """
    low, high = (float(bound) for bound in interval(values, level))
    if np.isnan(low):
        return low, high
    return max(0.0, 2 * estimate - high), min(1.0, max(estimate, 2 * estimate - low))


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
