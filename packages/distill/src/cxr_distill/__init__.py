"""Classifiers: fine-tuned on labels alone, or distilled from a teacher.

Every loss is a function of tensors; a sum of several, as ``--loss`` names them:

>>> import torch
>>> from cxr_distill.losses import Outputs, weighted_sum
>>> from cxr_distill.losses.logits import multilabel_kd
>>> taught = Outputs(torch.randn(8, 5))  # the teacher's logits of 8 images, 5 labels
>>> student = Outputs(torch.randn(8, 5, requires_grad=True))
>>> targets = torch.randint(0, 2, (8, 5)).float()
>>> targets[0, 3] = float("nan")  # a label nobody knows
>>> weights = {"multilabel_kd": 1.0, "sigmoid_mse": 1.0}
>>> total, parts = weighted_sum(weights, student, taught, targets, task="multilabel")
>>> total.backward()
>>> sorted(parts), bool(student.logits.grad[0, 3] == 0)  # of what is unknown nothing is learnt
(['multilabel_kd', 'sigmoid_mse'], True)
>>> float(multilabel_kd(taught.logits, taught.logits))  # at its least when the student equals the teacher
0.0
"""
