"""Intervals and tests from leave-one-patient-out replicates, with Student's t for the patients that carry the variance.

Images of one patient resemble each other, so whole patients are left out. With G patients (or groups of patients), the
figure θ of all of them and θ_g of all but g, the jackknife's variance is

    v = (G - 1) / G Σ_g d_g²,   d_g = θ - θ_g

(Tukey 1958; for clusters the conservative one of the sandwich estimators, CR3: Bell & McCaffrey 2002). v is itself
uncertain where few patients carry it, as those with a rare finding do. Its degrees of freedom follow from its own
variance (Satterthwaite 1946), Var(v) ~ Σ d_g⁴ - (Σ d_g²)² / G:

    ν = 2 (Σ d_g²)² / (Σ d_g⁴ - (Σ d_g²)² / G)

which is G for normal d_g of equal variance, and about m where m patients carry the variance. docs/metrics.md tells how
often the intervals cover the truth.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, stdtr, stdtrit

Floats = NDArray[np.float64]

SCALES = ("identity", "difference", "logit", "signed logit", "proportion")
"""On which scale an interval is symmetric: the figure's own (of one figure, or a difference of two), log odds of a
figure in [0, 1] or of one in [-1, 1] mapped to it, or Wilson's for proportions."""

NO_ERROR = 1e-12
"""Standard errors below it are rounding."""


class Spread(NamedTuple):
    """How uncertain a figure is.

    Attributes:
        error: Standard error; NaN where a replicate is undefined.
        degrees: Degrees of freedom of Student's t.
    """

    error: float
    degrees: float


def spread(value: float, replicates: Floats) -> Spread:
    """Standard error and degrees of freedom of a figure.

    Args:
        value: The figure of all patients.
        replicates: (G,) the figure without each patient, or without each group of patients.

    Returns:
        The spread; NaN where the figure or a replicate is NaN, or G < 2.
    """
    away = value - np.asarray(replicates, np.float64)
    groups = len(away)
    if groups < 2 or math.isnan(value) or np.isnan(away).any():
        return Spread(math.nan, math.nan)
    squares = float(np.sum(away**2))
    error = math.sqrt((groups - 1) / groups * squares)
    if error < NO_ERROR:
        return Spread(error, float(groups - 1))
    # In units of the standard error, so that fourth powers of small figures do not vanish.
    scaled = float(np.sum((away / math.sqrt(squares)) ** 4)) - 1 / groups
    return Spread(error, min(max(1.0, 2 / scaled), 1e9) if scaled > 0 else 1e9)


def interval(value: float, about: Spread, scale: str = "identity", level: float = 0.95) -> tuple[float, float]:
    """Interval of a figure.

    ``identity``: ``θ ± t SE``; ``difference``: the same with t of 2 ν degrees of freedom, for differences vary nearly
    symmetrically, where t of ν is too large (Efron 1969), as the jackknife's variance is (Efron & Stein 1981).
    ``logit``: the same as ``identity`` of ``log(θ / (1 - θ))``, whose standard error is ``SE / (θ (1 - θ))``, mapped
    back; ``signed logit``: of ``(θ + 1) / 2``. ``proportion``: Wilson's score interval (1927) of ``θ (1 - θ) / SE²``
    effective trials (Kish 1965), with t of 2 ν, for the score interval already allows for the variance at its bounds.

    Args:
        value: The figure.
        about: Its spread.
        scale: One of ``SCALES``.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper bound; NaN without a spread, or for a figure at the end of its range.
    """
    if not about.error >= NO_ERROR:
        return math.nan, math.nan
    degrees = 2 * about.degrees if scale in ("difference", "proportion") else about.degrees
    t = float(stdtrit(degrees, (1 + level) / 2))
    if scale in ("identity", "difference"):
        return value - t * about.error, value + t * about.error
    if scale == "signed logit":
        low, high = interval((value + 1) / 2, Spread(about.error / 2, about.degrees), "logit", level)
        return 2 * low - 1, 2 * high - 1
    if not 0 < value < 1:
        return math.nan, math.nan
    if scale == "logit":
        centre, half = math.log(value / (1 - value)), t * about.error / (value * (1 - value))
        return float(expit(centre - half)), float(expit(centre + half))
    if scale != "proportion":
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    trials = value * (1 - value) / about.error**2
    middle = (value + t**2 / (2 * trials)) / (1 + t**2 / trials)
    half = t / (1 + t**2 / trials) * math.sqrt(value * (1 - value) / trials + t**2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def p_value(value: float, about: Spread) -> float:
    """Two-sided p value of "the difference is 0", as its interval by t of 2 ν; NaN without a spread."""
    return 2 * p_below(abs(value), about, 0.0)


def p_below(value: float, about: Spread, bound: float) -> float:
    """One-sided p value of "the difference is ``bound`` or less", by t of 2 ν; NaN without a spread."""
    return math.nan if not about.error >= NO_ERROR else float(stdtr(2 * about.degrees, (bound - value) / about.error))
