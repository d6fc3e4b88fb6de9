"""Distillation losses that are squared differences of probabilities: bounded, whatever the teacher says.

Shapes as in ``cxr_distill.losses.logits``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr_distill.losses.base import Given, Loss, Outputs
from cxr_distill.losses.precision import in_float32
from cxr_distill.losses.task import mean_known


@in_float32
def sigmoid_mse(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, known: Tensor | None = None) -> Tensor:
    """Squared difference of the labels' probabilities.

        loss = mean over known (i, k) of  (σ(z_s,ik / T) - σ(z_t,ik / T))²

    The distillation term of Termritthikun et al. 2023, "Explainable knowledge distillation for on-device
    chest X-ray classification" (mean squared error beside a focal loss on the labels), with T = 1.

    Args:
        student: z_s, (B, L).
        teacher: z_t, (B, L).
        temperature: T.
        known: (B, L).

    Returns:
        Scalar in [0, 1].
    """
    difference = torch.sigmoid(student / temperature) - torch.sigmoid(teacher.detach() / temperature)
    return mean_known(difference**2, known)


@dataclass(frozen=True, kw_only=True)
class SigmoidMSE(Loss):
    """Squared difference of label probabilities. To repeat Termritthikun et al. 2023, beside a focal loss on labels."""

    name = "sigmoid_mse"
    tasks = ("multilabel",)
    instead = "softmax_mse"

    temperature: float = 1.0

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`sigmoid_mse` of the logits."""
        return sigmoid_mse(student.logits, teacher.logits, temperature=self.temperature, known=given.known)


@in_float32
def softmax_mse(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, known: Tensor | None = None) -> Tensor:
    """Squared difference of the class probabilities: `sigmoid_mse` for one class an image.

        loss = mean over images i and classes k of  (softmax(z_s,i / T)_k - softmax(z_t,i / T)_k)²

    Args:
        student: z_s, (B, L).
        teacher: z_t, (B, L).
        temperature: T.
        known: (B,).

    Returns:
        Scalar in [0, 2 / L].
    """
    p_t = F.softmax(teacher.detach() / temperature, dim=1)
    return mean_known(((F.softmax(student / temperature, dim=1) - p_t) ** 2).mean(dim=1), known)


@dataclass(frozen=True, kw_only=True)
class SoftmaxMSE(Loss):
    """Squared difference of class probabilities. Bounded, for a teacher that is sometimes sure and wrong."""

    name = "softmax_mse"
    tasks = ("multiclass",)
    instead = "sigmoid_mse"

    temperature: float = 1.0

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`softmax_mse` of the logits."""
        return softmax_mse(student.logits, teacher.logits, temperature=self.temperature, known=given.known_images)
