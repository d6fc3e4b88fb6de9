"""Losses on labels and on a teacher.

`LOSSES` is the list of distillation losses, `TASK_LOSSES` that of losses on labels: adding one is a function
in the module of its kind, a line here and a test. The formulas are plain functions of tensors; the line
binds one to what the networks give out.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cxr_common.models.structure import STAGES
from cxr_data.errors import BadInput, unknown_name
from cxr_distill.losses import features, logits, relations, task
from cxr_distill.losses.adapters import fold_classifier
from cxr_distill.losses.base import (
    FEATURES,
    Channels,
    Loss,
    Outputs,
    Setting,
    bound_cam,
    bound_crd,
    bound_reviewkd,
    embedding_pair,
    on_feature,
    on_label_embeddings,
    on_logits,
    on_logits_and_targets,
    on_stages,
    regressor,
    review_fusion,
)

__all__ = [
    "LOSSES",
    "STAGES",
    "TASK_LOSSES",
    "Loss",
    "Outputs",
    "build_adapters",
    "check_parts",
    "each_loss",
    "fold_classifier",
    "recommended",
    "task_loss",
    "weighted_sum",
]

TASK_LOSSES: dict[str, dict[str, Callable[..., Tensor]]] = {
    "multiclass": {
        "cross_entropy": task.cross_entropy,
        "focal": task.focal_softmax,
    },
    "multilabel": {
        "binary_cross_entropy": task.binary_cross_entropy,
        "focal": task.focal,
        "asymmetric": task.asymmetric,
    },
}
"""Losses on labels by task; the first is the usual one."""


def _softmax(
    formula: Callable[..., Tensor],
    *,
    weight: float,
    temperature: float,
    task_weight: float = 1.0,
    instead: str = "multilabel_kd",
    least: int = 1,
) -> Loss:
    bound = on_logits(formula, task.known_rows)
    return Loss(
        formula, bound, ("logits",), weight, ("multiclass",), task_weight, temperature, instead=instead, least=least
    )


def _sigmoid(formula: Callable[..., Tensor], *, weight: float, temperature: float, instead: str) -> Loss:
    bound = on_logits(formula, task.known_labels)
    return Loss(formula, bound, ("logits",), weight, ("multilabel",), 1.0, temperature, instead=instead)


# Weights are those in use with the method. None could be read for kd_plain, which has Hinton's, nor for
# sigmoid_mse, softmax_mse and cam, which have 1. Those of rkd and led are split over their terms (`options`).
# multilabel_kd is published with 10 beside labels that are summed; beside ours, a mean, that drowned them and was worse
# on validation images than 1 (docs/results/methods-phantom.md).
LOSSES: dict[str, Loss] = {
    "kd": _softmax(logits.kd, weight=0.9, task_weight=0.1, temperature=4.0),
    "kd_plain": _softmax(logits.kd_plain, weight=0.9, task_weight=0.1, temperature=4.0),
    # Two standardised logits are +1 and -1, and two probabilities correlate by +1 or -1, whatever the networks say.
    "kd_standardised": _softmax(partial(logits.kd, standardise=True), weight=9.0, temperature=2.0, least=3),
    "dist": _softmax(logits.dist, weight=1.0, temperature=1.0, least=3),
    "softmax_mse": _softmax(logits.softmax_mse, weight=1.0, temperature=1.0, instead="sigmoid_mse"),
    "dkd": Loss(
        logits.dkd, on_logits_and_targets(logits.dkd), ("logits",), 1.0, ("multiclass",), temperature=4.0,
        instead="multilabel_kd",
    ),
    "multilabel_kd": _sigmoid(logits.multilabel_kd, weight=1.0, temperature=1.0, instead="kd"),
    "sigmoid_mse": _sigmoid(logits.sigmoid_mse, weight=1.0, temperature=1.0, instead="softmax_mse"),
    "fitnets": Loss(
        features.fitnets, on_feature(features.fitnets), ("stage",), 100.0, make_adapter=regressor()
    ),
    "attention_transfer": Loss(
        features.attention_transfer, on_stages(features.attention_transfer), STAGES, 1000.0
    ),
    "cam": Loss(features.cam, bound_cam, ("stage4", "classifier"), 1.0),
    "simkd": Loss(
        features.simkd, on_feature(features.simkd, "pooled"), ("pooled",), 1.0, task_weight=0.0,
        make_adapter=regressor("pooled"),
    ),
    "reviewkd": Loss(features.reviewkd, bound_reviewkd, STAGES, 1.0, make_adapter=review_fusion),
    "crd": Loss(features.crd, bound_crd, ("pooled",), 0.8, make_adapter=embedding_pair),
    "rkd": Loss(relations.rkd, on_feature(relations.rkd, "pooled"), ("pooled",), 1.0),
    "pkt": Loss(relations.pkt, on_feature(relations.pkt, "pooled"), ("pooled",), 30000.0),
    "sp": Loss(relations.sp, on_feature(relations.sp, "stage4"), ("stage4",), 3000.0),
    "led": Loss(
        relations.led, on_label_embeddings(relations.led), ("pooled", "classifier"), 1.0, ("multilabel",)
    ),
}  # fmt: skip
"""Every distillation loss by name."""


def recommended(task: str, labels: int) -> dict[str, float]:
    """The distillation losses to take for a task when none are asked for.

    They come at their usual weights, beside labels at the usual ``task_weight``. Of those measured they were the best
    on validation images (docs/choosing.md). Between two classes there is no likeness of the others for dkd to teach.

    Args:
        task: "multiclass" or "multilabel".
        labels: Number of labels.

    Returns:
        Weight by the name of the loss.

    Raises:
        BadInput: No such task.
    """
    if task not in TASK_LOSSES:
        raise unknown_name("task", task, TASK_LOSSES)
    name = "multilabel_kd" if task == "multilabel" else "dkd" if labels > 2 else "kd"
    return {name: LOSSES[name].weight}


def task_loss(task: str, name: str = "auto") -> Callable[..., Tensor]:
    """Look up a loss on labels.

    Args:
        task: "multiclass" or "multilabel".
        name: A name in `TASK_LOSSES` of that task; "auto" is cross_entropy or binary_cross_entropy.

    Returns:
        A function of logits (B, L) and targets (B, L) with NaN where unknown, and of keywords of its own,
        that returns a float32 scalar.

    Raises:
        BadInput: No such task or loss.
    """
    if task not in TASK_LOSSES:
        raise unknown_name("task", task, TASK_LOSSES)
    known = TASK_LOSSES[task]
    if name == "auto":
        return next(iter(known.values()))
    if name in known:
        return known[name]
    other = [key for key, losses in TASK_LOSSES.items() if name in losses]
    if other:
        raise BadInput(
            f"a loss for a {task} task",
            f"{name!r}, one for a {other[0]} task",
            do=f"choose one of {', '.join(known)}",
        )
    raise unknown_name(f"loss for a {task} task", name, known)


def check_parts(
    parts: Mapping[str, float],
    task: str,
    options: Mapping[str, Mapping[str, float]] | None = None,
    labels: int | None = None,
) -> None:
    """Refuse a combination of distillation losses that cannot work.

    Args:
        parts: Weight of each loss.
        task: "multiclass" or "multilabel".
        options: Keywords for the losses, by loss.
        labels: How many labels there are, where that is known.

    Raises:
        BadInput: An unknown loss or option, one that does not suit the task or so few labels, or a weight below 0 or
            not finite.
    """
    if task not in TASK_LOSSES:
        raise unknown_name("task", task, TASK_LOSSES)
    for name, weight in parts.items():
        if name not in LOSSES:
            raise unknown_name("distillation loss", name, LOSSES)
        loss = LOSSES[name]
        if task not in loss.tasks:
            suited = [known for known, other in LOSSES.items() if task in other.tasks]
            raise BadInput(
                f"a distillation loss for a {task} task",
                f"{name!r}, which is for a {' or '.join(loss.tasks)} task",
                do=f"use {loss.instead}" if loss.instead else f"choose one of {', '.join(suited)}",
            )
        if labels is not None and labels < loss.least:
            raise BadInput(
                f"at least {loss.least} labels for {name!r}, which compares the labels of an image with one another",
                str(labels),
                do="use kd",
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise BadInput("a weight of 0 or more", repr(weight), where=f"distillation loss {name}")
    for name, keywords in (options or {}).items():
        if name not in parts:
            raise unknown_name("distillation loss in use", name, parts)
        for keyword in keywords:
            if keyword not in LOSSES[name].options:
                raise unknown_name(f"option of the loss {name}", keyword, LOSSES[name].options)


def build_adapters(
    parts: Mapping[str, float], student_channels: Channels, teacher_channels: Channels, stage: str
) -> nn.ModuleDict:
    """Build the modules the losses put between student and teacher.

    They are trained with the student and never stored with it.

    Args:
        parts: Weight of each loss.
        student_channels: Channels of the student's features by name ("stage1" ... "stage4", "pooled").
        teacher_channels: The same of the teacher.
        stage: Features chosen for `fitnets`: one of `STAGES` or "pooled".

    Returns:
        Adapters by loss name; empty where no loss wants one. Weights are drawn from torch's generator.

    Raises:
        BadInput: An unknown loss or stage, or a network without the features.
    """
    if stage not in FEATURES:
        raise unknown_name("stage", stage, FEATURES)
    for name in parts:
        if name not in LOSSES:
            raise unknown_name("distillation loss", name, LOSSES)
    return nn.ModuleDict(
        {
            name: make(student_channels, teacher_channels, stage)
            for name in parts
            if (make := LOSSES[name].make_adapter) is not None
        }
    )


def weighted_sum(
    parts: Mapping[str, float], student: Outputs, teacher: Outputs, targets: Tensor, *, task: str, **settings: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum distillation losses.

        total = Σ over losses of  weight · loss(student, teacher)

    Args:
        parts: Weight of each loss, by its name in `LOSSES`.
        student: Outputs for B images.
        teacher: Outputs for the same views, labels in the same order. It gets no gradient.
        targets: (B, L) in [0, 1], NaN where unknown.
        task: "multiclass" or "multilabel".
        **settings: Of `each_loss`.

    Returns:
        The total, a float32 scalar, and each loss before its weight, without gradient.

    Raises:
        BadInput: As `each_loss`.
    """
    values = each_loss(parts, student, teacher, targets, task=task, **settings)
    total = student.logits.new_zeros((), dtype=torch.float32)
    for name, value in values.items():
        total = total + parts[name] * value
    return total, {name: value.detach() for name, value in values.items()}


def each_loss(
    parts: Mapping[str, float],
    student: Outputs,
    teacher: Outputs,
    targets: Tensor,
    *,
    task: str,
    temperature: float | None = None,
    stage: str = "stage4",
    adapters: nn.ModuleDict | None = None,
    use_unlabelled: bool = False,
    options: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Tensor]:
    """Compute distillation losses one by one.

    Args:
        parts: Weight of each loss, by its name in `LOSSES`.
        student: Outputs for B images.
        teacher: Outputs for the same views, labels in the same order. It gets no gradient.
        targets: (B, L) in [0, 1], NaN where unknown.
        task: "multiclass" or "multilabel".
        temperature: T > 0 of the logit losses; each loss's usual one when None.
        stage: Features chosen for `fitnets`: one of `STAGES` or "pooled".
        adapters: What `build_adapters` made for these parts.
        use_unlabelled: Whether the teacher's answer is also learnt where the label is unknown; losses on
            features and relations without labels in their formula always use every image.
        options: Keywords of the formulas, by loss, e.g. {"dkd": {"beta": 2.0}}.

    Returns:
        Each loss before its weight, a float32 scalar with its gradient, by name.

    Raises:
        BadInput: As `check_parts`, or features a loss needs are not there.
    """
    check_parts(parts, task, options)
    values: dict[str, Tensor] = {}
    for name in parts:
        loss = LOSSES[name]
        adapter = adapters[name] if adapters is not None and name in adapters else None
        if loss.make_adapter is not None and adapter is None:
            raise ValueError(f"the loss {name} wants its adapter: pass build_adapters(parts, ...) as adapters")
        own = loss.temperature if temperature is None else temperature
        setting = Setting(own if own is not None else 1.0, stage, adapter, use_unlabelled)
        values[name] = loss.function(student, teacher, targets, setting, **(options or {}).get(name, {}))
    return values
