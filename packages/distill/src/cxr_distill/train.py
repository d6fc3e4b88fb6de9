"""The one loop of this stage: a classifier learns from labels and, where there is one, from a teacher."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_common import checkpoint, decisions, inference
from cxr_common.cohorts.cohort import Cohort
from cxr_common.command import config_dict
from cxr_common.metrics import auroc, macro
from cxr_common.models.taps import stage_channels
from cxr_common.models.zoo import GrayNetwork
from cxr_common.training.accelerator import arithmetic, peak_memory
from cxr_common.training.loader import epoch_order
from cxr_common.training.parameters import average_buffers, groups, set_lr
from cxr_common.training.progress import Progress
from cxr_common.training.resume import StopSignal, anyone, load_state, rng_state, save_state, set_rng_state
from cxr_common.training.run_folder import RunFolder, open_run
from cxr_common.training.schedules import warmup_cosine
from cxr_common.views import ViewSpec
from cxr_distill.config import TrainConfig
from cxr_distill.data import batches, labelled_task, training_rows
from cxr_distill.losses import Outputs, build_adapters, task_loss, weighted_sum
from cxr_distill.student import Student, new_network
from cxr_distill.teacher import Teacher

if TYPE_CHECKING:
    from accelerate import Accelerator

# What a result does not depend on: names, places (hashes of what lies there do count) and conveniences.
INCIDENTAL = {"run", "runs_dir", "name", "workers", "restart", "control", "data", "teacher", "start"}
# What a run without a teacher does not depend on either.
GUIDING = {"loss", "task_weight", "temperature", "stage", "student"}


@dataclass(frozen=True)
class Guidance:
    """What a student learns from its teacher.

    Attributes:
        teacher: The frozen teacher.
        losses: Distillation losses and their weights.
        task_weight: Weight of the loss on the labels.
        temperature: Temperature of the logit losses; None takes each loss's usual one.
        stage: Feature map of the feature losses.
    """

    teacher: Teacher
    losses: dict[str, float]
    task_weight: float
    temperature: float | None
    stage: str


def train(
    config: TrainConfig,
    architecture: str,
    folder: Path,
    cohort: Cohort,
    accelerator: "Accelerator",
    *,
    start: Path | None = None,
    guidance: Guidance | None = None,
    parents: tuple[dict[str, str], ...] = (),
) -> Path:
    """Train one classifier and write ``model.safetensors``; go on where an earlier start was stopped.

    The weights kept are those of the epoch with the best validation AUROC. Temperature and thresholds are
    fitted on validation data too; test data is not touched.

    Args:
        config: The command's config.
        architecture: Name in the zoo.
        folder: The stage's folder.
        cohort: Labelled cohort with splits "train" and "val".
        accelerator: The engine.
        start: File of starting weights; None draws random ones.
        guidance: The teacher and how to learn from it; None trains on labels alone.
        parents: Provenance of the files this run is made from.

    Returns:
        Path of the model file.

    Raises:
        BadInput: Labels, start or folder that cannot work.
    """
    # What is learnt from, and what it is judged by.
    task = labelled_task(cohort)
    loss_on_labels = task_loss(task, config.task_loss)
    fraction = config.label_fraction
    rows, targets = training_rows(cohort, fraction=fraction, seed=config.seed, labelled_only=guidance is None)
    val_rows = cohort.rows("val")
    val_targets = cohort.targets[val_rows]
    on_validation = functools.partial(
        inference.outputs, pixels=cohort.pixels, rows=val_rows, precision=arithmetic(accelerator)
    )

    # Who learns, and how fast.
    torch.manual_seed(config.seed)
    network = new_network(architecture, len(cohort.labels), config.size, *cohort.mean_std(), start)
    student = Student(network, *_adapters(network, config.size, guidance))
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(student)  # in place, as the student itself is no BatchNorm
    global_batch = min(config.batch_size, max(2, len(rows)))
    global_batch -= global_batch % accelerator.num_processes
    steps = len(epoch_order(len(rows), config.seed, 0, global_batch))
    epochs = config.epochs or automatic_epochs(steps)
    peak = config.lr or (3e-4 if start else 1e-3) * (global_batch / 64) ** 0.5
    rate = functools.partial(
        warmup_cosine, steps=epochs * steps, warmup_steps=max(steps // 2, 1), peak=peak, start=peak / 20
    )

    # Where it is written.
    main = accelerator.is_main_process
    identity = _identity(config, architecture, cohort, parents, guided=guidance is not None)
    run = open_run(folder, identity, config_dict(config), restart=config.restart, main=main)
    if run.finished:
        if main:
            print(f"{folder}: done before, nothing to do")
        run.close()
        return folder / "model.safetensors"

    optimizer = torch.optim.AdamW(groups(student, config.weight_decay), lr=peak, fused=True)
    model, optimizer = accelerator.prepare(student, optimizer)

    # Who teaches.
    teacher_size, teacher_logits = None, None
    if guidance:
        teacher = guidance.teacher
        teacher.network.to(accelerator.device)
        teacher_size = teacher.header.input.size
        teacher_logits = on_validation(teacher.network, size=teacher_size)[:, teacher.order]

    at = _resume(run, student, optimizer)
    began = saved = time.perf_counter() - at["seconds"]
    cost_of_saving = 0.0
    shown = Progress(folder.name, epochs, steps, start_epoch=at["epoch"], start_step=at["step"], show=main)
    with StopSignal() as stop, shown as progress:
        while at["epoch"] < epochs and not at["stopped"]:
            epoch = at["epoch"]
            model.train()
            for batch in batches(
                cohort,
                rows,
                targets,
                ViewSpec(config.size, (config.crop, 1.0)),
                seed=config.seed,
                epoch=epoch,
                first_step=at["step"],
                global_batch=global_batch,
                accelerator=accelerator,
                teacher_size=teacher_size,
                workers=config.workers,
            ):
                set_lr(optimizer, rate(epoch * steps + at["step"]))
                parts = train_step(model, batch, optimizer, accelerator, loss_on_labels, task, guidance)
                for name, value in parts.items():
                    at["sums"][name] = at["sums"].get(name, 0) + value.double()
                progress.step(global_batch, **({"loss": float(parts["loss"])} if at["step"] % 10 == 0 else {}))
                at["step"] += 1
                at["images"] += global_batch
                if anyone(stop.requested, at["step"], accelerator):
                    at["seconds"] = time.perf_counter() - began
                    _save(run, student, optimizer, at)
                    raise SystemExit(143)

            average_buffers(student)
            val = validation(on_validation(network, size=config.size), val_targets, task, teacher_logits)
            line = {"epoch": epoch + 1, **{k: float(v) / steps for k, v in at["sums"].items()}, **val}
            run.log({**line, "lr": optimizer.param_groups[0]["lr"]})
            progress.epoch(line)
            score = [round(val["val_auroc"] or 0.0, 6), -(val["val_loss"] or 0.0)]
            if not at["best"] or score > at["best"]["score"]:
                weights = {k: v.detach().cpu().clone() for k, v in network.network.state_dict().items()}
                at["best"] = {"score": score, "epoch": epoch + 1, "weights": weights, "val": val}
            if config.patience and epoch + 1 - at["best"]["epoch"] >= config.patience:
                progress.say(f"{folder.name}: no better validation AUROC for {config.patience} epochs, stopped")
                at["stopped"] = True
            now = time.perf_counter()
            at |= {"epoch": epoch + 1, "step": 0, "sums": {}, "seconds": now - began}
            # Saving stays below a tenth of the time, however big the network.
            if at["epoch"] < epochs and now - saved >= 10 * cost_of_saving:
                _save(run, student, optimizer, at)
                saved = time.perf_counter()
                cost_of_saving = saved - now

    best = at["best"]
    network.network.load_state_dict(best["weights"])
    logits = on_validation(network, size=config.size)
    header = _header(config, architecture, cohort, logits, val_targets, best, parents)
    if main:
        digest = checkpoint.save(folder / "model.safetensors", network, header)
        run.finish(
            {
                "sha256": digest,
                "best_epoch": best["epoch"],
                "epochs": epochs,
                **best["val"],
                "train_images": len(rows),
                "seconds": round(at["seconds"], 1),
                "images_per_second": round(at["images"] / at["seconds"], 1),
                "peak_memory_gib": round(peak_memory(), 2),
                "device": str(accelerator.device),
                "precision": accelerator.mixed_precision.replace("no", "fp32"),
            }
        )
    accelerator.wait_for_everyone()
    return folder / "model.safetensors"


def train_step(
    model: nn.Module,
    batch: tuple[Tensor, Tensor | None, Tensor],
    optimizer: Any,
    accelerator: "Accelerator",
    loss_on_labels: Any,
    task: str,
    guidance: Guidance | None,
) -> dict[str, Tensor]:
    """One step: forward, losses, backward, update.

    Args:
        model: The student, perhaps wrapped for several processes.
        batch: Views (B, 1, S, S) uint8, the same views at the teacher's size or None, targets (B, L).
        optimizer: Its optimiser.
        accelerator: The engine.
        loss_on_labels: Function of logits (B, L) and targets (B, L).
        task: "multiclass" or "multilabel".
        guidance: The teacher and how to learn from it, or None.

    Returns:
        The loss and its named parts, detached; reading them waits for the device.
    """
    images, teacher_images, targets = batch
    with accelerator.autocast():
        out: Outputs = model(images)
        seen = guidance.teacher(teacher_images) if guidance and teacher_images is not None else None
    loss = loss_on_labels(out.logits, targets)
    parts = {"task": loss}
    if guidance and seen is not None:
        distilled, named = weighted_sum(
            guidance.losses,
            out,
            seen,
            targets,
            task=task,
            temperature=guidance.temperature,
            stage=guidance.stage,
            adapters=accelerator.unwrap_model(model).adapters,
            use_unlabelled=True,
        )
        loss = guidance.task_weight * loss + distilled
        parts |= named
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    optimizer.step()
    return {name: value.detach() for name, value in ({"loss": loss} | parts).items()}


def automatic_epochs(steps: int) -> int:
    """Epochs for a cohort of ``steps`` steps: about 600 steps in all, but from 8 to 30 epochs."""
    return int(np.clip(round(600 / steps), 8, 30))


def validation(
    logits: NDArray[np.float32], targets: NDArray[np.float32], task: str, teacher: NDArray[np.float32] | None
) -> dict[str, float | None]:
    """Validation figures of an epoch: loss, AUROC and, beside a teacher, how often both decide alike.

    Args:
        logits: (N, L) of the network.
        targets: (N, L).
        task: "multiclass" or "multilabel".
        teacher: (N, L) logits of the teacher, or None.

    Returns:
        Named figures; None where undefined.
    """
    loss = float(task_loss(task)(torch.from_numpy(logits), torch.from_numpy(targets)))
    area = macro(auroc(targets, decisions.probabilities(logits, task)))
    figures = {"val_loss": loss, "val_auroc": None if np.isnan(area) else area}
    if teacher is not None:
        own, its = (decisions.decide(decisions.probabilities(x, task), None, task) for x in (logits, teacher))
        figures["agreement"] = float(((own == its).all(axis=1) if task == "multiclass" else own == its).mean())
    return figures


def _identity(
    config: TrainConfig, architecture: str, cohort: Cohort, parents: tuple[dict[str, str], ...], guided: bool
) -> dict[str, Any]:
    """What the result depends on; a control is the same whatever its teacher would have been told."""
    skipped = INCIDENTAL if guided else INCIDENTAL | GUIDING
    return {
        "stage": "distill" if guided else "finetune",
        "architecture": architecture,
        "config": {k: v for k, v in config_dict(config).items() if k not in skipped},
        "parents": {p["role"]: p["sha256"] for p in parents},
        "cohort": cohort.fingerprint,
    }


def _adapters(
    network: GrayNetwork, size: int, guidance: Guidance | None
) -> tuple[nn.ModuleDict | None, tuple[str, ...]]:
    """Adapters of the feature losses, and the features they need."""
    if guidance is None or not guidance.teacher.stages:
        return None, ()
    teacher, stages = guidance.teacher, guidance.teacher.stages
    own = stage_channels(network, stages, size)
    its = stage_channels(teacher.network, stages, teacher.header.input.size)
    return build_adapters(guidance.losses, own, its, guidance.stage), stages


def _resume(run: RunFolder, student: Student, optimizer: Any) -> dict[str, Any]:
    """Where to begin: at the start, or where the run's resume state says, which is then loaded."""
    state = load_state(run.state)
    if state is None:
        run.truncate_log(0)
        return {"epoch": 0, "step": 0, "sums": {}, "best": {}, "stopped": False, "seconds": 0.0, "images": 0}
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    set_rng_state(state["rng"])
    run.truncate_log(state["lines"])
    return state["at"]


def _save(run: RunFolder, student: Student, optimizer: Any, at: dict[str, Any]) -> None:
    if run.main:
        state = {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "rng": rng_state()}
        save_state(run.state, {**state, "at": at, "lines": len(run.lines())})


def _header(
    config: TrainConfig,
    architecture: str,
    cohort: Cohort,
    logits: NDArray[np.float32],
    val_targets: NDArray[np.float32],
    best: dict[str, Any],
    parents: tuple[dict[str, str], ...],
) -> checkpoint.Header:
    """Header of the best weights, with temperature and thresholds fitted on validation data."""
    task = labelled_task(cohort)
    calibration = {"temperature": decisions.fit_temperature(logits, val_targets, task)}
    probabilities = decisions.probabilities(logits, task, calibration)
    mean, std = cohort.mean_std()
    return checkpoint.Header(
        kind="model",
        architecture=architecture,
        input=checkpoint.Input(config.size, mean, std, pixels=cohort.pixel_mapping),
        task=task,
        labels=cohort.labels,
        thresholds=decisions.fit_thresholds(probabilities, val_targets, task),
        calibration=calibration,
        config=config_dict(config),
        parents=parents,
        cohort=cohort.describe(),
        seed=config.seed,
        metrics={"epoch": best["epoch"], **best["val"]},
        **checkpoint.provenance(),
    )
