"""What a student is to learn from its teachers, and how their answers reach the loop."""

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
from cxr_distill.cached_outputs import Recording, record, validation_answers, view_set
from cxr_distill.data import Batch
from cxr_distill.losses import LOSSES, Outputs
from cxr_distill.teacher import Teacher, classifier_weight

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Guidance:
    """What a student learns from its teachers.

    Attributes:
        teachers: The frozen teachers, one or several.
        losses: Distillation losses and their weights.
        task_weight: Weight of the loss on the labels.
        temperature: Temperature of the logit losses; None takes each loss's usual one.
        stage: Feature map of the feature losses.
        combination: How several teachers answer as one: "mean", "weighted" or "best_label".
        view_sets: Number of view sets the epochs take in turn; 0 draws fresh views for every epoch.
        replay: With view sets: whether the teachers are asked once and replayed, or in every step.
        finer: The same images in finer storage, by the size of the teachers they are for.
    """

    teachers: tuple[Teacher, ...]
    losses: dict[str, float]
    task_weight: float
    temperature: float | None
    stage: str
    combination: str = "mean"
    view_sets: int = 0
    replay: bool = True
    finer: Mapping[int, Cohort] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        """Features the losses ask student and teacher for."""
        return self.teachers[0].stages


def check_sources(losses: Sequence[str], stage: str, *, task: str, teachers: int, combination: str, sets: int) -> None:
    """Refuse losses that these teachers cannot serve.

    Args:
        losses: Names of the distillation losses.
        stage: Feature map of the feature losses.
        task: The cohort's task.
        teachers: Number of teachers.
        combination: How several answer as one.
        sets: Number of recorded view sets; 0 asks live.

    Raises:
        BadInput: Features of several teachers, maps from a recording, or the best teacher of each class.
    """
    for loss in losses:
        needed = LOSSES[loss].needs
        maps = [name for name in LOSSES[loss].stages(stage) if name != "pooled"]
        if maps and sets:
            raise BadInput(
                "losses on logits or pooled features, which can be recorded",
                f"{loss}, which looks at the maps of {', '.join(maps)}",
                where="--teacher_views",
                do="take --teacher_views 0, or another loss",
            )
        if teachers > 1 and set(needed) != {"logits"}:
            raise BadInput(
                "losses on logits with several teachers",
                f"{loss}, which looks at the features of one",
                where="--teacher",
                do="give one teacher (finetune --architecture A+B makes one of two networks), or another loss",
            )
    if teachers > 1 and combination == "best_label" and task == "multiclass":
        raise BadInput(
            "a combination that keeps the classes of one answer together",
            "best_label, which is for labels that do not exclude each other",
            where="--teachers",
            do="take weighted or mean",
        )


@dataclass(frozen=True)
class Lessons:
    """The teachers at work.

    Attributes:
        guidance: What is to be learnt from them.
        weights: (T, L) share of each teacher in each label; columns sum to 1.
        validation: (N_val, L) their joint logits of the validation images.
        recordings: What each answered ahead; empty when they are asked in every step.
    """

    guidance: Guidance
    weights: Tensor
    validation: NDArray[np.float32]
    recordings: tuple[Recording, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Edges of the views to be shown to teachers."""
        return () if self.recordings else tuple(sorted({teacher.size for teacher in self.guidance.teachers}))

    def replay(self, epoch: int) -> Callable[[NDArray[np.int64]], dict[str, Tensor]] | None:
        """Reader of what was recorded of the epoch's views; None when teachers are asked in every step."""
        if not self.recordings:
            return None

        def read(positions: NDArray[np.int64]) -> dict[str, Tensor]:
            found = [recording.read(epoch % self.guidance.view_sets, positions) for recording in self.recordings]
            features = {name: values for name, values in found[0].items() if name != "logits"}
            return {"logits": torch.stack([one["logits"] for one in found]), **features}

        return read

    def seen(self, batch: Batch) -> Outputs:
        """What the teachers say to a batch: logits (B, L) and, of a single one, the features asked for."""
        first = self.guidance.teachers[0]
        if self.recordings:
            logits, weight = batch.recorded["logits"].float(), classifier_weight(first.network, first.order)
            features = {name: values for name, values in batch.recorded.items() if name != "logits"}
        else:
            answers = [teacher(batch.shown[teacher.size]) for teacher in self.guidance.teachers]
            if len(answers) == 1:
                return answers[0]
            logits, features, weight = torch.stack([one.logits.float() for one in answers]), {}, None
        joint = logits[0] if len(logits) == 1 else joint_logits(logits, self.weights.to(logits))
        return Outputs(joint, features, weight)


def epoch_views(guidance: Guidance | None, spec: ViewSpec, n: int, seed: int, epoch: int) -> Views:
    """Parameters of an epoch's views: fresh ones from (seed, epoch), or the epoch's view set."""
    if guidance and guidance.view_sets:
        return view_set(spec, n, epoch % guidance.view_sets)
    return draw(spec, n, seed, epoch)


def prepare(
    guidance: Guidance,
    cohort: Cohort,
    rows: NDArray[np.int64],
    spec: ViewSpec,
    accelerator: "Accelerator",
    *,
    workers: int = 0,
) -> Lessons:
    """Put the teachers to work: on the device, heard on validation images and, if asked for, recorded.

    Args:
        guidance: The teachers and what to learn from them.
        cohort: Labelled cohort.
        rows: Training rows.
        spec: What the student's views look like.
        accelerator: The engine.
        workers: Threads that render views; 0 chooses.
    """
    precision, device = arithmetic(accelerator), accelerator.device
    for teacher in guidance.teachers:
        teacher.network.to(device)
    # A GPU would wait in every step for indices and weights that lie elsewhere.
    moved = tuple(replace(teacher, order=teacher.order.to(device)) for teacher in guidance.teachers)
    guidance = replace(guidance, teachers=moved)
    recordings: tuple[Recording, ...] = ()
    if guidance.view_sets and guidance.replay:
        show = accelerator.is_main_process
        kept = {"precision": precision, "workers": workers, "show": show}
        recordings = tuple(
            record(teacher, guidance.finer.get(teacher.size, cohort), rows, spec, guidance.view_sets, **kept)
            for teacher in guidance.teachers
        )
        answers = [recording.validation() for recording in recordings]
    else:
        answers = [
            validation_answers(teacher, guidance.finer.get(teacher.size, cohort), precision)
            for teacher in guidance.teachers
        ]
    weights = label_weights(answers, cohort.targets[cohort.rows("val")], str(cohort.task), guidance.combination)
    joint = joint_logits(torch.from_numpy(np.stack(answers)), torch.from_numpy(weights)).numpy()
    return Lessons(guidance, torch.from_numpy(weights).to(device), joint, recordings)


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
    answers: Sequence[NDArray[np.float32]], targets: NDArray[np.float32], task: str, combination: str
) -> NDArray[np.float32]:
    """Share of each teacher in the joint answer, from validation data.

    Args:
        answers: (N, L) logits of each of T teachers.
        targets: (N, L) in {0, 1, NaN}.
        task: "multiclass" (one share for all classes, from the macro AUROC) or "multilabel".
        combination: "mean"; "weighted", in proportion to AUROC - 0.5 where that is above 0; or "best_label", the
            one of the highest AUROC alone.

    Returns:
        (T, L); equal shares where no AUROC is defined or none is above 0.5.
    """
    teachers, labels = len(answers), targets.shape[1]
    equal = np.full((teachers, labels), 1 / teachers)
    if combination == "mean" or teachers == 1:
        return equal.astype(np.float32)
    areas = np.stack([auroc(targets, decisions.probabilities(one, task)) for one in answers])
    if task == "multiclass":
        areas = np.repeat([[macro(row)] for row in areas], labels, axis=1)
    worth = np.nan_to_num(np.clip(areas - 0.5, 0, None))
    if combination == "best_label":
        worth = np.where(np.arange(teachers)[:, None] == worth.argmax(axis=0), worth, 0)
    total = worth.sum(axis=0)
    return np.where(total > 0, worth / np.where(total > 0, total, 1), equal).astype(np.float32)
