"""The teachers of a distillation: one or several, run live or from cached outputs, and joined to one answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_common.training.accelerator import arithmetic
from cxr_data.augment import Views, ViewSpec, draw
from cxr_data.cohorts.cohort import Cohort
from cxr_data.errors import BadInput
from cxr_distill.cached_outputs import (
    CachedOutputs,
    cache_outputs,
    cached_view,
    evenly_spread,
    sampled_features,
    validation_outputs,
)
from cxr_distill.data import Batch
from cxr_distill.ensemble import joint_logits, label_weights
from cxr_distill.losses import Interface, Loss, Outputs, build_adapters, each_loss
from cxr_distill.teacher import ENCODER_FEATURES, Teacher, classifier_weight

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Distillation:
    """What a student is taught: its teachers, and the losses on their outputs.

    Attributes:
        teachers: The frozen teachers, one or several. Classifiers answer as one; of each encoder the features are
            learnt. Losses on features are for the encoders where there are any.
        losses: Distillation losses and their weights.
        task_weight: Weight of the loss on the labels.
        use_unlabelled: Whether the teachers' answers are also learnt where a label is unknown.
        ensemble: How several teachers answer as one: "mean", "weighted" or "best_label".
        cached_views: Number of augmented views of each image that the epochs use in turn, with teacher outputs
            computed once; 0 draws new views in every epoch and runs the teachers in every step.
        use_cache: With cached views: whether teacher outputs are read from the cache, or computed in every step.
        finer: The same images stored at more pixels, by the input size of the teachers they are for.
    """

    teachers: tuple[Teacher, ...]
    losses: Mapping[Loss, float]
    task_weight: float
    use_unlabelled: bool = True
    ensemble: str = "mean"
    cached_views: int = 0
    use_cache: bool = True
    finer: Mapping[int, Cohort] = field(default_factory=dict)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Features that the losses read of student and teacher."""
        return (*self.encoders, *self.teachers)[0].feature_names

    @property
    def classifiers(self) -> tuple[Teacher, ...]:
        """The teachers that answer for the cohort's labels."""
        return tuple(teacher for teacher in self.teachers if not teacher.headless)

    @property
    def encoders(self) -> tuple[Teacher, ...]:
        """The teachers that give features alone."""
        return tuple(teacher for teacher in self.teachers if teacher.headless)

    def adapters(self, student: Interface) -> nn.ModuleDict:
        """The modules that the losses put between the student and each teacher, by `adapter_name`."""
        built = nn.ModuleDict()
        for number, teacher in enumerate(self.encoders or self.teachers[:1]):
            its = Interface({name: shape[0] for name, shape in teacher.shapes.items()}, teacher.classifier)
            losses = {loss: weight for loss, weight in self.losses.items() if loss.headless or not self.encoders}
            of_this = build_adapters(losses, student, its)
            built.update({adapter_name(name, number): adapter for name, adapter in of_this.items()})
        return built


def adapter_name(loss: str, encoder: int) -> str:
    """Name of the adapter of a loss to one of several encoders, counted from 0."""
    return f"{loss}-{encoder + 1}" if encoder else loss


def check_encoders(losses: Mapping[Loss, float], *, classifiers: int) -> None:
    """Refuse losses that cannot be learnt of encoders.

    Raises:
        BadInput: Losses that read answers where no teacher answers, that read classifiers beside encoders, or other
            features than `ENCODER_FEATURES`; a kind of teacher that no loss listens to.
    """
    do = "take pooled_cosine, fitnets.feature=pooled or rkd, or fit a classifier first: finetune --start FILE"
    for loss in losses:
        if not loss.headless and (loss.features or not classifiers):
            reads = "the classifier" if loss.features else "the answers"
            found = f"{loss.name}, which reads {reads} of a teacher"
            raise BadInput("losses on features with teachers that have no classifier", found, where="--loss", do=do)
        other = [name for name in loss.features if name not in ENCODER_FEATURES]
        if other:
            raise BadInput(
                f"losses on {' or '.join(ENCODER_FEATURES)} of an encoder",
                f"{loss.name}, which reads {', '.join(other)}",
                where="--loss",
                do="take another loss",
            )
    if not any(loss.headless for loss in losses):
        raise BadInput("a loss on features, for the teachers without a classifier", "none", where="--loss", do=do)
    if classifiers and all(loss.headless for loss in losses):
        do = "add one, such as kd, or leave the classifier out"
        raise BadInput("a loss on answers, for the teachers with a classifier", "none", where="--loss", do=do)


def check_teachers(losses: Mapping[Loss, float], *, task: str, teachers: int, ensemble: str, cached_views: int) -> None:
    """Refuse losses that these teachers, all of them classifiers, cannot serve.

    Args:
        losses: Distillation losses and their weights.
        task: The cohort's task.
        teachers: Number of teachers.
        ensemble: How several answer as one.
        cached_views: Number of views with cached teacher outputs; 0 runs the teachers in every step.

    Raises:
        BadInput: Features of several teachers, maps from the cache, or the best teacher of each class.
    """
    for loss in losses:
        maps = [name for name in loss.features if name != "pooled"]
        if maps and cached_views:
            raise BadInput(
                "losses on logits or pooled features, which can be cached",
                f"{loss.name}, which reads the maps of {', '.join(maps)}",
                where="--cached_views",
                do="take --cached_views 0, or another loss",
            )
        if teachers > 1 and loss.features:
            raise BadInput(
                "losses on logits with several teachers",
                f"{loss.name}, which reads the features of one",
                where="--teacher",
                do="give one teacher (finetune --architecture A+B makes one of two networks), or another loss",
            )
    if teachers > 1 and ensemble == "best_label" and task == "multiclass":
        raise BadInput(
            "an ensemble that keeps the classes of one answer together",
            "best_label, which is for labels that do not exclude each other",
            where="--ensemble",
            do="take weighted or mean",
        )


class Seen(NamedTuple):
    """Outputs of the teachers for a batch.

    Attributes:
        joint: The classifiers' answer as one and, of a single teacher, its features; None where all are encoders.
        encoders: Features of each encoder, standardised.
    """

    joint: Outputs | None
    encoders: tuple[Outputs, ...] = ()


class Scale(NamedTuple):
    """Mean and standard deviation of each channel of a feature, over augmented views of training images."""

    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(x - mean) / std for (B, C) or (B, C, H, W)."""
        shape = (-1, *[1] * (x.ndim - 2))
        return (x.float() - self.mean.reshape(shape)) / self.std.reshape(shape)

    def to(self, device: torch.device) -> "Scale":
        """The same on another device."""
        return Scale(self.mean.to(device), self.std.to(device))


def scale_of(values: Tensor) -> Scale:
    """By what features (N, C) or (N, C, H, W) become of mean 0 and variance 1 in each channel.

    The features of an encoder of natural images hardly differ between radiographs: what they have in common would
    make up nearly all of a cosine or a squared error. Standardised teachers are also what Ranzinger et al. 2024,
    "PHI-S", compare their method with. A channel that never changes is divided by 1.
    """
    values = values.double().transpose(0, 1).flatten(1)
    mean, std = values.mean(1), values.std(1, unbiased=False)
    return Scale(mean.float(), torch.where(std > 1e-6 * (mean.abs() + 1e-12), std, 1).float())


@dataclass(frozen=True)
class Teachers:
    """The teachers of a run, on its device.

    Attributes:
        distillation: What the student is taught.
        weights: (T, L) share of each classifier in each label; columns sum to 1.
        validation: (N_val, L) their joint logits of the validation images; None where all are encoders.
        cached: Cached outputs of each teacher; empty when they are run in every step.
        features: Of each encoder the features of the validation images, (N_val, ...) as it gives them.
        scales: Of each encoder by what its features are standardised.
    """

    distillation: Distillation
    weights: Tensor
    validation: NDArray[np.float32] | None
    cached: tuple[CachedOutputs, ...] = ()
    features: tuple[Mapping[str, NDArray[np.float32]], ...] = ()
    scales: tuple[Mapping[str, Scale], ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Input sizes at which teachers need the augmented images."""
        return () if self.cached else tuple(sorted({teacher.size for teacher in self.distillation.teachers}))

    def cached_reader(self, epoch: int) -> Callable[[NDArray[np.int64]], dict[str, Tensor]] | None:
        """Reader of the cached outputs for the epoch's views; None when teachers are run in every step."""
        if not self.cached:
            return None

        def read(positions: NDArray[np.int64]) -> dict[str, Tensor]:
            view = epoch % self.distillation.cached_views
            each = [cached.read(view, positions) for cached in self.cached]
            return {f"{number}.{name}": x for number, outputs in enumerate(each) for name, x in outputs.items()}

        return read

    def outputs(self, batch: Batch) -> Seen:
        """Outputs of the teachers for a batch."""
        each = list(zip(self.distillation.teachers, self._each(batch), strict=True))
        answers = [outputs for teacher, outputs in each if not teacher.headless]
        features = [outputs.features for teacher, outputs in each if teacher.headless]
        joint = answers[0] if len(answers) == 1 else None
        if len(answers) > 1:
            logits = torch.stack([outputs.logits.float() for outputs in answers])
            joint = Outputs(joint_logits(logits, self.weights.to(logits)))
        return Seen(joint, tuple(self.standardised(number, values) for number, values in enumerate(features)))

    def standardised(self, encoder: int, features: Mapping[str, Tensor]) -> Outputs:
        """Features of an encoder as they are learnt."""
        scales = self.scales[encoder]
        scaled = {name: scales[name](x) for name, x in features.items()}
        first = next(iter(scaled.values()))
        return Outputs(first.new_zeros(len(first), 0), scaled)

    def _each(self, batch: Batch) -> list[Outputs]:
        """The outputs of each teacher, run now or from the cache."""
        if not self.cached:
            return [teacher(batch.shown[teacher.size]) for teacher in self.distillation.teachers]
        each = []
        for number, teacher in enumerate(self.distillation.teachers):
            outputs = {name: batch.cached[f"{number}.{name}"] for name in self.cached[number].shapes}
            logits = outputs.pop("logits", None)
            if logits is None:
                logits = next(iter(outputs.values()))[:, :0].flatten(1)
            each.append(Outputs(logits.float(), outputs, classifier_weight(teacher.network, teacher.order)))
        return each

    def terms(
        self, student: Outputs, seen: Seen, targets: Tensor, adapters: Mapping[str, nn.Module] | nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Each distillation loss before its weight; those learnt of several encoders are means over these.

        Args:
            student: Outputs for B images.
            seen: The teachers' for the same.
            targets: (B, L), NaN where unknown.
            adapters: What `Distillation.adapters` built.
        """
        losses, use_unlabelled = self.distillation.losses, self.distillation.use_unlabelled
        of_encoders = {loss: weight for loss, weight in losses.items() if loss.headless and seen.encoders}
        of_joint = {loss: weight for loss, weight in losses.items() if loss not in of_encoders}
        options = {"use_unlabelled": use_unlabelled}
        terms: dict[str, Tensor] = {}
        if of_joint and seen.joint is not None:
            terms |= each_loss(of_joint, student, seen.joint, targets, adapters=adapters, **options)
        for number, outputs in enumerate(seen.encoders):
            names = {loss.name: adapter_name(loss.name, number) for loss in of_encoders}
            mine = {name: adapters[own] for name, own in names.items() if own in adapters}
            for name, value in each_loss(of_encoders, student, outputs, targets, adapters=mine, **options).items():
                terms[name] = terms.get(name, 0) + value / len(seen.encoders)
        return {loss.name: terms[loss.name] for loss in losses}


def epoch_views(distillation: Distillation | None, spec: ViewSpec, n: int, seed: int, epoch: int) -> Views:
    """Augmentation parameters of an epoch: new ones from (seed, epoch), or those of the epoch's cached view."""
    if distillation and distillation.cached_views:
        return cached_view(spec, n, epoch % distillation.cached_views)
    return draw(spec, n, seed, epoch)


def prepare(
    distillation: Distillation,
    cohort: Cohort,
    rows: NDArray[np.int64],
    spec: ViewSpec,
    accelerator: "Accelerator",
    *,
    workers: int = 0,
) -> Teachers:
    """Move the teachers to the device, run them on validation images and, if asked for, cache their outputs.

    Args:
        distillation: The teachers and what the student is taught.
        cohort: Labelled cohort.
        rows: Training rows.
        spec: Shape and augmentation of the student's images.
        accelerator: Device, precision and processes.
        workers: Threads that render images; 0 chooses.
    """
    precision, device = arithmetic(accelerator), accelerator.device
    for teacher in distillation.teachers:
        teacher.network.to(device)
    # A GPU would wait in every step for indices and weights that lie elsewhere.
    moved = tuple(replace(teacher, order=teacher.order.to(device)) for teacher in distillation.teachers)
    distillation = replace(distillation, teachers=moved)
    stored = {teacher.size: distillation.finer.get(teacher.size, cohort) for teacher in moved}
    cached: tuple[CachedOutputs, ...] = ()
    if distillation.cached_views and distillation.use_cache:
        options = {"precision": precision, "workers": workers, "show": accelerator.is_main_process}
        cached = tuple(
            cache_outputs(teacher, stored[teacher.size], rows, spec, distillation.cached_views, **options)
            for teacher in moved
        )
        seen = [outputs.all_validation(teacher.headless) for teacher, outputs in zip(moved, cached, strict=True)]
        sample = evenly_spread(len(rows))
        views = [outputs.read(0, sample) for teacher, outputs in zip(moved, cached, strict=True) if teacher.headless]
    else:
        seen = [validation_outputs(teacher, stored[teacher.size], precision) for teacher in moved]
        views = [
            sampled_features(teacher, stored[teacher.size], rows, spec, precision)
            for teacher in moved
            if teacher.headless
        ]
    scales = tuple({name: scale_of(x).to(device) for name, x in features.items()} for features in views)
    features = tuple(outputs for teacher, outputs in zip(moved, seen, strict=True) if teacher.headless)
    answers = [outputs["logits"] for teacher, outputs in zip(moved, seen, strict=True) if not teacher.headless]
    if not answers:
        return Teachers(distillation, torch.zeros(0, 0), None, cached, features, scales)
    weights = label_weights(answers, cohort.targets[cohort.rows("val")], str(cohort.task), distillation.ensemble)
    joint = joint_logits(torch.from_numpy(np.stack(answers)), torch.from_numpy(weights)).numpy()
    return Teachers(distillation, torch.from_numpy(weights).to(device), joint, cached, features, scales)
