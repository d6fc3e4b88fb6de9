"""Classifiers: fine-tuned on labels alone, or distilled from teachers.

`distill` trains any student module on any teacher module; `losses` holds all losses.

Every loss is an object with hyperparameters that compares the outputs of two networks:

>>> import torch
>>> from cxr_distill.losses import MultilabelKD, Outputs, SigmoidMSE, each_loss
>>> teacher = Outputs(torch.randn(8, 5))  # logits of 8 images, 5 labels
>>> student = Outputs(torch.randn(8, 5, requires_grad=True))
>>> targets = torch.randint(0, 2, (8, 5)).float()
>>> targets[0, 3] = float("nan")  # an unknown label
>>> losses = {MultilabelKD(temperature=2): 1.0, SigmoidMSE(): 1.0}
>>> values = each_loss(losses, student, teacher, targets, use_unlabelled=False)
>>> sum(weight * values[loss.name] for loss, weight in losses.items()).backward()
>>> sorted(values), bool(student.logits.grad[0, 3] == 0)  # nothing is learnt of an unknown label
(['multilabel_kd', 'sigmoid_mse'], True)
"""

from typing import TYPE_CHECKING

from cxr_data.lazy import importing

if TYPE_CHECKING:
    from cxr_distill import losses
    from cxr_distill.library import distill

__all__ = ["distill", "losses"]

__getattr__ = importing(__name__, {"distill": "library", "losses": "losses"})
