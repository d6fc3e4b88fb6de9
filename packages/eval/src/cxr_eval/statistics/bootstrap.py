"""How figures vary with the patients: replicates without each patient, and resamples of patients, all computed at once.

Images of one patient resemble each other, so patients are left out or drawn, not images (Field & Welsh 2007). A
replicate is a vector of weights: how often each patient counts. Every model and subgroup meets the same replicates,
which makes their differences paired.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_common.jackknife import Spread, spread
from cxr_eval.metrics.compute import resample
from cxr_eval.metrics.records import METRICS, Metric

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]

MOST_GROUPS = 2000
"""Patients are left out one at a time up to so many, in as many groups of equal size beyond."""


class Interval(NamedTuple):
    """A figure and its interval.

    Attributes:
        value: The figure of the data.
        low: Lower bound; NaN where fewer than half of the resamples are defined.
        high: Upper bound.

    Examples:
        >>> from cxr_eval import Interval
        >>> value, low, high = Interval(0.9, 0.85, 0.94)
    """

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of any statistic, with groups (patients) drawn whole.

    For the metrics of this package ``cxr_eval.evaluate`` has intervals that cover better on few patients
    (docs/metrics.md); this is for a statistic of your own.

    Args:
        statistic: Takes the arrays, rows drawn with replacement, and returns a number, NaN where undefined.
        arrays: Each with N rows.
        groups: (N,) patient of each row; None when every row stands for itself.
        resamples: Number of resamples.
        level: Coverage, in (0, 1).
        seed: Seed of the draw.

    Returns:
        The statistic of the data and its interval.

    Raises:
        ValueError: Arrays of different length, or none.

    Examples:
        >>> import numpy as np
        >>> from cxr_eval import bootstrap
        >>> ages = np.random.default_rng(0).normal(60, 10, 200)
        >>> mean = bootstrap(np.mean, ages, groups=np.arange(200) // 2, resamples=500)
        >>> bool(mean.low < mean.value < mean.high)
        True
    """
    columns = [np.asarray(array) for array in arrays]
    if not columns or any(len(column) != len(columns[0]) for column in columns):
        raise ValueError(f"arrays of one length are needed, got {[len(column) for column in columns]}")
    patient = patient_numbers(np.arange(len(columns[0])) if groups is None else np.asarray(groups))
    if len(patient) != len(columns[0]):
        raise ValueError(f"groups must have one entry per row: {len(columns[0])}, got {len(patient)}")
    order = np.argsort(patient, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(patient))[:-1])
    rng = np.random.default_rng(seed)
    values = np.empty(resamples)
    for r in range(resamples):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        values[r] = statistic(*(column[rows] for column in columns))
    defined = values[~np.isnan(values)]
    low, high = (
        np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) if 2 * len(defined) >= resamples > 0 else [np.nan] * 2
    )
    return Interval(float(statistic(*columns)), float(low), float(high))


def patient_numbers(patients: NDArray) -> NDArray[np.int64]:
    """Number the patients 0..P-1; (N,) names -> (N,) int64."""
    return np.unique(patients, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Draws:
    """Replicates of the patients; a metric takes those that its record names.

    Attributes:
        jackknife: (P, G) 0 for the patients that a replicate leaves out, else 1.
        bootstrap: (P, R) how often each patient is drawn.
    """

    jackknife: Weights
    bootstrap: Weights

    def of(self, patients: NDArray[np.int64]) -> "Draws":
        """The same replicates of some patients alone."""
        return Draws(self.jackknife[patients], self.bootstrap[patients])


def draw(patients: int, resamples: int, seed: int) -> Draws:
    """Replicates of so many patients.

    Args:
        patients: Number of patients P.
        resamples: Bootstrap resamples R.
        seed: Seed of the bootstrap, and of the groups where there are more than ``MOST_GROUPS`` patients.
    """
    groups = np.random.default_rng((seed, 2)).permutation(patients) % min(patients, MOST_GROUPS)
    if patients <= MOST_GROUPS:
        groups = np.arange(patients)
    kept = np.ones((patients, min(patients, MOST_GROUPS)), np.float32)
    kept[np.arange(patients), groups] = 0
    return Draws(kept, draw_weights(patients, resamples, seed))


def draw_weights(patients: int, resamples: int, seed: int | Sequence[int]) -> Weights:
    """How often each patient is drawn in each resample, with replacement.

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
        drawn = rng.integers(0, patients, (rows, patients)) + np.arange(rows)[:, None] * patients
        weights[:, start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * patients).reshape(rows, -1).T
    return weights


def replicates(
    targets: NDArray,
    scores: NDArray,
    decisions: NDArray,
    patient: NDArray[np.int64],
    draws: Draws,
    names: Sequence[str] | None = None,
) -> dict[str, Floats]:
    """Metrics of every label in the replicates from which their intervals are made.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L) probabilities.
        decisions: (N, L) bool.
        patient: (N,) patient number of each image, in [0, P).
        draws: The replicates of the patients.
        names: Which of ``METRICS`` are wanted; all when None.

    Returns:
        Each name that has intervals: (G, L) or (R, L) float64; and "positives" and "bootstrap positives", the number of
        positives in the replicates of either kind.
    """
    wanted = list(METRICS if names is None else names)
    kinds = {kind: [name for name in wanted if METRICS[name].interval == kind] for kind in ("jackknife", "bootstrap")}
    figures = resample(targets, scores, decisions, patient, draws.jackknife, kinds["jackknife"])
    if kinds["bootstrap"]:
        drawn = resample(targets, scores, decisions, patient, draws.bootstrap, kinds["bootstrap"])
        figures |= {("bootstrap positives" if name == "positives" else name): values for name, values in drawn.items()}
    return figures


def spread_of(metric: Metric, value: float, values: Floats) -> Spread:
    """Standard error and degrees of freedom of a figure, or of a difference of two, from its replicates.

    Args:
        metric: Which metric; its interval says what the replicates are.
        value: The figure of the data.
        values: (G,) jackknife replicates or (R,) bootstrap resamples.

    Returns:
        The spread; NaN where a jackknife replicate, or more than half of the resamples, are undefined.
    """
    if metric.interval == "jackknife":
        return spread(value, values)
    defined = values[~np.isnan(values)]
    if math.isnan(value) or 2 * len(defined) < len(values) or len(defined) < 2:
        return Spread(math.nan, math.nan)
    return Spread(float(np.std(defined, ddof=1)), 1e9)


def concerned(targets: NDArray, decisions: NDArray, patient: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Patients with an image in the denominator of each metric that is a proportion of images; name -> (L,)."""
    decided = decisions.astype(bool)
    return {
        name: _patients(metric.images(targets, decided), patient)
        for name, metric in METRICS.items()
        if metric.images is not None
    }


def patients_of_class(targets: NDArray, patient: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Patients with a positive image of each label, and with a negative one, (L,) each; a patient may be both."""
    return _patients(targets == 1, patient), _patients(targets == 0, patient)


def _patients(images: NDArray, patient: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([np.count_nonzero(np.bincount(patient[column])) for column in images.T], np.int64)


def exact_interval(value: float, patients: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion that is 0 or 1, in which replicates cannot differ (Clopper & Pearson 1934).

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
