"""Measurements during training: agreement with the teacher, and the share of each loss in the gradient."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_data.errors import BadInput
from cxr_data.models import decisions
from cxr_data.models.metrics import auroc, macro
from cxr_distill.losses import task_loss
from cxr_distill.losses.logits import kd, multilabel_kd

EVERY = 50
"""Steps between two measurements of the gradients; the first step of an epoch is always measured."""

DOMINATING = 0.95
"""Share of the gradient above which, over an epoch, one loss leaves nothing to the others."""


def gradient_shares(terms: Mapping[str, Tensor], shared: Sequence[Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """How much of the gradient each term of a loss makes up.

        share_i = ‖∂ term_i / ∂ θ‖ / Σ_j ‖∂ term_j / ∂ θ‖

    Args:
        terms: The terms, weights included, with their graph, which is kept.
        shared: θ, what all terms depend on: the logits, or the parameters.
        scale: Factor against underflow in half precision; it cancels out.

    Returns:
        "NAME_share" in [0, 1] of each term, adding up to 1; all 0 where no term has a gradient, NaN where one is too
        large for the arithmetic.
    """
    norms = {}
    for name, term in terms.items():
        gradients: Sequence[Tensor | None] = ()
        if term.requires_grad:
            gradients = torch.autograd.grad(scale * term, list(shared), retain_graph=True, allow_unused=True)
        squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
        norms[name] = torch.stack(squares).sum().sqrt() if squares else torch.zeros_like(term.detach())
    total = torch.stack(list(norms.values())).sum()
    return {f"{name}_share": norm / torch.where(total > 0, total, 1) for name, norm in norms.items()}


def check_finite(wanted: str, loss: float | None, epoch: int, folder: Path) -> None:
    """Stop a training that has diverged.

    Args:
        wanted: What the number should be, in words.
        loss: Mean of the epoch; None where there is none.
        epoch: Counted from 1.
        folder: The stage's folder.

    Raises:
        BadInput: The loss is NaN or infinite.
    """
    if loss is not None and not math.isfinite(loss):
        raise BadInput(
            wanted,
            f"{loss} at epoch {epoch}",
            where=folder,
            do="lower --lr, or try --precision fp32; of a --start or --teacher, see that its own answers are finite",
        )


def dominating(line: Mapping[str, float | None]) -> str | None:
    """Name of the loss that made up nearly the whole gradient of an epoch beside others; None if none did.

    Args:
        line: An epoch's figures, "NAME_share" among them.
    """
    shares = {name.removesuffix("_share"): v for name, v in line.items() if name.endswith("_share") and v is not None}
    if len(shares) < 2:
        return None
    name = max(shares, key=lambda key: shares[key])
    return name if shares[name] > DOMINATING else None


def validation(
    logits: NDArray[np.float32], targets: NDArray[np.float32], task: str, teacher: NDArray[np.float32] | None
) -> dict[str, float | None]:
    """Validation figures of an epoch.

    Args:
        logits: (N, L) of the network.
        targets: (N, L).
        task: "multiclass" or "multilabel".
        teacher: (N, L) logits of the teacher, or None.

    Returns:
        "val_loss", "val_auroc" (macro over the labels, None where undefined) and, beside a teacher, "agreement":
        how often both decide alike (of images in multiclass, of labels in multilabel), and "teacher_kl", see
        `divergence`.
    """
    loss = float(task_loss(task)(torch.from_numpy(logits), torch.from_numpy(targets)))
    area = macro(auroc(targets, decisions.probabilities(logits, task)))
    figures = {"val_loss": loss, "val_auroc": None if np.isnan(area) else area}
    if teacher is not None:
        own, its = (decisions.decide(decisions.probabilities(x, task), None, task) for x in (logits, teacher))
        figures["agreement"] = float(((own == its).all(axis=1) if task == "multiclass" else own == its).mean())
        figures["teacher_kl"] = divergence(logits, teacher, task)
    return figures


def score(val: Mapping[str, float | None]) -> list[float]:
    """By what the best of several validation figures is chosen: the AUROC, among equal ones the smaller loss."""
    return [round(val["val_auroc"] or 0.0, 6), -(val["val_loss"] or 0.0)]


def divergence(student: NDArray[np.float32], teacher: NDArray[np.float32], task: str) -> float:
    """Kullback-Leibler divergence of the student's probabilities from the teacher's, in nats.

        multiclass: mean over images of  Σ_k p_t ln(p_t / p_s);   multilabel: mean over images and labels of
        p_t ln(p_t / p_s) + (1 - p_t) ln((1 - p_t) / (1 - p_s))

    Args:
        student: (N, L) logits.
        teacher: (N, L) logits.
        task: "multiclass" or "multilabel".

    Returns:
        A number >= 0, 0 when both give the same probabilities.
    """
    z_s, z_t = (torch.from_numpy(np.asarray(x, np.float64)) for x in (student, teacher))
    if task == "multiclass":
        return float(kd(z_s, z_t, temperature=1.0))
    return float(multilabel_kd(z_s, z_t)) / z_s.shape[1]
