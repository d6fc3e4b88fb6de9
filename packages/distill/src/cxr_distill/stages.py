"""The commands ``finetune`` and ``distill``: fit a classifier; fit a teacher if need be, then distil it."""

import dataclasses
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from cxr_common import checkpoint
from cxr_common.gain import auroc_gain
from cxr_common.inference import outputs
from cxr_common.models.encoders import find_encoder
from cxr_common.models.features import feature_shapes
from cxr_common.models.pretrained import Pretrained, Start, parents_of, resolve
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.accelerator import start as start_accelerator
from cxr_common.training.sizes import training_size
from cxr_data import open_cohort, pixel_size_for
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.suggestions import suggest, typed
from cxr_data.errors import BadInput
from cxr_data.files import write_json
from cxr_data.models import hub
from cxr_data.models.decisions import probabilities
from cxr_data.models.header import model_header, weights_of_onnx
from cxr_data.models.licences import UNKNOWN, ancestors
from cxr_data.models.metrics import auroc, macro
from cxr_data.sources import default_size, print_notes
from cxr_distill import eight_bits
from cxr_distill.config import DistillConfig, FinetuneConfig, TrainConfig
from cxr_distill.data import labelled_task, with_trained_labels, without_labels
from cxr_distill.losses import Loss, PooledCosine, build_losses, check_losses, loss_settings, recommended
from cxr_distill.results import BACKBONE, FLOAT, MODEL, beside
from cxr_distill.teacher import Teacher, load_encoder, load_teacher
from cxr_distill.teachers import Distillation, check_encoders, check_teachers
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
    config = dataclasses.replace(config, size=training_size(config.size, config.data, config.architecture))
    run = Path(config.runs_dir, config.run)
    cohort = _open(config)
    labelled_task(cohort)
    accelerator = start_accelerator(config.precision, config.seed, deterministic=config.deterministic)
    folder = run / stage_name(config)
    start = _teacher_start(config, run)
    parents = parents_of(start)
    model = train(config, config.architecture, folder, cohort, accelerator, start=start, parents=parents)
    if config.bits:
        accelerator.free_memory()
        _in_eight_bits(config, config.architecture, cohort, model, start)
    if accelerator.is_main_process:
        print(f"wrote {model}")
    return model


def distill(config: DistillConfig) -> Path:
    """Train a student on its teachers' outputs; fit the teacher first where there is only a run's own backbone.

    Returns:
        Path of the student's model.safetensors, or backbone.safetensors of one that learnt features alone.

    Raises:
        BadInput: Data, teacher, losses or run folder that cannot work.
    """
    config = dataclasses.replace(config, size=training_size(config.size, config.data, config.student))
    run = Path(config.runs_dir, config.run)
    words = [_teacher_place(given) for given in config.teacher]
    headless = [_is_encoder(given) for given in words]  # a missing file must not cost the fitting of anything
    answering = [word for word, encoder in zip(words, headless, strict=True) if not encoder]
    cohort = _open(config, taught=_taught_labels(config, run, answering))
    encoders, classifiers = sum(headless), max(1, len(headless)) - sum(headless)
    if encoders and not classifiers and not config.task_weight:
        _refuse_label_options(config)
        cohort = without_labels(cohort)
    elif answering:
        features = shlex.quote(f"{answering[0]}#features")
        labelled_task(cohort, f"or learn the classifier's features from images alone: --teacher {features}")
    losses = _losses(config, cohort, encoders, classifiers)
    usual = 0.0 if cohort.task is None else next(iter(losses)).task_weight
    task_weight = usual if config.task_weight is None else config.task_weight
    if not task_weight and not any(losses.values()):
        raise BadInput("a loss with a weight above 0", "none", where="--loss", do="give one a weight")
    # What is kept says what was done.
    config = dataclasses.replace(config, loss=loss_settings(losses), task_weight=task_weight)
    with torch.device("meta"):  # a misspelt student must not cost the fitting of a teacher
        build(config.student, len(cohort.labels), size=config.input_size)
    accelerator = start_accelerator(config.precision, config.seed, deterministic=config.deterministic)
    teachers, parents_of_teachers = _load_teachers(config, run, cohort, losses, words or [""], headless or [False])
    unknown = [entry for entry in ancestors(parents_of_teachers) if entry["licence"] == UNKNOWN]
    unlicensed = [entry["name"] for entry in unknown if not entry["source"].startswith("cxr ")]  # those are one's own
    if unlicensed and accelerator.is_main_process:
        names = ", ".join(unlicensed)
        print(f"note: nothing says the licence of {names}, which the student's depends on", flush=True)
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
    both = (*parents, *parents_of_teachers)
    model = train(
        config, config.student, folder, cohort, accelerator, start=start, distillation=distillation, parents=both
    )
    if config.bits:
        accelerator.free_memory()
        _in_eight_bits(config, config.student, cohort, model, start, distillation, both[len(parents) :])
    written = [model]
    if config.control:
        accelerator.free_memory()  # or the first network and its optimiser stay on the device
        accelerator = start_accelerator(config.precision, config.seed, deterministic=config.deterministic)
        control = beside(folder, "control")
        alone = with_trained_labels(cohort, config.label_fraction, config.seed)  # a teacher's labels are not its own
        if alone.labels != cohort.labels and accelerator.is_main_process:
            print(f"{control.name}: note: {alone.notes[0]}")
        written.append(train(config, config.student, control, alone, accelerator, start=start, parents=parents))
        if accelerator.is_main_process:
            print(_gain(folder / GAIN, alone, *written))
    if accelerator.is_main_process:
        print("\n".join(f"wrote {path}" for path in written))
    accelerator.wait_for_everyone()  # the gain is written when this returns
    return model


def _in_eight_bits(
    config: FinetuneConfig | DistillConfig,
    architecture: str,
    cohort: Cohort,
    float_model: Path,
    start: Start,
    distillation: Distillation | None = None,
    teachers: tuple[dict[str, str], ...] = (),
) -> None:
    """Train a finished model on in 8 bits, in a folder beside its own; on the grid it computes in float32 anyway."""
    parents = (checkpoint.parent(FLOAT, float_model), *teachers)
    folder = eight_bits.stage_folder(float_model, config)
    accelerator = start_accelerator(config.precision, config.seed, deterministic=config.deterministic)
    model = train(
        config,
        architecture,
        folder,
        cohort,
        accelerator,
        start=start,
        distillation=distillation,
        parents=parents,
        float_model=float_model,
    )
    if accelerator.is_main_process:
        print(f"wrote {model}, in 8 bits; export-model makes its file")


def next_step(config: FinetuneConfig | DistillConfig, model: Path) -> str:
    """The command after a finished stage: a student for the classifier, a report, or a classifier on a backbone."""
    place = {"run": config.run, "runs_dir": config.runs_dir}
    size = config.size or default_size(config.data)
    if isinstance(config, DistillConfig) and model.name == BACKBONE:
        name = f"{model.parent.name}-linear"
        options = {"architecture": config.student, "size": size, "start": str(model), "mode": "linear", "name": name}
        if open_cohort(config.data, pixel_size=pixel_size_for(size), seed=0, show=False).has_labels("train", "val"):
            return suggest("finetune", data=config.data, **place, **options)
        command = typed("finetune", data="LABELLED", **place, **options)
        return f"a classifier begins with these weights and a cohort with labels:  {command}"
    if isinstance(config, DistillConfig):
        return suggest("evaluate", **place)
    teacher = None if model == Path(config.runs_dir, config.run, TEACHER, MODEL) else str(model)
    return suggest("distill", data=config.data, **place, size=size, teacher=teacher, control=True)


def _teacher_place(given: str) -> str:
    """A teacher as it lies on this machine; one of a Hub is fetched."""
    architecture, equals, place = given.rpartition("=")
    place, _, part = place.partition("#")
    if not place.startswith(hub.PREFIX):
        return given
    return f"{architecture}{equals}{hub.weights(place)}{'#' if part else ''}{part}"


def _is_encoder(given: str) -> bool:
    """Whether a teacher gives features alone; looks at it."""
    file = Path(given)
    file = hub.weights(file) if file.is_dir() else file
    if file.suffix == ".onnx" and file.is_file():
        return model_header(file).kind == "backbone"
    plain = file.is_file() and checkpoint.is_ours(file)
    if not plain or checkpoint.describe(file).kind == "backbone":
        find_encoder(given)
        return True
    return False


def _refuse_label_options(config: DistillConfig) -> None:
    """Refuse options about labels where none are looked at: they would be ignored in silence."""
    usual = DistillConfig()
    for name in ("label_fraction", "imbalance", "task_loss", "control"):
        if getattr(config, name) != getattr(usual, name):
            found = "teachers without a classifier and no --task_weight: labels are not looked at"
            do = "give --task_weight 1 to learn labels beside features, or leave the option out"
            raise BadInput("labels to learn", found, where=f"--{name}", do=do)


def _losses(config: DistillConfig, cohort: Cohort, encoders: int, classifiers: int) -> dict[Loss, float]:
    """The losses asked for, or those recommended; refuses those that do not suit task and teachers."""
    losses = build_losses(config.loss)
    if not losses and classifiers:
        losses |= recommended(labelled_task(cohort), len(cohort.labels))
    if not any(loss.headless for loss in losses) and encoders and not config.loss:
        losses |= {PooledCosine(projector=True): PooledCosine.weight}
    if cohort.task is not None:
        check_losses(losses, cohort.task, labels=len(cohort.labels))
    task = labelled_task(cohort) if classifiers else str(cohort.task)
    of_answers = {loss: weight for loss, weight in losses.items() if not (encoders and loss.headless)}
    options = {"task": task, "ensemble": config.ensemble, "cached_views": config.cached_views}
    if encoders:
        check_encoders(losses, classifiers=classifiers)
    if classifiers:
        check_teachers(of_answers, teachers=classifiers, **options)
    return losses


def _load_teachers(
    config: DistillConfig,
    run: Path,
    cohort: Cohort,
    losses: Mapping[Loss, float],
    words: Sequence[str],
    headless: Sequence[bool],
) -> tuple[tuple[Teacher, ...], list[dict[str, str]]]:
    """The teachers, frozen, and their provenance."""
    needed = sorted({name for loss in losses for name in loss.features})
    mean, std = cohort.mean_std()
    grid = None
    if "level4" in needed and any(headless):
        with torch.device("meta"):
            network = build(config.student, 0, size=config.input_size)
        student = GrayNetwork(network, mean, std)
        grid = config.patch_grid or feature_shapes(student, ["level4"], config.input_size)["level4"][-1]
    teachers, parents = [], []
    for number, (given, encoder) in enumerate(zip(words, headless, strict=True), start=1):
        role = f"teacher-{number}" if number > 1 else "teacher"
        if encoder:
            options = {"mean": mean, "std": std, "size": config.teacher_size, "grid": grid}
            teachers.append(load_encoder(given, needed, **options))
            parents.append({**parents_of((find_encoder(given).weights,))[0], "role": role})
        else:
            path = _teacher_file(config, run, given)
            asked = [] if any(headless) else needed
            teachers.append(load_teacher(path, cohort.labels, labelled_task(cohort), asked))
            parents.append(checkpoint.parent(role, path))
            if path.suffix == ".onnx" and weights_of_onnx(path) is None:
                said = "its model.safetensors, which tells the images it was trained on, does not lie beside it"
                print(f"note: {path.name}: {said}: evaluate cannot find them among its own", flush=True)
    return tuple(teachers), parents


def stage_name(config: FinetuneConfig | DistillConfig) -> str:
    """Folder of a stage within its run."""
    return config.name or (config.student if isinstance(config, DistillConfig) else TEACHER)


def _gain(path: Path, cohort: Cohort, model: Path, control: Path) -> str:
    """Write the gain by the teacher on validation images, in the control's labels, to ``path``; say it in a line."""
    rows = cohort.rows("val")
    scores = []
    for file in (model, control):
        network, header = checkpoint.load(file, kind="model")
        logits = outputs(network, cohort.pixels, rows, header.input.size)
        answers = probabilities(logits, str(header.task))  # as the epochs were judged, before calibration
        scores.append(answers[:, [header.labels.index(label) for label in cohort.labels]])
    with_teacher, without = scores
    gain = auroc_gain(cohort.targets[rows], with_teacher, without, cohort.groups[rows])
    taught, alone = (macro(auroc(cohort.targets[rows], score)) for score in scores)
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
        stored = stored if cohort.labels else without_labels(stored)
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


def _taught_labels(config: DistillConfig, run: Path, classifiers: Sequence[str]) -> set[str]:
    """Labels that every teacher answers for, none where one is yet to be fitted."""
    own = run / TEACHER / MODEL
    own_file = [own] if own.exists() and not config.teacher else []
    headers = [model_header(hub.weights(path)) for path in [*classifiers, *own_file]]
    losses = build_losses(config.loss)
    answers = not losses or any(not loss.features or loss.teaches_answers for loss in losses)  # else features alone
    if not headers or not answers or not config.use_unlabelled or any(header.kind != "model" for header in headers):
        return set()
    return set.intersection(*(set(header.labels) for header in headers))


def _teacher_file(config: DistillConfig, run: Path, given: str) -> Path:
    """A classifier's file; the run's own is fitted now where it is not there yet."""
    path = hub.weights(given) if given else run / TEACHER / MODEL
    if path.exists():
        return path
    backbone = run / "ssl" / "backbone.safetensors"
    start = str(backbone) if backbone.exists() else "random"
    architecture = checkpoint.describe(backbone).architecture if backbone.exists() else "resnet50"
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(TrainConfig)}
    shared |= {"start": start, "start_mean": [], "start_std": [], "name": TEACHER, "restart": False, "extend": False}
    shared |= {"seeds": [], "bits": None}
    print(f"no teacher yet: fitting a {architecture} from {start}", flush=True)
    return finetune(FinetuneConfig(**shared, architecture=architecture))
