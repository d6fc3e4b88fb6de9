"""Ensembles of teachers: joint logits, and the weight of each teacher."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cxr_data.models import decisions
from cxr_data.models.metrics import auroc, macro


def joint_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """Several teachers as one: the weighted mean of their logits.

        z_ik = Σ_t w_tk z_tik

    For classes this is the normalised geometric mean of their probabilities (Hinton et al. 2015, §2 names both
    means), for labels that of their odds.

    Args:
        logits: z, (T, B, L).
        weights: w, (T, L), columns summing to 1.

    Returns:
        (B, L).
    """
    return (weights[:, None, :] * logits).sum(dim=0)


def label_weights(
    answers: Sequence[NDArray[np.float32]], targets: NDArray[np.float32], task: str, ensemble: str
) -> NDArray[np.float32]:
    """Share of each teacher in the joint answer, from validation data.

    Args:
        answers: (N, L) logits of each of T teachers.
        targets: (N, L) in {0, 1, NaN}.
        task: "multiclass" (one share for all classes, from the macro AUROC) or "multilabel".
        ensemble: "mean"; "weighted", in proportion to AUROC - 0.5 where that is above 0; or "best_label", the
            one of the highest AUROC alone.

    Returns:
        (T, L); equal shares where no AUROC is defined or none is above 0.5.
    """
    teachers, labels = len(answers), targets.shape[1]
    equal = np.full((teachers, labels), 1 / teachers)
    if ensemble == "mean" or teachers == 1:
        return equal.astype(np.float32)
    areas = np.stack([auroc(targets, decisions.probabilities(logits, task)) for logits in answers])
    if task == "multiclass":
        areas = np.repeat([[macro(row)] for row in areas], labels, axis=1)
    worth = np.nan_to_num(np.clip(areas - 0.5, 0, None))
    if ensemble == "best_label":
        worth = np.where(np.arange(teachers)[:, None] == worth.argmax(axis=0), worth, 0)
    total = worth.sum(axis=0)
    return np.where(total > 0, worth / np.where(total > 0, total, 1), equal).astype(np.float32)
