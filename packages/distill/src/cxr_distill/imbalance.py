"""Class imbalance: rare labels weighted up in the loss, drawn more often, or their prior taken out of the logits."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_data.errors import BadInput
from cxr_distill.losses import TASK_LOSSES, task_loss

Targets = NDArray[np.float32]


def label_loss(
    task: str, name: str, targets: Targets, *, imbalance: str = "none", label_smoothing: float = 0.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss on labels, fitted to how frequent these are among the training images.

    "pos_weight": in multilabel a positive weighs negatives / positives of its label; in multiclass an image weighs
    N / (L n_k) of its class. "logit_adjust": the loss sees z + ln π for classes (Menon et al. 2021, "Long-tail
    learning via logit adjustment", eq. 10) and z + ln(π / (1 - π)) for labels, so that the network's own answer z
    comes out as if all were equally frequent.

    Args:
        task: "multiclass" or "multilabel".
        name: A name in `TASK_LOSSES`, or "auto".
        targets: (M, L) of the training images, NaN where unknown.
        imbalance: "none", "pos_weight", "balanced" (no matter of the loss) or "logit_adjust".
        label_smoothing: ε in [0, 1).

    Returns:
        Function of logits (B, L) and targets (B, L).

    Raises:
        BadInput: Unknown loss, or one that knows no smoothing or weights.
    """
    formula = task_loss(task, name)
    keywords: dict[str, Any] = {}
    if label_smoothing:
        keywords["label_smoothing"] = label_smoothing
    if imbalance == "pos_weight":
        keyword = "class_weights" if task == "multiclass" else "pos_weight"
        keywords[keyword] = torch.from_numpy(_weights(targets, task))
    known = inspect.signature(formula).parameters
    if unknown := [keyword for keyword in keywords if keyword not in known]:
        option = "--optim.label_smoothing" if unknown == ["label_smoothing"] else "--imbalance pos_weight"
        raise BadInput(
            f"a loss on labels that knows {option}", name, do=f"take --task_loss {next(iter(TASK_LOSSES[task]))}"
        )
    loss = functools.partial(formula, **keywords) if keywords else formula
    if imbalance != "logit_adjust":
        return loss
    shift = torch.from_numpy(_log_prior(targets, task))
    return lambda logits, wanted: loss(logits.float() + shift.to(logits.device), wanted)


def sampling_weights(targets: Targets, task: str) -> NDArray[np.float64]:
    """How often each image is to be drawn so that classes, or findings and none, come equally often.

    An image of class k of n_k images weighs 1 / n_k. In multilabel it weighs as the rarest finding it has, and
    images without any finding are a class of their own. Images without labels keep their share.

    Args:
        targets: (M, L) of the training images, NaN where unknown.
        task: "multiclass" or "multilabel".

    Returns:
        (M,) weights, summing to M.
    """
    positive = targets == 1
    if task == "multilabel":
        labelled = ~np.isnan(targets).all(axis=1)
        positive = np.column_stack([positive, labelled & ~positive.any(axis=1)])
    counts = positive.sum(axis=0)
    each = (positive / np.maximum(counts, 1)).max(axis=1)
    labelled = each > 0
    each[labelled] *= labelled.sum() / each[labelled].sum()
    return np.where(labelled, each, 1.0)


def first_logits(targets: Targets, task: str, imbalance: str = "none") -> Tensor:
    """The logits that a new classifier does best to begin with, knowing no image.

    Args:
        targets: (M, L) of the training images, NaN where unknown.
        task: "multiclass" or "multilabel".
        imbalance: As in `label_loss`; weights and shifts make all classes, and presence and absence, equally likely.

    Returns:
        (L,) float32: ln π for classes, ln(π / (1 - π)) for labels, π as they are drawn; finite.
    """
    if imbalance in ("pos_weight", "logit_adjust"):
        return torch.zeros(targets.shape[1])
    weights = sampling_weights(targets, task) if imbalance == "balanced" else None
    return torch.from_numpy(_log_prior(targets, task, weights))


def _counts(
    targets: Targets, weights: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positives and known of each label; at least one of either kind, so that a ratio is finite."""
    weights = np.ones(len(targets)) if weights is None else weights
    positives = weights @ (targets == 1)
    known = np.maximum(weights @ ~np.isnan(targets), 2)
    return np.clip(positives, 1, known - 1), known


def _weights(targets: Targets, task: str) -> NDArray[np.float32]:
    positives, known = _counts(targets)
    ratio = known / (len(positives) * positives) if task == "multiclass" else (known - positives) / positives
    return ratio.astype(np.float32)


def _log_prior(targets: Targets, task: str, weights: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    positives, known = _counts(targets, weights)
    if task == "multiclass":
        return np.log(positives / positives.sum()).astype(np.float32)
    return np.log(positives / (known - positives)).astype(np.float32)
