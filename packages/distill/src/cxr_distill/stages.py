"""The commands as a person thinks of them: fit a classifier; fit a teacher if need be, then distil it."""

import dataclasses
from pathlib import Path

import torch

from cxr_common import checkpoint
from cxr_common.cohorts import open_cohort, pixel_size_for
from cxr_common.cohorts.cohort import Cohort
from cxr_common.models.zoo import build
from cxr_common.training.accelerator import start as start_engine
from cxr_distill.config import DistillConfig, FinetuneConfig, TrainConfig
from cxr_distill.data import labelled_task
from cxr_distill.losses import LOSSES, check_parts, recommended
from cxr_distill.teacher import load_teacher
from cxr_distill.train import Guidance, train

TEACHER = "teacher"
"""Folder of a run's teacher."""


def finetune(config: FinetuneConfig) -> Path:
    """Train a classifier on labels alone.

    Returns:
        Path of its model.safetensors.

    Raises:
        BadInput: Data, start or run folder that cannot work.
    """
    run = Path(config.runs_dir, config.run)
    cohort = _open(config)
    labelled_task(cohort)
    accelerator = start_engine(config.precision, config.seed)
    folder = run / (config.name or TEACHER)
    start = _teacher_start(config, run)
    parents = (checkpoint.parent("start", start),) if start else ()
    model = train(config, config.architecture, folder, cohort, accelerator, start=start, parents=parents)
    if accelerator.is_main_process:
        print(f"wrote {model}\nnext:  uv run distill --run {config.run}{_data(config)}")
    return model


def distill(config: DistillConfig) -> Path:
    """Train a student on a teacher's answers; fit the teacher first where there is only a backbone.

    Returns:
        Path of the student's model.safetensors.

    Raises:
        BadInput: Data, teacher, losses or run folder that cannot work.
    """
    run = Path(config.runs_dir, config.run)
    cohort = _open(config)
    task = labelled_task(cohort)
    losses = dict(config.loss) or recommended(task)
    check_parts(losses, task)
    needed = {name for loss in losses for name in LOSSES[loss].stages(config.stage)}
    with torch.device("meta"):  # a misspelt student must not cost the fitting of a teacher
        build(config.student, len(cohort.labels), size=config.size)
    accelerator = start_engine(config.precision, config.seed)
    path = _teacher_file(config, run)
    teacher = load_teacher(path, cohort.labels, task, sorted(needed))
    start = None if config.start in ("auto", "random") else Path(config.start)
    parents = (checkpoint.parent("start", start),) if start else ()
    folder = run / (config.name or config.student)
    usual = LOSSES[next(iter(losses))].task_weight
    task_weight = usual if config.task_weight < 0 else config.task_weight
    guidance = Guidance(teacher, losses, task_weight, config.temperature or None, config.stage)
    both = (*parents, checkpoint.parent("teacher", path))
    model = train(config, config.student, folder, cohort, accelerator, start=start, guidance=guidance, parents=both)
    written = [model]
    if config.control:
        folder = folder.with_name(f"{folder.name}-control")
        written.append(train(config, config.student, folder, cohort, accelerator, start=start, parents=parents))
    if accelerator.is_main_process:
        if config.control:
            with_teacher, without = (checkpoint.describe(p).metrics["val_auroc"] for p in written)
            print(f"validation AUROC {with_teacher:.4f} with the teacher, {without:.4f} without")
        print("\n".join(f"wrote {path}" for path in written))
        print(f"next:  uv run evaluate --run {config.run}{_data(config)}")
    return model


def _open(config: TrainConfig) -> Cohort:
    return open_cohort(config.data, pixel_size=pixel_size_for(config.size), seed=0)


def _data(config: TrainConfig) -> str:
    return "" if config.data == "phantom" else f" --data {config.data}"


def _teacher_start(config: FinetuneConfig, run: Path) -> Path | None:
    """The weights a teacher begins with: those asked for, else the run's own backbone where it fits."""
    if config.start == "random":
        return None
    if config.start != "auto":
        return Path(config.start)
    backbone = run / "ssl" / "backbone.safetensors"
    fits = backbone.exists() and checkpoint.describe(backbone).architecture == config.architecture
    return backbone if fits else None


def _teacher_file(config: DistillConfig, run: Path) -> Path:
    """The teacher's file; fitted now when there is only a backbone, or nothing at all."""
    given = Path(config.teacher) if config.teacher else run / TEACHER / "model.safetensors"
    if given.exists() or config.teacher:
        header = checkpoint.describe(given)
        if header.kind == "model":
            return given
        start, architecture = str(given), header.architecture
    else:
        backbone = run / "ssl" / "backbone.safetensors"
        start = str(backbone) if backbone.exists() else "random"
        architecture = checkpoint.describe(backbone).architecture if backbone.exists() else "resnet50"
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(TrainConfig)}
    shared |= {"start": start, "name": TEACHER, "restart": False}
    print(f"no teacher yet: fitting a {architecture} from {start}", flush=True)
    return finetune(FinetuneConfig(**shared, architecture=architecture))
