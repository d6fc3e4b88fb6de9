"""Losses over the images of all processes of a training together."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from cxr_distill.losses.base import Outputs


def gather_batch(x: Tensor) -> Tensor:
    """The parts of a batch that all processes hold, one after the other, with the gradient of this process's part.

    A loss of the whole batch that every process computes alike has, on the part of process r, the gradient
    ∂loss/∂x_r, and the mean over processes that data-parallel training takes of the weights' gradients would be 1/P
    of what is due. The gradient of x is therefore multiplied by P; the value is not. No communication takes place in
    the backward pass.

    Args:
        x: (B / P, ...), of the same shape in every process.

    Returns:
        (B, ...); x itself where there is one process.
    """
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if processes == 1 or not x.numel():  # logits of a network without a classifier
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(processes)]
    dist.all_gather(parts, x.detach().contiguous())
    if x.requires_grad:
        parts[dist.get_rank()] = _ScaledGradient.apply(x, processes)  # type: ignore[assignment] - untyped
    return torch.cat(parts)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, factor: int) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def, override]
        return ctx.factor * gradient, None


class WholeBatch:
    """Outputs of student and teacher, and targets, for the batch of all processes; each is gathered once.

    Args:
        student: Outputs for this process's images.
        teacher: Outputs for the same images.
        targets: (B / P, L).
    """

    def __init__(self, student: Outputs, teacher: Outputs, targets: Tensor):
        self._local = {"student": student, "teacher": teacher}
        self._targets = targets
        self._gathered: dict[tuple[str, str], Tensor] = {}

    def outputs(self, features: Sequence[str]) -> tuple[Outputs, Outputs, Tensor]:
        """Outputs with these features, and targets (B, L); all processes must ask for the same, in one order.

        Args:
            features: Names of features; those that a network does not give are left out.
        """
        both = []
        for who, local in self._local.items():
            named = {name: self._once(who, name, local.features[name]) for name in features if name in local.features}
            both.append(Outputs(self._once(who, "logits", local.logits), named, local.classifier_weight))
        return both[0], both[1], self._once("both", "targets", self._targets)

    def _once(self, who: str, name: str, x: Tensor) -> Tensor:
        if (who, name) not in self._gathered:
            self._gathered[who, name] = gather_batch(x)
        return self._gathered[who, name]
