"""Is a run learning, or has it collapsed? Sums over the steps of an epoch, and what they show.

A loss cannot tell: a healthy SwAV run on radiographs may show loss / ln K of 1.00-1.05 while it learns, and a
collapsed one shows 1.000 for ever; BYOL's loss is lowest when all outputs are the same. Codes, prototypes and the
rank of the embeddings can.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cxr_ssl.method import LOW_SPREAD, Collapse

UNIFORM_CODES = 0.98
"""Code entropy / ln K above which codes are called uniform."""
ONE_PROTOTYPE = 0.5
"""Share of images nearest to one single prototype above which that prototype has taken over."""
LOW_RANK = 2.0
"""Effective rank below which embeddings lie on a line."""

Sums = dict[str, Tensor]


def loss_sums(device: torch.device | str = "cpu") -> Sums:
    """Sums for the mean loss, at zero."""
    return {name: torch.zeros((), device=device) for name in ("steps", "images", "loss")}


def embedding_sums(embedding_dim: int, device: torch.device | str = "cpu") -> Sums:
    """Sums for `embedding_figures`, at zero."""
    return {
        "mean": torch.zeros(embedding_dim, device=device),
        "moment": torch.zeros(embedding_dim, embedding_dim, device=device),
    }


def code_sums(num_prototypes: int, device: torch.device | str = "cpu") -> Sums:
    """Sums for `code_figures`, at zero."""
    return {
        "code_entropy": torch.zeros((), device=device),
        "agreement": torch.zeros((), device=device),
        "nearest": torch.zeros(num_prototypes, device=device),
    }


@torch.no_grad()
def add_loss(sums: Sums, loss: Tensor, images: int) -> None:
    """Take in the loss of a step (or of a part of it)."""
    sums["steps"] += 1
    sums["images"] += images
    sums["loss"] += loss.detach()


@torch.no_grad()
def add_embeddings(sums: Sums, embeddings: Tensor) -> None:
    """Take in unit embeddings (B, D) of one crop of each image: images must differ, not crops of one image."""
    first = embeddings.detach()
    sums["mean"] += first.sum(0)
    sums["moment"] += first.T @ first


@torch.no_grad()
def add_codes(sums: Sums, scores: Tensor, codes: Tensor) -> None:
    """Take in scores (A, B, K) of the coded crops and their codes (A, B, K), rows summing to 1."""
    nearest = scores.argmax(-1)
    sums["code_entropy"] += torch.special.entr(codes).sum(-1).mean()
    sums["agreement"] += (nearest[0] == nearest[-1]).sum()
    chosen = nearest.flatten()
    sums["nearest"].index_add_(0, chosen, torch.ones_like(chosen, dtype=torch.float32))


def embedding_figures(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Spread and effective rank of the embeddings.

    Args:
        sums: Over all processes, float64 on the CPU, "images" among them.

    Returns:
        - embedding_std: spread of the unit embeddings over images: 1 = no direction in common, 0 = all the same;
        - rank: effective rank of the embeddings in [1, D], exp of the entropy of the normalised singular values of
          the centred embeddings (Roy & Vetterli 2007).

        NaN where the run gave NaN.
    """
    mean = sums["mean"] / sums["images"].item()
    covariance = sums["moment"] / sums["images"].item() - torch.outer(mean, mean)
    spread = covariance.trace().clamp(min=0).sqrt().item()
    return {"embedding_std": spread, "rank": _effective_rank(covariance)}


def code_figures(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """How codes and prototypes are used.

    Args:
        sums: Over all processes, float64 on the CPU, "images" and "steps" among them.

    Returns:
        - code_entropy: mean entropy of a code / ln K, in [0, 1] (1 = uniform codes);
        - prototypes_in_use: share of prototypes that are the nearest of some image, in [0, 1], of those that could
          be (no more than there were crops);
        - largest_prototype: share of images nearest to the commonest prototype, in [0, 1];
        - agreement: share of images whose first and last coded crop have the same nearest prototype, in [0, 1].
    """
    nearest = sums["nearest"]
    crops = nearest.sum().item()
    return {
        "code_entropy": sums["code_entropy"].item() / sums["steps"].item() / math.log(len(nearest)),
        "prototypes_in_use": (nearest > 0).sum().item() / min(len(nearest), crops),
        "largest_prototype": nearest.max().item() / crops,
        "agreement": sums["agreement"].item() / sums["images"].item(),
    }


def _effective_rank(covariance: Tensor) -> float:
    """Exp of the entropy of the normalised square roots of the eigenvalues of a (D, D) covariance."""
    if not torch.isfinite(covariance).all():
        return float("nan")
    singular = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    # Below the float32 rounding of the sums there is no spread, only noise.
    singular = torch.where(singular > 1e-3, singular, 0.0)
    if singular.sum() == 0:
        return 1.0
    return torch.special.entr(singular / singular.sum()).sum().exp().item()


def find_collapse(
    figures: Mapping[str, float],
    advice: Mapping[str, str],
    *,
    embedding_dim: int,
    num_prototypes: int | None = None,
    low_spread: float = LOW_SPREAD,
) -> Collapse | None:
    """Recognise a collapsed epoch.

    Args:
        figures: Numbers of the epoch: those of `embedding_figures` and, with prototypes, of `code_figures`.
        advice: Kind of collapse -> what to change, best first.
        embedding_dim: D.
        num_prototypes: K; None where the method has no prototypes.
        low_spread: Spread of the embeddings below which they count as one point.

    Returns:
        The collapse, or None when the epoch looks healthy.
    """
    kind, evidence = "", ""
    undefined = [name for name, value in figures.items() if not math.isfinite(value)]
    if undefined:
        kind, evidence = "not finite", f"{', '.join(undefined)} is NaN or infinite"
    elif figures["rank"] < LOW_RANK or figures["embedding_std"] < low_spread:
        kind = "low rank"
        evidence = (
            f"embeddings of effective rank {figures['rank']:.2f} of {embedding_dim} and spread "
            f"{figures['embedding_std']:.2f}: all images lie on a line or in a point"
        )
    elif num_prototypes is not None and figures["code_entropy"] > UNIFORM_CODES:
        kind = "uniform codes"
        evidence = f"code entropy {figures['code_entropy']:.3f} of ln {num_prototypes}: every image has the same code"
    elif num_prototypes is not None and figures["largest_prototype"] > ONE_PROTOTYPE:
        kind = "one prototype"
        evidence = f"{figures['largest_prototype']:.0%} of the images are nearest to one prototype"
    return Collapse(kind, evidence, advice[kind]) if kind else None


def defined(value: float) -> float | None:
    """The value as JSON can hold it: None where it is NaN or infinite."""
    return value if math.isfinite(value) else None
