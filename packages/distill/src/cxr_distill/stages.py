"""The commands ``finetune`` and ``distill``: fit a classifier; fit a teacher if need be, then distil it."""

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from cxr_common import checkpoint
from cxr_common.gain import auroc_gain
from cxr_common.inference import outputs
from cxr_common.models.pretrained import Pretrained, Start, parents_of, resolve
from cxr_common.models.zoo import build
from cxr_common.training.accelerator import start as start_accelerator
from cxr_data import open_cohort, pixel_size_for
from cxr_data.cohort import Cohort
from cxr_data.decisions import probabilities
from cxr_data.errors import BadInput
from cxr_data.files import write_json
from cxr_data.metrics import auroc, macro
from cxr_data.sources import default_size, print_notes
from cxr_data.suggestions import suggest
from cxr_distill.config import DistillConfig, FinetuneConfig, TrainConfig
from cxr_distill.data import labelled_task, with_trained_labels
from cxr_distill.losses import build_losses, check_losses, loss_settings, recommended
from cxr_distill.results import MODEL
from cxr_distill.teacher import load_teacher
from cxr_distill.teachers import Distillation, check_teachers
from cxr_distill.train import train

TEACHER = "teacher"
"""Folder of a run's teacher."""

GAIN = "gain.json"
"""Gain of the student over its control on validation images."""


def finetune(config: FinetuneConfig) -> Path:
    """Train a classifier on labels alone.

    Returns:
        Path of its model.safetensors.

    Raises:
        BadInput: Data, start or run folder that cannot work.
    """
    config = dataclasses.replace(config, size=config.size or default_size(config.data))
    run = Path(config.runs_dir, config.run)
    cohort = _open(config)
    labelled_task(cohort)
    accelerator = start_accelerator(config.precision, config.seed, deterministic=config.deterministic)
    folder = run / stage_name(config)
    start = _teacher_start(config, run)
    parents = parents_of(start)
    model = train(config, config.architecture, folder, cohort, accelerator, start=start, parents=parents)
    if accelerator.is_main_process:
        print(f"wrote {model}")
    return model


def distill(config: DistillConfig) -> Path:
    """Train a student on its teachers' outputs; fit the teacher first where there is only a backbone.

    Returns:
        Path of the student's model.safetensors.

    Raises:
        BadInput: Data, teacher, losses or run folder that cannot work.
    """
    config = dataclasses.replace(config, size=config.size or default_size(config.data))
    run = Path(config.runs_dir, config.run)
    # A missing file must not cost the fitting of anything.
    cohort = _open(config, taught=_taught_labels(config, run))
    task = labelled_task(cohort)
    losses = build_losses(config.loss) or recommended(task, len(cohort.labels))
    check_losses(losses, task, labels=len(cohort.labels))
    count = max(1, len(config.teacher))
    check_teachers(losses, task=task, teachers=count, ensemble=config.ensemble, cached_views=config.cached_views)
    task_weight = next(iter(losses)).task_weight if config.task_weight is None else config.task_weight
    if not task_weight and not any(losses.values()):
        raise BadInput("a loss with a weight above 0", "none", where="--loss", do="give one a weight")
    # What is kept says what was done.
    config = dataclasses.replace(config, loss=loss_settings(losses), task_weight=task_weight)
    needed = {name for loss in losses for name in loss.features}
    with torch.device("meta"):  # a misspelt student must not cost the fitting of a teacher
        build(config.student, len(cohort.labels), size=config.input_size)
    accelerator = start_accelerator(config.precision, config.seed, deterministic=config.deterministic)
    paths = [_teacher_file(config, run, given) for given in config.teacher or [""]]
    teachers = tuple(load_teacher(path, cohort.labels, task, sorted(needed)) for path in paths)
    distillation = Distillation(
        teachers,
        losses,
        task_weight,
        config.use_unlabelled,
        config.ensemble,
        config.cached_views,
        finer=_finer(config, cohort, {teacher.size for teacher in teachers}),
    )
    start = () if config.start is None else _start(config, config.student)
    parents = parents_of(start)
    folder = run / stage_name(config)
    roles = ["teacher", *(f"teacher-{number}" for number in range(2, count + 1))]
    both = (*parents, *(checkpoint.parent(role, path) for role, path in zip(roles, paths, strict=True)))
    model = train(
        config, config.student, folder, cohort, accelerator, start=start, distillation=distillation, parents=both
    )
    written = [model]
    if config.control:
        name, seed, number = folder.name.rpartition("-seed")  # evaluate and recipes look for a seed at the end
        beside = folder.with_name(f"{name}-control{seed}{number}" if name else f"{folder.name}-control")
        accelerator.free_memory()  # or the first network and its optimiser stay on the device
        accelerator = start_accelerator(config.precision, config.seed, deterministic=config.deterministic)
        alone = with_trained_labels(cohort, config.label_fraction, config.seed)  # a teacher's labels are not its own
        if alone.labels != cohort.labels and accelerator.is_main_process:
            print(f"{beside.name}: note: {alone.notes[0]}")
        written.append(train(config, config.student, beside, alone, accelerator, start=start, parents=parents))
        if accelerator.is_main_process:
            print(_gain(folder / GAIN, alone, *written))
    if accelerator.is_main_process:
        print("\n".join(f"wrote {path}" for path in written))
    accelerator.wait_for_everyone()  # the gain is written when this returns
    return model


def next_step(config: FinetuneConfig | DistillConfig, model: Path) -> str:
    """The command that follows a finished stage: distillation of the classifier, or a report on the run's models."""
    place = {"run": config.run, "runs_dir": config.runs_dir}
    if isinstance(config, DistillConfig):
        return suggest("evaluate", **place)
    teacher = None if model == Path(config.runs_dir, config.run, TEACHER, MODEL) else str(model)
    size = config.size or default_size(config.data)
    return suggest("distill", data=config.data, **place, size=size, teacher=teacher, control=True)


def stage_name(config: FinetuneConfig | DistillConfig) -> str:
    """Folder of a stage within its run."""
    return config.name or (config.student if isinstance(config, DistillConfig) else TEACHER)


def _gain(path: Path, cohort: Cohort, model: Path, control: Path) -> str:
    """Write what the teacher brought on validation images, in the control's labels, to ``path``; say it in a line."""
    rows = cohort.rows("val")
    scores = []
    for file in (model, control):
        network, header = checkpoint.load(file, kind="model")
        logits = outputs(network, cohort.pixels, rows, header.input.size)
        answers = probabilities(logits, str(header.task))  # as the epochs were judged, before calibration
        scores.append(answers[:, [header.labels.index(label) for label in cohort.labels]])
    with_teacher, without = scores
    gain = auroc_gain(cohort.targets[rows], with_teacher, without, cohort.groups[rows])
    taught, alone = (macro(auroc(cohort.targets[rows], one)) for one in scores)
    figures = {"val_auroc": taught, "control_val_auroc": alone, "gain": gain.difference, "low": gain.low}
    figures = {name: None if math.isnan(value) else value for name, value in {**figures, "high": gain.high}.items()}
    write_json(path, {**figures, "level": 0.95, "images": len(rows)})
    if figures["gain"] is None:
        return "validation AUROC undefined: the validation images lack positives or negatives"
    said = f"validation AUROC {taught:.4f} with the teacher, {alone:.4f} without: gain {gain.difference:+.4f}"
    interval = "no interval" if figures["low"] is None else f"95 % interval {gain.low:+.4f} to {gain.high:+.4f}"
    return f"{said} ({interval}, paired, by patient; on the images that chose the epochs)"


def _open(config: TrainConfig, size: int = 0, taught: Collection[str] = ()) -> Cohort:
    cohort = open_cohort(config.data, pixel_size=pixel_size_for(size or config.input_size), seed=0)
    cohort = with_trained_labels(cohort, config.label_fraction, config.seed, taught)
    if not size:
        print_notes(cohort, config.data)
    return cohort


def _finer(config: TrainConfig, cohort: Cohort, sizes: set[int]) -> dict[int, Cohort]:
    """The same images stored finely enough for teachers of larger inputs, where they are to be had.

    The student keeps the images it would have without them, so that the teacher is all that a control lacks.
    """
    finer = {}
    for size in sorted(sizes):
        if pixel_size_for(size) <= cohort.pixel_size:
            continue
        stored = _open(config, size, cohort.labels)
        same = stored.table.select("image", "split").equals(cohort.table.select("image", "split"))
        if same and np.array_equal(stored.targets, cohort.targets, equal_nan=True):
            finer[size] = stored
        else:
            print(f"note: stored for {size} pixels the images are split otherwise; the teacher sees them enlarged")
    return finer


def _teacher_start(config: FinetuneConfig, run: Path) -> Start:
    """The weights a teacher begins with: those asked for, else the run's own backbone where it fits."""
    if config.start is not None:
        return _start(config, config.architecture)
    backbone = run / "ssl" / "backbone.safetensors"
    fits = backbone.exists() and checkpoint.describe(backbone).architecture == config.architecture
    return (Pretrained(backbone),) if fits else ()


def _start(config: TrainConfig, architecture: str) -> Start:
    return resolve(config.start or "random", architecture, config.start_mean, config.start_std)


def _taught_labels(config: DistillConfig, run: Path) -> set[str]:
    """Labels that every teacher answers for, none where one is yet to be fitted."""
    own = run / TEACHER / MODEL
    headers = [checkpoint.describe(path) for path in config.teacher or ([own] if own.exists() else [])]
    losses = build_losses(config.loss)
    answers = not losses or any(not loss.features or loss.name == "simkd" for loss in losses)  # else features alone
    if not headers or not answers or not config.use_unlabelled or any(header.kind != "model" for header in headers):
        return set()
    return set.intersection(*(set(header.labels) for header in headers))


def _teacher_file(config: DistillConfig, run: Path, given: str) -> Path:
    """A teacher's file; fitted now when there is only a backbone, or nothing at all."""
    path = Path(given) if given else run / TEACHER / MODEL
    if path.exists() or given:
        header = checkpoint.describe(path)
        if header.kind == "model":
            return path
        if len(config.teacher) > 1:
            raise BadInput(
                "several teachers, each a model.safetensors",
                f"a {header.kind}",
                where=path,
                do="fit a classifier on it first: finetune --start FILE",
            )
        start, architecture = str(path), header.architecture
    else:
        backbone = run / "ssl" / "backbone.safetensors"
        start = str(backbone) if backbone.exists() else "random"
        architecture = checkpoint.describe(backbone).architecture if backbone.exists() else "resnet50"
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(TrainConfig)}
    shared |= {"start": start, "start_mean": [], "start_std": [], "name": TEACHER, "restart": False, "extend": False}
    shared["seeds"] = []
    print(f"no teacher yet: fitting a {architecture} from {start}", flush=True)
    return finetune(FinetuneConfig(**shared, architecture=architecture))
