"""The teachers of a distillation: one or several, run live or from cached outputs, and joined to one answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_common.training.accelerator import arithmetic
from cxr_data import decisions
from cxr_data.augment import Views, ViewSpec, draw
from cxr_data.cohort import Cohort
from cxr_data.errors import BadInput
from cxr_data.metrics import auroc, macro
from cxr_distill.cached_outputs import CachedOutputs, cache_outputs, cached_view, validation_logits
from cxr_distill.data import Batch
from cxr_distill.losses import Loss, Outputs
from cxr_distill.teacher import Teacher, classifier_weight

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Distillation:
    """What a student is taught: its teachers, and the losses on their outputs.

    Attributes:
        teachers: The frozen teachers, one or several.
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
    def stages(self) -> tuple[str, ...]:
        """Features that the losses read of student and teacher."""
        return self.teachers[0].stages


def check_teachers(losses: Mapping[Loss, float], *, task: str, teachers: int, ensemble: str, cached_views: int) -> None:
    """Refuse losses that these teachers cannot serve.

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


@dataclass(frozen=True)
class Teachers:
    """The teachers of a run, on its device.

    Attributes:
        distillation: What the student is taught.
        weights: (T, L) share of each teacher in each label; columns sum to 1.
        validation: (N_val, L) their joint logits of the validation images.
        cached: Cached outputs of each teacher; empty when they are run in every step.
    """

    distillation: Distillation
    weights: Tensor
    validation: NDArray[np.float32]
    cached: tuple[CachedOutputs, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Input sizes at which teachers need the augmented images."""
        return () if self.cached else tuple(sorted({teacher.size for teacher in self.distillation.teachers}))

    def cached_reader(self, epoch: int) -> Callable[[NDArray[np.int64]], dict[str, Tensor]] | None:
        """Reader of the cached outputs for the epoch's views; None when teachers are run in every step."""
        if not self.cached:
            return None

        def read(positions: NDArray[np.int64]) -> dict[str, Tensor]:
            each = [cached.read(epoch % self.distillation.cached_views, positions) for cached in self.cached]
            features = {name: values for name, values in each[0].items() if name != "logits"}
            return {"logits": torch.stack([outputs["logits"] for outputs in each]), **features}

        return read

    def outputs(self, batch: Batch) -> Outputs:
        """Joint logits (B, L) for a batch and, of a single teacher, the features that the losses read."""
        first = self.distillation.teachers[0]
        if self.cached:
            logits, weight = batch.cached["logits"].float(), classifier_weight(first.network, first.order)
            features = {name: values for name, values in batch.cached.items() if name != "logits"}
        else:
            each = [teacher(batch.shown[teacher.size]) for teacher in self.distillation.teachers]
            if len(each) == 1:
                return each[0]
            logits, features, weight = torch.stack([outputs.logits.float() for outputs in each]), {}, None
        joint = logits[0] if len(logits) == 1 else joint_logits(logits, self.weights.to(logits))
        return Outputs(joint, features, weight)


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
        answers = [outputs.validation() for outputs in cached]
    else:
        answers = [validation_logits(teacher, stored[teacher.size], precision) for teacher in moved]
    weights = label_weights(answers, cohort.targets[cohort.rows("val")], str(cohort.task), distillation.ensemble)
    joint = joint_logits(torch.from_numpy(np.stack(answers)), torch.from_numpy(weights)).numpy()
    return Teachers(distillation, torch.from_numpy(weights).to(device), joint, cached)


def joint_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """Several teachers as one: the weighted mean of their logits.

        z_ik = Σ_t w_tk z_tik

    For classes this is the normalised geometric mean of their probabilities (Hinton et al. 2015, §2 names both
    means), for labels that of their odds.

    Args:
        logits: z, (T, B, L).
        weights: w, (T, L), columns summing to 1.

    Returns:
        (B, L).
    """
    return (weights[:, None, :] * logits).sum(dim=0)


def label_weights(
    answers: Sequence[NDArray[np.float32]], targets: NDArray[np.float32], task: str, ensemble: str
) -> NDArray[np.float32]:
    """Share of each teacher in the joint answer, from validation data.

    Args:
        answers: (N, L) logits of each of T teachers.
        targets: (N, L) in {0, 1, NaN}.
        task: "multiclass" (one share for all classes, from the macro AUROC) or "multilabel".
        ensemble: "mean"; "weighted", in proportion to AUROC - 0.5 where that is above 0; or "best_label", the
            one of the highest AUROC alone.

    Returns:
        (T, L); equal shares where no AUROC is defined or none is above 0.5.
    """
    teachers, labels = len(answers), targets.shape[1]
    equal = np.full((teachers, labels), 1 / teachers)
    if ensemble == "mean" or teachers == 1:
        return equal.astype(np.float32)
    areas = np.stack([auroc(targets, decisions.probabilities(logits, task)) for logits in answers])
    if task == "multiclass":
        areas = np.repeat([[macro(row)] for row in areas], labels, axis=1)
    worth = np.nan_to_num(np.clip(areas - 0.5, 0, None))
    if ensemble == "best_label":
        worth = np.where(np.arange(teachers)[:, None] == worth.argmax(axis=0), worth, 0)
    total = worth.sum(axis=0)
    return np.where(total > 0, worth / np.where(total > 0, total, 1), equal).astype(np.float32)
