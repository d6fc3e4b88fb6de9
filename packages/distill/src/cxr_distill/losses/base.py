"""What ties a formula on tensors to the outputs of two networks."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from cxr_common.models.structure import STAGES
from cxr_data.errors import BadInput
from cxr_distill.losses import features as feature_losses
from cxr_distill.losses.adapters import EmbeddingPair, ReviewFusion, regress
from cxr_distill.losses.relations import label_embeddings
from cxr_distill.losses.task import known_labels

FEATURES = (*STAGES, "pooled")
"""Every feature of a network that a loss may read; "pooled" is what the classifier reads."""


class Outputs(NamedTuple):
    """What a network gives for a batch of B images.

    Attributes:
        logits: (B, L).
        features: Maps "stage1" to "stage4" (B, C, H, W) and the vector "pooled" (B, C) the classifier reads;
            those that were asked for.
        classifier_weight: (L, C), where the network ends in a linear layer on the pooled features.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = {}
    classifier_weight: Tensor | None = None


class Setting(NamedTuple):
    """What a loss may need beside the outputs.

    Attributes:
        temperature: T of the logit losses.
        stage: Features the `fitnets` loss compares: one of `STAGES` or "pooled".
        adapter: The loss's own adapter, where it has one.
        use_unlabelled: Whether the teacher's answer is also learnt where the label is unknown.
    """

    temperature: float
    stage: str
    adapter: nn.Module | None
    use_unlabelled: bool


class BoundLoss(Protocol):
    """The calling convention all distillation losses share."""

    def __call__(
        self, student: Outputs, teacher: Outputs, targets: Tensor, setting: Setting, **options: float
    ) -> Tensor:
        """Scalar loss; ``targets`` (B, L) with NaN where unknown, ``options`` keywords of the formula."""
        ...


Channels = Mapping[str, int]
MakeAdapter = Callable[[Channels, Channels, str], nn.Module]


@dataclass(frozen=True)
class Loss:
    """A distillation loss.

    Attributes:
        formula: The formula on tensors.
        function: The same on `Outputs`, by the convention all losses share.
        needs: What it reads: "logits", "pooled", "stage1" ... "stage4", "classifier", or "stage" for the one
            chosen.
        weight: Its usual weight, beside a task loss of ``task_weight``.
        tasks: The tasks it suits.
        task_weight: Weight of the task loss it is usually combined with.
        temperature: Its usual temperature; None where it has none.
        make_adapter: Builds its adapter from the channels of student and teacher and the stage; None where it
            wants none.
        instead: The loss that does the same for the other task.
        least: Fewest labels it says anything of.
    """

    formula: Callable[..., Tensor]
    function: BoundLoss
    needs: tuple[str, ...]
    weight: float
    tasks: tuple[str, ...] = ("multiclass", "multilabel")
    task_weight: float = 1.0
    temperature: float | None = None
    make_adapter: MakeAdapter | None = None
    instead: str | None = None
    least: int = 1

    def stages(self, stage: str) -> tuple[str, ...]:
        """Features the networks must give, with ``stage`` the one chosen; none where logits will do."""
        named = (stage if need == "stage" else need for need in self.needs)
        return tuple(name for name in named if name in FEATURES)

    @property
    def options(self) -> tuple[str, ...]:
        """Keywords of the formula a user may set."""
        bound = {"temperature", "known"} if self.temperature is not None else {"known"}
        keywords = inspect.signature(self.formula).parameters.values()
        return tuple(p.name for p in keywords if p.kind is p.KEYWORD_ONLY and p.name not in bound)


# ---- reading the outputs -----------------------------------------------------------------------------------


def feature(outputs: Outputs, name: str, dimensions: int) -> Tensor:
    """A feature of a network, of 4 dimensions (map) or 2 (vector).

    Raises:
        BadInput: The network gives no such feature.
    """
    found = outputs.features.get(name)
    if found is not None and found.ndim == dimensions:
        return found
    shape = "none of that name" if found is None else f"features of shape {tuple(found.shape)}"
    kind = "a map (B, C, H, W)" if dimensions == 4 else "a vector (B, C)"
    raise BadInput(
        f"{kind} {name!r} of student and teacher",
        f"{shape} ({', '.join(outputs.features) or 'no features'})",
        do="use a loss on logits, or other networks",
    )


def classifier(outputs: Outputs, channels: int) -> Tensor:
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


# ---- bindings ----------------------------------------------------------------------------------------------


def on_logits(formula: Callable[..., Tensor], known: Callable[[Tensor], Tensor]) -> BoundLoss:
    """Bind formula(z_s, z_t, *, temperature, known)."""

    def function(student: Outputs, teacher: Outputs, targets: Tensor, setting: Setting, **options: float) -> Tensor:
        mask = None if setting.use_unlabelled else known(targets)
        return formula(student.logits, teacher.logits, temperature=setting.temperature, known=mask, **options)

    return function


def on_logits_and_targets(formula: Callable[..., Tensor]) -> BoundLoss:
    """Bind formula(z_s, z_t, y, *, temperature)."""

    def function(student: Outputs, teacher: Outputs, targets: Tensor, setting: Setting, **options: float) -> Tensor:
        return formula(student.logits, teacher.logits, targets, temperature=setting.temperature, **options)

    return function


def on_feature(formula: Callable[..., Tensor], name: str | None = None) -> BoundLoss:
    """Bind formula(f_s, f_t) to a feature, the chosen one when None, the student's through its adapter."""

    def function(student: Outputs, teacher: Outputs, targets: Tensor, setting: Setting, **options: float) -> Tensor:
        which = name or setting.stage
        dimensions = 2 if which == "pooled" else 4
        own, its = feature(student, which, dimensions), feature(teacher, which, dimensions)
        if setting.adapter is not None:
            own = regress(setting.adapter, own, its)
        return formula(own, its, **options)

    return function


def on_stages(formula: Callable[..., Tensor]) -> BoundLoss:
    """Bind formula([f_s of each stage], [f_t of each stage])."""

    def function(student: Outputs, teacher: Outputs, targets: Tensor, setting: Setting, **options: float) -> Tensor:
        maps = [[feature(outputs, stage, 4) for stage in STAGES] for outputs in (student, teacher)]
        return formula(*maps, **options)

    return function


def bound_cam(student: Outputs, teacher: Outputs, targets: Tensor, setting: Setting, **options: float) -> Tensor:
    """`features.cam` on the last maps and the classifiers."""
    parts = []
    for outputs in (student, teacher):
        last = feature(outputs, "stage4", 4)
        parts += [last, classifier(outputs, last.shape[1])]
    return feature_losses.cam(*parts, known=None if setting.use_unlabelled else known_labels(targets), **options)


def bound_reviewkd(student: Outputs, teacher: Outputs, targets: Tensor, setting: Setting, **options: float) -> Tensor:
    """`features.reviewkd` on the student's fused stages, at the teacher's sizes."""
    assert isinstance(setting.adapter, ReviewFusion)
    its = [feature(teacher, stage, 4) for stage in STAGES]
    own = setting.adapter([feature(student, stage, 4) for stage in STAGES])
    own = [regress(None, mine, target) for mine, target in zip(own, its, strict=True)]
    return feature_losses.reviewkd(own, its, **options)


def bound_crd(student: Outputs, teacher: Outputs, targets: Tensor, setting: Setting, **options: float) -> Tensor:
    """`features.crd` on the embedded pooled features."""
    assert isinstance(setting.adapter, EmbeddingPair)
    own, its = setting.adapter(feature(student, "pooled", 2), feature(teacher, "pooled", 2))
    return feature_losses.crd(own, its, **options)


def on_label_embeddings(formula: Callable[..., Tensor]) -> BoundLoss:
    """Bind formula(e_s, e_t, y) to the embeddings each classifier makes of its pooled features."""

    def function(student: Outputs, teacher: Outputs, targets: Tensor, setting: Setting, **options: float) -> Tensor:
        pooled = [feature(outputs, "pooled", 2) for outputs in (student, teacher)]
        own, its = (
            label_embeddings(vectors.float(), classifier(outputs, vectors.shape[1]).float())
            for vectors, outputs in zip(pooled, (student, teacher), strict=True)
        )
        return formula(own, its, targets, **options)

    return function


# ---- adapters ----------------------------------------------------------------------------------------------


def regressor(name: str | None = None) -> MakeAdapter:
    """Makes a 1×1 convolution (maps) or a linear layer (pooled) from student to teacher channels."""

    def make(student: Channels, teacher: Channels, stage: str) -> nn.Module:
        which = name or stage
        own, its = channels_of(student, which), channels_of(teacher, which)
        return nn.Linear(own, its) if which == "pooled" else nn.Conv2d(own, its, 1)

    return make


def embedding_pair(student: Channels, teacher: Channels, stage: str) -> nn.Module:
    """Makes the two embeddings of `features.crd`."""
    return EmbeddingPair(channels_of(student, "pooled"), channels_of(teacher, "pooled"))


def review_fusion(student: Channels, teacher: Channels, stage: str) -> nn.Module:
    """Makes the fusion of `features.reviewkd`."""
    own = [channels_of(student, name) for name in STAGES]
    return ReviewFusion(own, [channels_of(teacher, name) for name in STAGES], middle=min(256, own[-1]))


def channels_of(channels: Channels, name: str) -> int:
    """Channels of a feature.

    Raises:
        BadInput: The network has no such feature.
    """
    if name not in channels:
        raise BadInput(
            f"features {name!r} of student and teacher",
            f"a network that gives {', '.join(channels) or 'none'}",
            do="choose another stage, another loss or another network",
        )
    return channels[name]
