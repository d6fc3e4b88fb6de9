"""The gain of one classifier over another on the same images, and means over seeds, with their uncertainty."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from cxr_common.jackknife import NO_ERROR, interval, spread
from cxr_data.models.metrics import placements

LEAST_PATIENTS = 5
"""Patients with the finding, and without it, that the interval of a single label needs."""


class Gain(NamedTuple):
    """A paired difference of macro AUROC.

    Attributes:
        difference: AUROC of the one minus AUROC of the other; NaN where no label is defined.
        low: Lower bound of its 95 % interval; NaN where a label has fewer than two patients with it, or without it, or
            the only label fewer than ``LEAST_PATIENTS``.
        high: Upper bound.
    """

    difference: float
    low: float
    high: float


def auroc_gain(targets: ArrayLike, scores: ArrayLike, reference: ArrayLike, patients: ArrayLike) -> Gain:
    """Paired 95 % interval of a difference in macro AUROC, with patients as clusters.

    The difference is computed again without each patient; standard error and degrees of freedom are the jackknife's
    (``cxr_common.jackknife``), and the interval is ``± t`` standard errors within [-1, 1]. With one image per patient
    and one label it agrees with DeLong et al. 1988, with several images per patient with Obuchowski 1997.

    Args:
        targets: (N, L) in {0, 1, NaN}; labels without positives or negatives are left out.
        scores: (N, L) of the one, higher means more likely positive.
        reference: (N, L) of the other.
        patients: (N,) patient of each image.
    """
    y = np.asarray(targets, np.float64)
    models = np.stack([np.asarray(scores, np.float64), np.asarray(reference, np.float64)])
    patient = np.unique(np.asarray(patients), return_inverse=True)[1]
    values, without = [], []
    fewest = np.inf
    for label in range(y.shape[1]):
        known = np.flatnonzero(~np.isnan(y[:, label]))
        target = (y[known, label] > 0.5).astype(np.float64)
        if not 0 < target.sum() < len(target):
            continue
        both = [leave_one_out(target, model[known, label], patient[known], int(patient.max()) + 1) for model in models]
        values.append(both[0][0] - both[1][0])
        without.append(both[0][1] - both[1][1])
        fewest = min(fewest, *(len(np.unique(patient[known][target == kind])) for kind in (0, 1)))
    if not values:
        return Gain(float("nan"), float("nan"), float("nan"))
    difference = float(np.mean(values))
    about = spread(difference, np.mean(without, axis=0))
    if fewest < (LEAST_PATIENTS if len(values) == 1 else 2) or np.isnan(about.error):
        return Gain(difference, float("nan"), float("nan"))
    if about.error < NO_ERROR:
        return Gain(difference, difference, difference)
    low, high = interval(difference, about, "difference")
    return Gain(difference, max(-1.0, low), min(1.0, high))


def leave_one_out(
    target: NDArray[np.float64], score: NDArray[np.float64], patient: NDArray[np.int64], patients: int
) -> tuple[float, NDArray[np.float64]]:
    """AUROC of one label, and the AUROC without each patient.

    Of the P N pairs of a positive and a negative image, U rank rightly (ties count one half). Without patient c, which
    has p_c positives and n_c negatives, U loses the pairs of its positives with all negatives and of its negatives with
    all positives; pairs within the patient are then subtracted twice and are added back once.

    Args:
        target: (N,) in {0, 1}, with both.
        score: (N,), higher means more likely positive.
        patient: (N,) number of each image's patient.
        patients: Number of patients; those without an image here change nothing.

    Returns:
        The AUROC, and (patients,) that without each; NaN where no positive or no negative would be left.
    """
    positive, negative = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
    of_positives, of_negatives = (placed[0] for placed in placements(target, score[None]))
    wins = np.bincount(patient[positive], of_positives * len(negative), patients)
    losses = np.bincount(patient[negative], of_negatives * len(positive), patients)
    mine, others = (
        np.bincount(patient[positive], minlength=patients),
        np.bincount(patient[negative], minlength=patients),
    )
    within = np.zeros(patients)
    for number in np.flatnonzero((mine > 0) & (others > 0)):
        pairs = score[positive[patient[positive] == number]][:, None] - score[negative[patient[negative] == number]]
        within[number] = np.sum(pairs > 0) + 0.5 * np.sum(pairs == 0)
    left = (len(positive) - mine) * (len(negative) - others)
    pairs_won = wins.sum() - wins - losses + within
    return float(of_positives.mean()), np.where(left > 0, pairs_won / np.maximum(left, 1), np.nan)


def over_seeds(values: ArrayLike) -> tuple[float, float]:
    """Mean of one figure over several seeds, with Student's 95 % interval.

    Args:
        values: (S,) the figure of every seed.

    Returns:
        Mean and half-width of the interval of the mean; NaN where a value is, and no half-width from one seed.
    """
    of_seeds = np.asarray(values, np.float64)
    if len(of_seeds) < 2:
        return float(of_seeds.mean()), float("nan")
    error = np.std(of_seeds, ddof=1) / len(of_seeds) ** 0.5
    return float(of_seeds.mean()), float(stdtrit(len(of_seeds) - 1, 0.975) * error)
