"""Judging several differences at once, and whether a model is not worse by more than a margin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_eval.statistics.bootstrap import interval


def holm(p: Sequence[float | None]) -> list[float | None]:
    """P values adjusted for the number of tests made (Holm 1979), which holds for any dependence between them.

    With the m defined p values in ascending order: ``p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))``.

    Args:
        p: p values in [0, 1]; None where a test could not be made, which counts for nothing.

    Returns:
        Adjusted p values in the same order; None stays None.
    """
    defined = [i for i, value in enumerate(p) if value is not None]
    order = sorted(defined, key=lambda i: p[i] or 0.0)
    adjusted: list[float | None] = [None] * len(p)
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * (p[i] or 0.0)))
        adjusted[i] = worst
    return adjusted


@dataclass(frozen=True)
class NonInferiority:
    """Whether a model is not worse than another by a margin or more.

    Attributes:
        low: Lower bound of the two-sided interval of (this - other).
        p: One-sided p value of "worse by the margin or more"; NaN where undefined.
    """

    low: float
    p: float


def noninferiority(
    values: NDArray[np.float64], other: NDArray[np.float64], margin: float, level: float = 0.95
) -> NonInferiority:
    """Test that a model is not worse than another by ``margin`` or more, on the same resamples.

    Non-inferior when the lower bound lies above ``-margin``, which is a one-sided test at (1 - level)/2 (Piaggio et
    al. 2012); ``p = (1 + #{d <= -margin}) / (R + 1)``.

    Args:
        values: (R,) the metric of the model, larger is better.
        other: (R,) the metric of the other on the same resamples.
        margin: Largest loss that does not matter, > 0.
        level: Coverage of the interval.

    Returns:
        Bound and p value; NaN where fewer than half of the resamples are defined for both.
    """
    d = values - other
    low = float(interval(d, level)[0])
    if math.isnan(low):
        return NonInferiority(low, math.nan)
    d = d[~np.isnan(d)]
    return NonInferiority(low, (1 + int(np.sum(d <= -margin))) / (len(d) + 1))
