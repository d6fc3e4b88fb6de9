"""Losses on labels and on a teacher.

`LOSSES` lists the distillation losses, `TASK_LOSSES` the losses on labels. Every formula is a plain function of
tensors; a distillation loss is a frozen dataclass of its hyperparameters that reads what the networks give out:

>>> import torch
>>> from cxr_distill.losses import DKD, Outputs
>>> student, teacher = Outputs(torch.randn(8, 3)), Outputs(torch.randn(8, 3))
>>> targets = torch.eye(3)[torch.randint(0, 3, (8,))]
>>> DKD(beta=4)(student, teacher, targets).shape
torch.Size([])

To add one: its class (and formula) in the module of its kind, a line in `LOSSES`, a test. One of your own needs
neither: ``--loss my_package.my_module:MyLoss=1``, or an object passed to `cxr_distill.distill`.
"""

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from cxr_common.models.structure import LEVELS
from cxr_data.errors import BadInput, require_known, unknown_name
from cxr_distill.losses import task
from cxr_distill.losses.base import FEATURES, AnsweringAdapter, Given, Interface, Loss, Outputs
from cxr_distill.losses.features import CAM, CRD, AttentionTransfer, FitNets, PooledCosine, ReviewKD, SimKD
from cxr_distill.losses.logits import DIST, DKD, KD, MultilabelKD, PlainKD, StandardisedKD
from cxr_distill.losses.processes import WholeBatch
from cxr_distill.losses.relations import LED, PKT, RKD, SP
from cxr_distill.losses.squared import SigmoidMSE, SoftmaxMSE

__all__ = [
    "CAM",
    "CRD",
    "DIST",
    "DKD",
    "FEATURES",
    "KD",
    "LED",
    "LEVELS",
    "LOSSES",
    "PKT",
    "RKD",
    "SP",
    "TASK_LOSSES",
    "AnsweringAdapter",
    "AttentionTransfer",
    "FitNets",
    "Given",
    "Interface",
    "Loss",
    "MultilabelKD",
    "Outputs",
    "PlainKD",
    "PooledCosine",
    "ReviewKD",
    "SigmoidMSE",
    "SimKD",
    "SoftmaxMSE",
    "StandardisedKD",
    "build_adapters",
    "build_losses",
    "check_losses",
    "each_loss",
    "loss_settings",
    "recommended",
    "task_loss",
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

LOSSES: dict[str, type[Loss]] = {
    kind.name: kind
    for kind in (
        *(KD, PlainKD, StandardisedKD, DKD, DIST, SoftmaxMSE, MultilabelKD, SigmoidMSE),
        *(PooledCosine, FitNets, AttentionTransfer, CAM, SimKD, ReviewKD, CRD),
        *(RKD, PKT, SP, LED),
    )
}
"""Every distillation loss by name. Weights are those in use with the method; where none was published, 1."""


def recommended(task: str, labels: int) -> dict[Loss, float]:
    """The distillation losses to take for a task when none are asked for.

    They come at their usual weights, beside labels at the usual ``task_weight``. Of those measured they were the best
    on validation images (docs/choosing.md). Between two classes dkd has no other classes to teach about.

    Args:
        task: "multiclass" or "multilabel".
        labels: Number of labels.

    Returns:
        Weight by loss.

    Raises:
        BadInput: No such task.
    """
    require_known("task", task, TASK_LOSSES)
    loss = MultilabelKD() if task == "multilabel" else DKD() if labels > 2 else KD()
    return {loss: loss.weight}


def build_losses(settings: Mapping[str, Any]) -> dict[Loss, float]:
    """Build losses from what a command line or a config says.

    Args:
        settings: Weights and hyperparameters by name, e.g. {"dkd": 1.0, "dkd.beta": 4}; a loss of which only a
            hyperparameter is given has its usual weight. "my_package.my_module:MyLoss" is a loss from elsewhere.

    Returns:
        Weight by loss, in the order in which they are named.

    Raises:
        BadInput: An unknown loss or hyperparameter, or a value out of range.
    """
    named: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        place, colon, rest = key.rpartition(":")
        name, _, option = rest.partition(".")
        named.setdefault(place + colon + name, {})[option] = value
    losses: dict[Loss, float] = {}
    for name, given in named.items():
        kind = _from_elsewhere(name) if ":" in name else LOSSES.get(name)
        if kind is None:
            raise unknown_name("distillation loss", name, LOSSES)
        options = {field.name: field for field in dataclasses.fields(kind)}
        for option in given.keys() - {""}:
            require_known(f"hyperparameter of the loss {name}", option, options)
        values = {key: _typed(value, options[key], f"--loss {name}.{key}") for key, value in given.items() if key}
        loss = kind(**values)
        losses[loss] = _number(given.get("", loss.weight), f"--loss {name}")
    return losses


def loss_settings(losses: Mapping[Loss, float]) -> dict[str, Any]:
    """The settings from which `build_losses` builds these very losses: weights and all hyperparameters."""
    settings: dict[str, Any] = {}
    for loss, weight in losses.items():
        kind = type(loss)
        name = loss.name if LOSSES.get(loss.name) is kind else f"{kind.__module__}:{kind.__qualname__}"
        settings[name] = weight
        values = {f"{name}.{key}": value for key, value in dataclasses.asdict(loss).items()}
        settings |= {key: value for key, value in values.items() if value is not None}
    return settings


def check_losses(losses: Mapping[Loss, float], task: str, labels: int | None = None) -> None:
    """Refuse a combination of distillation losses that cannot work.

    Args:
        losses: Weight by loss.
        task: "multiclass" or "multilabel".
        labels: How many labels there are, where that is known.

    Raises:
        BadInput: A loss that does not suit the task or so few labels, two of one name, or a weight below 0 or not
            finite.
    """
    require_known("task", task, TASK_LOSSES)
    names = [loss.name for loss in losses]
    for loss, weight in losses.items():
        if task not in loss.tasks:
            suited = [name for name, other in LOSSES.items() if task in other.tasks]
            raise BadInput(
                f"a distillation loss for a {task} task",
                f"{loss.name!r}, which is for a {' or '.join(loss.tasks)} task",
                do=f"use {loss.instead}" if loss.instead else f"choose one of {', '.join(suited)}",
            )
        if labels is not None and labels < loss.least_labels:
            raise BadInput(
                f"at least {loss.least_labels} labels for {loss.name!r}, which compares the labels of an image with "
                "one another",
                str(labels),
                do="use kd",
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise BadInput("a weight of 0 or more", repr(weight), where=f"distillation loss {loss.name}")
        if names.count(loss.name) > 1:
            raise BadInput("every distillation loss once", f"{loss.name!r} twice", do="give one of them another name")


def build_adapters(losses: Mapping[Loss, float], student: Interface, teacher: Interface) -> nn.ModuleDict:
    """Build the modules that the losses put between student and teacher.

    They are trained with the student and never stored with it.

    Args:
        losses: Weight by loss.
        student: Sizes of the student's outputs.
        teacher: Sizes of the teacher's outputs.

    Returns:
        Adapters by name of the loss; empty where no loss needs one. Weights are drawn from torch's generator.

    Raises:
        BadInput: A network without the features.
    """
    built = {loss.name: loss.adapter(student, teacher) for loss in losses}
    return nn.ModuleDict({name: adapter for name, adapter in built.items() if adapter is not None})


def each_loss(
    losses: Mapping[Loss, float],
    student: Outputs,
    teacher: Outputs,
    targets: Tensor,
    *,
    adapters: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
    use_unlabelled: bool = True,
) -> dict[str, Tensor]:
    """Compute distillation losses one by one.

    With several processes, a loss that compares images with each other or leaves out unknown labels is computed on
    the batch of all processes, so that a step means the same however many share it.

    Args:
        losses: Weight by loss.
        student: Outputs for B images.
        teacher: Outputs for the same augmented images, labels in the same order. It gets no gradient.
        targets: (B, L) in [0, 1], NaN where unknown.
        adapters: What `build_adapters` built for these losses.
        use_unlabelled: Whether the teacher's answer is also learnt where the label is unknown; losses on features
            and relations without labels in their formula use every image anyway.

    Returns:
        Each loss before its weight, a float32 scalar with its gradient, by name.

    Raises:
        BadInput: Features that a loss needs are not there.
    """
    whole = WholeBatch(student, teacher, targets)
    values: dict[str, Tensor] = {}
    for loss in losses:
        adapter = adapters[loss.name] if adapters is not None and loss.name in adapters else None
        own, its, wanted = student, teacher, targets
        if loss.compares_images or not loss.features or not use_unlabelled:
            own, its, wanted = whole.outputs(loss.features)
        known = None if use_unlabelled else task.known_labels(wanted)
        values[loss.name] = loss(own, its, wanted, known=known, adapter=adapter)
    return values


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
    require_known("task", task, TASK_LOSSES)
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


def _from_elsewhere(name: str) -> type[Loss]:
    """The class that "package.module:Class" names."""
    place, _, attribute = name.partition(":")
    wanted = f"a subclass of cxr_distill.losses.Loss at {name!r}"
    try:
        candidate = getattr(importlib.import_module(place), attribute)
    except (ImportError, AttributeError) as error:
        raise BadInput(wanted, str(error), where="--loss", do="check that Python can import it") from error
    if not (isinstance(candidate, type) and issubclass(candidate, Loss)):
        raise BadInput(wanted, repr(candidate), where="--loss")
    return candidate


def _typed(value: Any, field: dataclasses.Field[Any], where: str) -> Any:
    """A value from a command line as the field's type."""
    kind = type(field.default)
    if kind is bool or (field.default is None and isinstance(value, bool)):
        if not isinstance(value, bool):
            raise BadInput("true or false", repr(value), where=where)
        return value
    if kind is str or field.default is None:
        return value
    number = _number(value, where)
    if kind is int and number != int(number):
        raise BadInput("a whole number", repr(value), where=where)
    return kind(number)


def _number(value: Any, where: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise BadInput("a number", repr(value), where=where) from None
    if not (math.isfinite(number) and number >= 0):
        raise BadInput("a number of 0 or more", repr(value), where=where)
    return number
