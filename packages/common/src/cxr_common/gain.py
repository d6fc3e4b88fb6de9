"""The gain of one classifier over another on the same images, and means over seeds, with their uncertainty."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from cxr_data.metrics import placements


class Gain(NamedTuple):
    """A paired difference of macro AUROC.

    Attributes:
        difference: AUROC of the one minus AUROC of the other; NaN where no label is defined.
        low: Lower bound of its 95 % interval; NaN where a label has fewer than two patients with it, or without it.
        high: Upper bound.
    """

    difference: float
    low: float
    high: float


def auroc_gain(targets: ArrayLike, scores: ArrayLike, reference: ArrayLike, patients: ArrayLike) -> Gain:
    """Paired 95 % interval of a difference in macro AUROC, with patients as clusters.

    An AUROC is the mean of placements (DeLong et al. 1988): V_i, the share of the other kind that image i is ranked
    rightly against. What image i adds to the difference of two models' macro AUROCs A over L labels is

        ψ_i = 1/L Σ_k [ y_ik (ΔV_ik - ΔA_k) / m_k + (1 - y_ik) (ΔV_ik - ΔA_k) / n_k ]

    with m_k positives and n_k negatives, and its variance, with images of one patient c summed first, is

        P / (P - 1) Σ_c (Σ_{i in c} ψ_i)²

    over P patients: the infinitesimal jackknife, to which DeLong's variance and that of the patient-clustered
    bootstrap tend; it needs no resampling. Obuchowski 1997 is the case of one label. The interval is ± 1.96 standard
    errors, within [-1, 1].

    Args:
        targets: (N, L) in {0, 1, NaN}; labels without positives or negatives are left out.
        scores: (N, L) of the one, higher means more likely positive.
        reference: (N, L) of the other.
        patients: (N,) patient of each image.

    Returns:
        The gain.
    """
    y = np.asarray(targets, np.float64)
    models = np.stack([np.asarray(scores, np.float64), np.asarray(reference, np.float64)])
    clusters = np.unique(np.asarray(patients), return_inverse=True)[1]
    influence, differences, enough = np.zeros(len(y)), [], True
    for label in range(y.shape[1]):
        positive, negative = np.flatnonzero(y[:, label] > 0.5), np.flatnonzero(y[:, label] <= 0.5)
        if not len(positive) or not len(negative):
            continue
        known = np.concatenate([positive, negative])
        of_positives, of_negatives = placements(y[known, label], models[:, known, label])
        delta = of_positives[0] - of_positives[1]
        differences.append(delta.mean())
        enough = enough and all(len(np.unique(clusters[kind])) > 1 for kind in (positive, negative))
        influence[positive] += (delta - differences[-1]) / len(positive)
        influence[negative] += (of_negatives[0] - of_negatives[1] - differences[-1]) / len(negative)
    if not differences:
        return Gain(float("nan"), float("nan"), float("nan"))
    difference = float(np.mean(differences))
    of_patient = np.bincount(clusters, influence / len(differences))
    if not enough:
        return Gain(difference, float("nan"), float("nan"))
    error = float(np.sqrt(len(of_patient) / (len(of_patient) - 1) * np.square(of_patient).sum()))
    return Gain(difference, max(-1.0, difference - 1.96 * error), min(1.0, difference + 1.96 * error))


def over_seeds(values: ArrayLike) -> tuple[float, float]:
    """Mean of one figure over several seeds, with Student's 95 % interval.

    Args:
        values: (S,) the figure of every seed.

    Returns:
        Mean and half-width of the interval of the mean; NaN where a value is, and no half-width from one seed.
    """
    found = np.asarray(values, np.float64)
    if len(found) < 2:
        return float(found.mean()), float("nan")
    error = np.std(found, ddof=1) / len(found) ** 0.5
    return float(found.mean()), float(stdtrit(len(found) - 1, 0.975) * error)
