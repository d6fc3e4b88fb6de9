"""Is the run learning, or has it collapsed? Numbers of an epoch, and what they mean.

SwAV's loss cannot tell: a healthy run on radiographs may show loss / ln K of 1.00-1.05 while it learns, and a
collapsed one shows 1.000 for ever. Codes, prototypes and rank can.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

UNIFORM_CODES = 0.98
"""Code entropy / ln K above which codes are called uniform."""
ONE_PROTOTYPE = 0.5
"""Share of images nearest to one single prototype above which that prototype has taken over."""
LOW_RANK = 2.0
"""Effective rank below which embeddings lie on a line."""
LOW_SPREAD = 0.1
"""Spread of the embeddings below which they all but coincide."""


class Monitor:
    """Sums over the steps of an epoch from which its health is computed.

    Nothing leaves the device before the end of the epoch.

    Attributes:
        sums: Name -> tensor; adding them up over processes gives the sums of the whole run.
    """

    def __init__(self, num_prototypes: int, embedding_dim: int, device: torch.device | str = "cpu"):
        """Start at zero.

        Args:
            num_prototypes: K.
            embedding_dim: D.
            device: Where the sums live.
        """
        self.sums = {
            "steps": torch.zeros((), device=device),
            "images": torch.zeros((), device=device),
            "loss": torch.zeros((), device=device),
            "code_entropy": torch.zeros((), device=device),
            "agreement": torch.zeros((), device=device),
            "nearest": torch.zeros(num_prototypes, device=device),
            "mean": torch.zeros(embedding_dim, device=device),
            "moment": torch.zeros(embedding_dim, embedding_dim, device=device),
        }

    @torch.no_grad()
    def update(self, loss: Tensor, embeddings: Tensor, scores: Tensor, codes: Tensor) -> None:
        """Take in one step.

        Args:
            loss: Scalar.
            embeddings: (A, B, D) of the coded views.
            scores: (A, B, K) of the coded views.
            codes: (A, B, K).
        """
        nearest = scores.argmax(-1)
        first = embeddings[0].detach()  # one view: images must differ, not the two views of one image
        self.sums["steps"] += 1
        self.sums["images"] += nearest.shape[1]
        self.sums["loss"] += loss.detach()
        self.sums["code_entropy"] += torch.special.entr(codes).sum(-1).mean()
        self.sums["agreement"] += (nearest[0] == nearest[-1]).sum()
        chosen = nearest.flatten()
        self.sums["nearest"].index_add_(0, chosen, torch.ones_like(chosen, dtype=torch.float32))
        self.sums["mean"] += first.sum(0)
        self.sums["moment"] += first.T @ first

    def numbers(self, reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> dict[str, float]:
        """Health of the steps taken in.

        Args:
            reduce: Adds a tensor up over all processes.

        Returns:
            - loss, and loss_ratio = loss / ln K (1 = predicting nothing);
            - code_entropy: mean entropy of a code / ln K, in [0, 1] (1 = uniform codes);
            - prototypes_in_use: share of prototypes that are the nearest of some image, in [0, 1], of those
              that could be (no more than there were views);
            - largest_prototype: share of images nearest to the commonest prototype, in [0, 1];
            - agreement: share of images whose first and last coded view have the same nearest prototype, in
              [0, 1];
            - embedding_std: spread of the unit embeddings over images: 1 = no direction in common, 0 = all
              the same;
            - rank: effective rank of the embeddings in [1, D], exp of the entropy of the normalised singular
              values of the centred embeddings (Roy & Vetterli 2007).

            NaN where the run gave NaN.
        """
        sums = {name: reduce(tensor).cpu().double() for name, tensor in self.sums.items()}
        ln_k = math.log(len(sums["nearest"]))
        images, steps, views = sums["images"].item(), sums["steps"].item(), sums["nearest"].sum().item()
        mean = sums["mean"] / images
        covariance = sums["moment"] / images - torch.outer(mean, mean)
        return {
            "loss": sums["loss"].item() / steps,
            "loss_ratio": sums["loss"].item() / steps / ln_k,
            "code_entropy": sums["code_entropy"].item() / steps / ln_k,
            "prototypes_in_use": (sums["nearest"] > 0).sum().item() / min(len(sums["nearest"]), views),
            "largest_prototype": sums["nearest"].max().item() / views,
            "agreement": sums["agreement"].item() / images,
            "embedding_std": covariance.trace().clamp(min=0).sqrt().item(),
            "rank": _effective_rank(covariance),
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


@dataclass(frozen=True)
class Collapse:
    """One way in which a run has gone wrong.

    Attributes:
        kind: "not finite", "uniform codes", "one prototype" or "low rank".
        found: The number that shows it.
        remedy: What to change, best first.
    """

    kind: str
    found: str
    remedy: str


def diagnose(numbers: Mapping[str, float], *, num_prototypes: int, embedding_dim: int) -> Collapse | None:
    """Recognise a collapsed epoch.

    Args:
        numbers: What `Monitor.numbers` returned.
        num_prototypes: K.
        embedding_dim: D.

    Returns:
        The collapse, or None when the epoch looks healthy.
    """
    undefined = [name for name, value in numbers.items() if not math.isfinite(value)]
    if undefined:
        return Collapse(
            "not finite",
            f"{', '.join(undefined)} is NaN or infinite",
            "a lower --lr (a third), or --precision fp32",
        )
    if numbers["rank"] < LOW_RANK or numbers["embedding_std"] < LOW_SPREAD:
        return Collapse(
            "low rank",
            f"embeddings of effective rank {numbers['rank']:.2f} of {embedding_dim} and spread "
            f"{numbers['embedding_std']:.2f}: all images lie on a line or in a point",
            "a lower --lr, a longer --freeze, softer crops (larger --crops.global_scale)",
        )
    if numbers["code_entropy"] > UNIFORM_CODES:
        several = num_prototypes <= 2 * embedding_dim
        first = f"more --prototypes than {num_prototypes} for an --embedding of {embedding_dim} (at least four times), "
        return Collapse(
            "uniform codes",
            f"code entropy {numbers['code_entropy']:.3f} of ln {num_prototypes}: every image has the same code",
            (first if several else "") + "a longer --freeze, --epsilon 0.03, a smaller or no --queue, softer crops",
        )
    if numbers["largest_prototype"] > ONE_PROTOTYPE:
        return Collapse(
            "one prototype",
            f"{numbers['largest_prototype']:.0%} of the images are nearest to one prototype",
            "a longer --freeze, a lower --lr, fewer --prototypes",
        )
    return None


def defined(value: float) -> float | None:
    """The value as JSON can hold it: None where it is NaN or infinite."""
    return value if math.isfinite(value) else None
