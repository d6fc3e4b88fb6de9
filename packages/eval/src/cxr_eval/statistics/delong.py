"""Variance and comparison of AUROCs without resampling (DeLong et al. 1988), with patients as clusters.

The fast form: the placement of a positive among the negatives is a difference of midranks and costs one
sort (Sun & Xu 2014), so that all pairs are never formed. Images of one patient are not independent; given
clusters, the variance is Obuchowski's (Biometrics 53, 1997), which is DeLong's when every cluster has one
image.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_data.models.metrics import placements

Floats = NDArray[np.float64]

NO_ERROR = 1e-12
"""Standard errors below it are rounding."""


@dataclass(frozen=True)
class Comparison:
    """Two-sided test of equal AUROC of two models on the same images.

    Attributes:
        difference: AUROC of the first minus AUROC of the second.
        standard_error: Of the difference.
        p: Two-sided p value; NaN when undefined, as without any variance: two AUROCs that differ while no ranking
            of the images varies are a sign of too few errors, not of certainty.
    """

    difference: float
    standard_error: float
    p: float


def covariance(target: NDArray, scores: NDArray, cluster: NDArray[np.int64] | None = None) -> tuple[Floats, Floats]:
    """AUROCs of several models on the same images, and their covariance.

    With V10, V01 the placements of positives and negatives, X_c and Y_c the sums over cluster c of V10 -
    AUROC and V01 - AUROC, m and n the numbers of positives and negatives:
    ``S10 = I10/((I10-1) m) sum_c X_c X_c'``, ``S01`` alike, ``S11 = I/(I-1) sum_c X_c Y_c'`` and
    ``cov = S10/m + S01/n + (S11 + S11')/(m n)`` (Obuchowski 1997).

    Args:
        target: (N,) in {0, 1, NaN}; unknown images are left out.
        scores: (M, N).
        cluster: (N,) number of each image's patient; None when every image stands for itself.

    Returns:
        AUROC (M,) and covariance (M, M); NaN with fewer than two clusters of either class.
    """
    known = ~np.isnan(target)
    target, scores = target[known], np.asarray(scores, np.float64)[:, known]
    models = len(scores)
    positive, negative = target == 1, target == 0
    if not positive.any() or not negative.any():
        return np.full(models, np.nan), np.full((models, models), np.nan)
    v10, v01 = placements(target, scores)
    auroc = v10.mean(axis=1)
    number = np.arange(len(target)) if cluster is None else np.unique(cluster[known], return_inverse=True)[1]
    clusters = int(number.max()) + 1
    x = _cluster_sums(v10 - auroc[:, None], number[positive], clusters)
    y = _cluster_sums(v01 - auroc[:, None], number[negative], clusters)
    i10, i01 = len(np.unique(number[positive])), len(np.unique(number[negative]))
    if i10 < 2 or i01 < 2:
        return auroc, np.full((models, models), np.nan)
    m, n = int(positive.sum()), int(negative.sum())
    s10 = i10 / ((i10 - 1) * m) * (x @ x.T)
    s01 = i01 / ((i01 - 1) * n) * (y @ y.T)
    s11 = clusters / (clusters - 1) * (x @ y.T)
    return auroc, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


def compare(target: NDArray, first: NDArray, second: NDArray, cluster: NDArray[np.int64] | None = None) -> Comparison:
    """Paired test of equal AUROC.

    Args:
        target: (N,) in {0, 1, NaN}.
        first: (N,) scores of one model.
        second: (N,) scores of the other.
        cluster: (N,) number of each image's patient, or None.

    Returns:
        The comparison; p is 1 when the two rank every image alike.
    """
    auroc, cov = covariance(target, np.stack([first, second]), cluster)
    return difference(auroc, cov, 0, 1)


def difference(auroc: Floats, cov: Floats, first: int, second: int) -> Comparison:
    """The test of ``compare`` for two of the models whose ``covariance`` is known.

    Args:
        auroc: (M,).
        cov: (M, M).
        first: Row of one model.
        second: Row of the other.

    Returns:
        The comparison; p is 1 when the two rank every image alike.
    """
    gap = float(auroc[first] - auroc[second])
    variance = float(cov[first, first] + cov[second, second] - 2 * cov[first, second])
    if np.isnan(variance):
        return Comparison(gap, np.nan, np.nan)
    error = math.sqrt(max(variance, 0.0))
    if error < NO_ERROR:
        return Comparison(gap, error, 1.0 if abs(gap) < NO_ERROR else np.nan)
    return Comparison(gap, error, math.erfc(abs(gap) / error / math.sqrt(2)))


def _cluster_sums(values: Floats, number: NDArray[np.int64], clusters: int) -> Floats:
    return np.array([np.bincount(number, row, minlength=clusters) for row in values], np.float64)
