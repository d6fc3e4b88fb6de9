"""Find shortcuts: labels that can be predicted from projection, sex, age, image size or a thumbnail."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.auditing.measures import Measures
from cxr_data.cohorts.cohort import Cohort
from cxr_data.models.metrics import midranks

AUROC, CRAMER = 0.10, 0.10
"""From |AUROC - 0.5| of a number, or bias-corrected Cramér's V of a category, on a label is confounded with it."""
SIGMAS = 4.0
"""Standard errors (AUROC) or standard deviations (chi-squared) a confounder must lie beyond chance: many are tried."""
LEAST = 10
"""Positive and negative images a label must have to be judged."""
RIDGE = 1e-2
"""Penalty per image on the squared weights of :func:`thumbnail_baseline`, gray levels being in [0, 1]."""
_MOST_CATEGORIES = 50


def label_vectors(cohort: Cohort) -> dict[str, NDArray[np.float32]]:
    """What is to be told apart, as (N,) vectors of 0, 1 and NaN.

    Returns:
        Every label; for two classes the second alone; for findings side by side also "any finding".
    """
    targets = cohort.targets
    if cohort.task == "multiclass" and len(cohort.labels) == 2:
        return {cohort.labels[1]: targets[:, 1]}
    vectors = {name: targets[:, i] for i, name in enumerate(cohort.labels)}
    if cohort.task == "multilabel" and len(cohort.labels) > 1:
        known = ~np.isnan(targets).all(axis=1)
        vectors["any finding"] = np.where(known, (targets == 1).any(axis=1), np.nan).astype(np.float32)
    return vectors


def numeric_confounders(
    vectors: Mapping[str, NDArray[np.float32]], numbers: Mapping[str, NDArray[np.float64]]
) -> list[dict[str, Any]]:
    """How well each number alone tells each label, as an AUROC.

    Args:
        vectors: Of :func:`label_vectors`.
        numbers: Name -> (N,) values, NaN where unknown.

    Returns:
        One dict per pair that can be judged: ``label``, ``by``, ``auroc``, ``error`` (standard error of Hanley and
        McNeil, Radiology 1982), ``mean_positive``, ``mean_negative``, ``images``, ``confounded``.
    """
    confounders = []
    for by, values in numbers.items():
        for label, truth in vectors.items():
            known = ~np.isnan(values) & ~np.isnan(truth)
            positive, x = truth[known] == 1, values[known]
            if not _enough(positive) or np.ptp(x) == 0:
                continue
            area, error = auroc(x, positive)
            confounders.append(
                {
                    "label": label,
                    "by": by,
                    "auroc": area,
                    "error": error,
                    "mean_positive": float(x[positive].mean()),
                    "mean_negative": float(x[~positive].mean()),
                    "images": len(x),
                    "confounded": abs(area - 0.5) >= AUROC and abs(area - 0.5) > SIGMAS * error,
                }
            )
    return confounders


def category_confounders(
    vectors: Mapping[str, NDArray[np.float32]], categories: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """How much each category says about each label, as a bias-corrected Cramér's V.

    Args:
        vectors: Of :func:`label_vectors`.
        categories: Name -> N values; what is unknown is a value of its own.

    Returns:
        One dict per pair that can be judged: ``label``, ``by``, ``cramers_v``, ``shares`` (positives of each value),
        ``counts`` (images of each value), ``images``, ``confounded``.
    """
    confounders = []
    for by, column in categories.items():
        values, codes = np.unique(np.array(column, str), return_inverse=True)
        if not 2 <= len(values) <= _MOST_CATEGORIES:
            continue
        for label, truth in vectors.items():
            known = ~np.isnan(truth)
            positive = truth[known] == 1
            table = np.zeros((len(values), 2), np.int64)
            np.add.at(table, (codes[known], positive.astype(np.int64)), 1)
            present = table.sum(axis=1) > 0
            if not _enough(positive) or present.sum() < 2:
                continue
            strength, beyond_chance = cramers_v(table[present])
            rows = list(zip(values[present].tolist(), table[present].tolist(), strict=True))
            confounders.append(
                {
                    "label": label,
                    "by": by,
                    "cramers_v": strength,
                    "shares": {value: yes / (yes + no) for value, (no, yes) in rows},
                    "counts": {value: yes + no for value, (no, yes) in rows},
                    "images": int(known.sum()),
                    "confounded": strength >= CRAMER and beyond_chance,
                }
            )
    return confounders


def auroc(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Area under the ROC curve, ties counting half, and its standard error (Hanley and McNeil 1982, eq. 2).

    Args:
        values: (N,) scores.
        positive: (N,) whether each is a positive; some are and some are not.

    Returns:
        The area in [0, 1] and its standard error.
    """
    yes, no = int(positive.sum()), int((~positive).sum())
    area = float((midranks(values)[positive].sum() - yes * (yes + 1) / 2) / (yes * no))
    both_yes, both_no = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (yes - 1) * (both_yes - area**2) + (no - 1) * (both_no - area**2)
    return area, float(np.sqrt(max(variance, 0.0) / (yes * no)))


def cramers_v(table: NDArray[np.int64]) -> tuple[float, bool]:
    """Bias-corrected Cramér's V (Bergsma, Journal of the Korean Statistical Society 2013) of a contingency table.

    Args:
        table: (R, C) counts; no row or column is empty.

    Returns:
        V in [0, 1], and whether chi-squared lies :data:`SIGMAS` standard deviations above its mean under chance.
    """
    total = table.sum()
    rows, columns = table.shape
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    chi = float(((table - expected) ** 2 / expected).sum())
    freedom = (rows - 1) * (columns - 1)
    phi = max(0.0, chi / total - freedom / (total - 1))
    least = min(rows - (rows - 1) ** 2 / (total - 1), columns - (columns - 1) ** 2 / (total - 1)) - 1
    strength = float(np.sqrt(phi / least)) if least > 0 else 0.0
    return min(strength, 1.0), bool(chi > freedom + SIGMAS * np.sqrt(2 * freedom))


def thumbnail_baseline(cohort: Cohort, measures: Measures) -> dict[str, float]:
    """AUROC on test of ridge regression on 16 x 16 gray thumbnails, fitted on train: what a network must clear.

    Returns:
        Label -> AUROC, for those with enough positives and negatives in both parts.
    """
    train, test = cohort.rows("train"), cohort.rows("test")
    x = measures.small.reshape(len(cohort), -1).astype(np.float64) / 255
    aurocs = {}
    for label, truth in label_vectors(cohort).items():
        fit, judge = train[~np.isnan(truth[train])], test[~np.isnan(truth[test])]
        if not (_enough(truth[fit] == 1) and _enough(truth[judge] == 1)):
            continue
        centre = x[fit].mean(axis=0)
        a, y = x[fit] - centre, truth[fit] - truth[fit].mean()
        gram = a.T @ a
        ridge = np.linalg.solve(gram + RIDGE * len(fit) * np.eye(len(gram)), a.T @ y)
        aurocs[label] = auroc((x[judge] - centre) @ ridge, truth[judge] == 1)[0]
    return aurocs


def _enough(positive: NDArray[np.bool_]) -> bool:
    return min(int(positive.sum()), int((~positive).sum())) >= LEAST
