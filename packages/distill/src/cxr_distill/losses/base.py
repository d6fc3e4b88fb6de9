"""What all distillation losses have in common, and the outputs of networks that they read."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from cxr_common.models.structure import LEVELS
from cxr_data.errors import BadInput, unknown_name

FEATURES = (*LEVELS, "pooled")
"""Every feature of a network that a loss may read; "pooled" is what the classifier reads."""


class Outputs(NamedTuple):
    """Outputs of a network for a batch of B images.

    Attributes:
        logits: (B, L); L is 0 for a network without a classifier.
        features: Maps "level1" to "level4" (B, C, H, W) and the vector "pooled" (B, C) that the classifier reads;
            those that were asked for.
        classifier_weight: (L, C), where the network ends in a linear layer on the pooled features.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = {}
    classifier_weight: Tensor | None = None


class Interface(NamedTuple):
    """Sizes of a network's outputs, from which a loss builds its adapter.

    Attributes:
        channels: Channels of its features by name.
        classifier: Weight (L, C) and bias (L,) of its last linear layer; None where it has none.
    """

    channels: Mapping[str, int]
    classifier: tuple[Tensor, Tensor] | None = None

    def channels_of(self, name: str) -> int:
        """Channels of a feature.

        Raises:
            BadInput: The network has no such feature.
        """
        if name not in self.channels:
            raise BadInput(
                f"features {name!r} of student and teacher",
                f"a network that gives {', '.join(self.channels) or 'none'}",
                do="choose another feature, another loss or another network",
            )
        return self.channels[name]


class Given(NamedTuple):
    """What a loss may read beside the outputs of student and teacher.

    Attributes:
        targets: (B, L) in [0, 1], NaN where unknown.
        known: Bool (B, L), the labels for which the teacher's answer is learnt; None for all.
        adapter: What the loss's `Loss.adapter` built.
    """

    targets: Tensor
    known: Tensor | None = None
    adapter: nn.Module | None = None

    @property
    def known_images(self) -> Tensor | None:
        """Images of which all labels are known: bool (B,); None for all."""
        return None if self.known is None else self.known.all(dim=1)

    def required_adapter(self, loss: str) -> Any:
        """The adapter of a loss that cannot do without.

        Raises:
            ValueError: It is missing.
        """
        if self.adapter is None:
            raise ValueError(f"the loss {loss} needs its adapter: pass build_adapters(losses, ...) as adapters")
        return self.adapter


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """A distillation loss: its hyperparameters, and how it reads the outputs of student and teacher.

    A subclass is a frozen dataclass whose fields are the hyperparameters. It implements `compute`; where it reads
    features it names them in `reads`, and where student and teacher do not fit it builds an `adapter`.

    Attributes:
        name: Name in commands, configs and metrics.
        weight: Its usual weight, beside a task loss of weight ``task_weight``.
        task_weight: Weight of the task loss it is usually combined with.
        tasks: The tasks it suits.
        instead: Name of the loss that does the same for the other task.
        least_labels: Fewest labels with which it can teach anything.
        compares_images: Whether the value depends on which images share a batch. With several processes it is then
            computed on the batch of all of them.
        headless: Whether it reads features alone, so that an encoder without a classifier can teach it.
        reads: Features it reads of student and teacher, names in `FEATURES`; none where logits will do.
        teaches_answers: Whether the student learns to answer for labels that are unknown, although features are read.
    """

    name: ClassVar[str]
    weight: ClassVar[float] = 1.0
    task_weight: ClassVar[float] = 1.0
    tasks: ClassVar[tuple[str, ...]] = ("multiclass", "multilabel")
    instead: ClassVar[str | None] = None
    least_labels: ClassVar[int] = 1
    compares_images: ClassVar[bool] = False
    headless: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()
    teaches_answers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse hyperparameters out of range.

        Raises:
            BadInput: A number below 0 or not finite, a temperature of 0, or a feature no network has.
        """
        for field in dataclasses.fields(self):
            value, where = getattr(self, field.name), f"--loss {self.name}.{field.name}"
            if field.name == "feature" and value not in FEATURES:
                raise unknown_name("feature", str(value), FEATURES)
            if isinstance(value, float | int) and not (math.isfinite(value) and value >= 0):
                raise BadInput("a number of 0 or more", repr(value), where=where)
            if field.name == "temperature" and value == 0:
                raise BadInput("a temperature above 0", repr(value), where=where)

    @property
    def features(self) -> tuple[str, ...]:
        """The feature that a hyperparameter ``feature`` chooses, else those of `reads`."""
        chosen = getattr(self, "feature", None)
        return self.reads if chosen is None else (chosen,)

    def adapter(self, student: Interface, teacher: Interface) -> nn.Module | None:
        """Build the module that fits the student's features to the teacher's; None where none is needed.

        It is trained with the student and not stored with it. Weights are drawn from torch's generator.

        Args:
            student: Sizes of the student's outputs.
            teacher: Sizes of the teacher's outputs.
        """
        return None

    @abstractmethod
    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """The loss before its weight, a scalar; see `__call__` for shapes."""

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs,
        targets: Tensor,
        *,
        known: Tensor | None = None,
        adapter: nn.Module | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            student: Outputs for B images.
            teacher: Outputs for the same augmented images, labels in the same order. It gets no gradient.
            targets: (B, L) in [0, 1], NaN where unknown.
            known: Bool (B, L), the labels for which the teacher's answer is learnt; None for all.
            adapter: What `adapter` built.

        Returns:
            Scalar, before its weight.

        Raises:
            BadInput: Logits or targets of different shapes (a `headless` loss does not look at the teacher's), or
                features that are not there.
        """
        answers = (student.logits, targets) if self.headless else (student.logits, teacher.logits, targets)
        shapes = [tuple(x.shape) for x in answers]
        if len(set(shapes)) > 1 or student.logits.ndim != 2:
            raise BadInput(
                "logits of student and teacher and targets of one shape, (images, labels)",
                ", ".join(map(str, shapes)),
                where=f"distillation loss {self.name}",
                do="give all three the same images and labels, in one order",
            )
        return self.compute(student, teacher, Given(targets, known, adapter))


class AnsweringAdapter(nn.Module, ABC):
    """An adapter through which the student answers, in place of its own classifier, while it is trained."""

    @abstractmethod
    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features of the student (B, C) -> logits (B, L)."""

    @abstractmethod
    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (L, C) and bias (L,) of one linear layer that answers alike."""


def feature(outputs: Outputs, name: str) -> Tensor:
    """A feature of a network: a vector (B, C) for "pooled", else a map (B, C, H, W).

    Raises:
        BadInput: The network gives no such feature.
    """
    dimensions = 2 if name == "pooled" else 4
    feature_map = outputs.features.get(name)
    if feature_map is not None and feature_map.ndim == dimensions:
        return feature_map
    shape = "none of that name" if feature_map is None else f"features of shape {tuple(feature_map.shape)}"
    kind = "a map (B, C, H, W)" if dimensions == 4 else "a vector (B, C)"
    raise BadInput(
        f"{kind} {name!r} of student and teacher",
        f"{shape} ({', '.join(outputs.features) or 'no features'})",
        do="use a loss on logits, or other networks",
    )


def classifier_of(outputs: Outputs, channels: int) -> Tensor:
    """The weight (L, C) of a network's classifier, which must read features of as many channels.

    Raises:
        BadInput: There is none, or it reads something else.
    """
    weight = outputs.classifier_weight
    if weight is not None and weight.shape[1] == channels:
        return weight
    found = "none" if weight is None else f"one on {weight.shape[1]} channels"
    raise BadInput(
        f"a linear classifier on the network's {channels} channels",
        found,
        do="use a loss on logits, or networks that end in global average pooling and one linear layer",
    )
