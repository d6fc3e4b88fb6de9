"""The one loop of this stage: a classifier learns from labels and, where there are teachers, from these."""

import contextlib
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cxr_common import checkpoint, inference
from cxr_common.models.features import stage_channels
from cxr_common.models.pretrained import Start
from cxr_common.models.zoo import GrayNetwork
from cxr_common.training.accelerator import arithmetic, peak_memories
from cxr_common.training.loader import epoch_order
from cxr_common.training.parameters import groups, set_lr
from cxr_common.training.processes import (
    anyone,
    as_main_says,
    average_buffers,
    gathered,
    give_back,
    global_batch,
    share_batch_statistics,
)
from cxr_common.training.resume import StopSignal, load_state, rng_state, save_state, set_rng_state
from cxr_common.training.run_folder import RunFolder, open_run
from cxr_common.training.schedules import warmup_cosine
from cxr_data.augment import training_views
from cxr_data.cohort import Cohort
from cxr_data.command import config_dict
from cxr_data.progress import Progress
from cxr_distill import linear
from cxr_distill.average import Average
from cxr_distill.config import TrainConfig
from cxr_distill.data import Batch, batches, labelled_task, mixed, order_of, training_rows
from cxr_distill.imbalance import first_logits, label_loss, sampling_weights
from cxr_distill.layerwise import slower_below
from cxr_distill.losses import Outputs, build_adapters, each_loss
from cxr_distill.monitoring import EVERY, check_finite, drowning, gradient_shares, score, validation
from cxr_distill.outcome import LATER, MODEL, conclude, identity
from cxr_distill.student import Student, new_network
from cxr_distill.teacher import linear_layer
from cxr_distill.teachers import Guidance, Lessons, epoch_views, prepare

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(
    config: TrainConfig,
    architecture: str,
    folder: Path,
    cohort: Cohort,
    accelerator: "Accelerator",
    *,
    start: Start = (),
    guidance: Guidance | None = None,
    parents: tuple[dict[str, str], ...] = (),
) -> Path:
    """Train one classifier and write ``model.safetensors``; go on where an earlier start was stopped.

    The weights kept are those of the epoch with the best validation AUROC. Calibration and thresholds are
    fitted on validation data too; test data is not touched.

    Args:
        config: The command's config.
        architecture: Name in the zoo.
        folder: The stage's folder.
        cohort: Labelled cohort with splits "train" and "val".
        accelerator: The engine.
        start: Files of starting weights; none draws random ones.
        guidance: The teachers and how to learn from them; None trains on labels alone.
        parents: Provenance of the files this run is made from.

    Returns:
        Path of the model file.

    Raises:
        BadInput: Labels, start or folder that cannot work.
    """
    # What is learnt from, and what it is judged by.
    task, optim = labelled_task(cohort), config.optim
    fraction = config.label_fraction
    rows, targets = training_rows(cohort, fraction=fraction, seed=config.seed, labelled_only=guidance is None)
    smoothing, imbalance = optim.label_smoothing, config.imbalance
    loss = label_loss(task, config.task_loss, targets[rows], imbalance=imbalance, label_smoothing=smoothing)
    weights = sampling_weights(targets[rows], task) if imbalance == "balanced" else None
    val_rows = cohort.rows("val")
    on_validation = functools.partial(
        inference.outputs,
        pixels=cohort.pixels,
        rows=val_rows,
        size=config.size,
        precision=arithmetic(accelerator),
        workers=config.workers,
    )
    judge = functools.partial(validation, targets=cohort.targets[val_rows], task=task)

    # Who learns, and how fast.
    torch.manual_seed(config.seed)
    mean_std = cohort.mean_std()
    prior = first_logits(targets[rows], task, imbalance)
    network = new_network(
        architecture,
        len(cohort.labels),
        config.size,
        *mean_std,
        start,
        optim.drop_path,
        prior,
        show=accelerator.is_main_process,
    )
    student = Student(network, *_adapters(network, config.size, guidance))
    share_batch_statistics(student, accelerator)
    batch_size = global_batch(config.batch_size, len(rows), accelerator.num_processes)
    steps = len(epoch_order(len(rows), config.seed, 0, batch_size))
    epochs = config.epochs or automatic_epochs(steps)
    peak = config.lr or automatic_lr(start) * (batch_size / 64) ** 0.5
    rate = functools.partial(
        warmup_cosine, steps=epochs * steps, warmup_steps=max(steps // 2, 1), peak=peak, start=peak / 20
    )

    # Where it is written.
    main = accelerator.is_main_process
    wanted = identity(config, architecture, cohort, parents, guided=guidance is not None)
    with accelerator.main_process_first():
        run = open_run(folder, wanted, config_dict(config), restart=config.restart, main=main, later=LATER)
    if run.finished:
        if main:
            print(f"{folder}: done before, nothing to do")
        run.close()
        return folder / MODEL
    finish = functools.partial(conclude, config, architecture, cohort, network, parents=parents, run=run)
    facts = {"train_images": len(rows), "device": str(accelerator.device)}
    if config.mode == "linear":
        network.to(accelerator.device)
        chosen = rows if weights is None else rows[order_of(len(rows), config.seed, 0, len(rows), weights).images[0]]
        look = functools.partial(
            linear.pooled_features, network, cohort, size=config.size, precision=arithmetic(accelerator)
        )
        best, seconds = linear.fit(network, look, chosen, val_rows, targets, loss, judge, run)
        finish(on_validation(network), best, summary={**facts, "seconds": round(seconds, 1)})
        accelerator.wait_for_everyone()
        return folder / MODEL

    # Who teaches.
    spec = training_views(config.augment, config.size)
    lessons = prepare(guidance, cohort, rows, spec, accelerator, workers=config.workers) if guidance else None

    parameters: Any = groups(student, config.weight_decay)
    if config.mode == "layerwise":
        parameters = slower_below(parameters, network.network, optim.lowest_lr)
    optimizer = torch.optim.AdamW(parameters, lr=peak, fused=True)
    model, optimizer = accelerator.prepare(student, optimizer)
    average = Average(student, optim.ema) if optim.ema else None
    kept = {"student": student, "optimizer": optimizer, "average": average, "scaler": accelerator.scaler}

    at = _resume(run, kept, accelerator)
    began = saved = time.perf_counter() - at["seconds"]
    cost_of_saving = 0.0
    shown = Progress(folder.name, epochs, steps, start_epoch=at["epoch"], start_step=at["step"], show=main)
    with StopSignal() as stop, shown as progress:
        while at["epoch"] < epochs and not at["stopped"]:
            epoch = at["epoch"]
            model.train()
            fixed = guidance is not None and guidance.view_sets > 0
            for batch in batches(
                cohort,
                rows,
                targets,
                spec,
                order_of(len(rows), config.seed, epoch, batch_size, weights, fixed=fixed),
                epoch_views(guidance, spec, len(rows), config.seed, epoch),
                accelerator=accelerator,
                first_step=at["step"],
                sizes=lessons.sizes if lessons else (),
                finer=guidance.finer if guidance else {},
                replay=lessons.replay(epoch) if lessons else None,
                workers=config.workers,
            ):
                step = at["step"]
                if optim.mixup:
                    batch = mixed(batch, optim.mixup, (config.seed, epoch, step, accelerator.process_index))
                set_lr(optimizer, rate(epoch * steps + step))
                measure = step % EVERY == 0
                parts = train_step(
                    model, batch, optimizer, accelerator, loss, lessons, clip=optim.clip, measure=measure
                )
                if average:
                    average.update(student)
                for name, value in parts.items():
                    total, count = at["sums"].get(name, (0, 0))
                    at["sums"][name] = (total + value.float(), count + 1)
                progress.step(batch_size, **({"loss": float(parts["loss"])} if step % 10 == 0 else {}))
                at["step"] += 1
                at["images"] += batch_size
                if anyone(stop.requested, at["step"], accelerator):
                    at["seconds"] = time.perf_counter() - began
                    _save(run, kept, at, accelerator)
                    run.close()
                    raise SystemExit(143)

            means = {name: float(total) / count for name, (total, count) in at["sums"].items()}
            check_finite("a finite loss", means["loss"], epoch + 1, folder)
            average_buffers(student, accelerator)
            with average.applied(student) if average else contextlib.nullcontext():
                average_buffers(student, accelerator)
                student.settle()
                val = judge(on_validation(network), teacher=lessons.validation if lessons else None)
                val = as_main_says(val, accelerator)
                check_finite("a finite loss on validation images", val["val_loss"], epoch + 1, folder)
                if not at["best"] or score(val) > at["best"]["score"]:
                    state = {k: v.detach().cpu().clone() for k, v in network.network.state_dict().items()}
                    at["best"] = {"score": score(val), "epoch": epoch + 1, "weights": state, "val": val}
            line = {"epoch": epoch + 1, **{k: v if math.isfinite(v) else None for k, v in means.items()}, **val}
            run.log({**line, "lr": rate(epoch * steps + steps - 1)})
            progress.epoch(line)
            _warn(line, at, progress, folder.name)
            if config.patience and epoch + 1 - at["best"]["epoch"] >= config.patience:
                progress.say(f"{folder.name}: no better validation AUROC for {config.patience} epochs, stopped")
                at["stopped"] = True
            now = time.perf_counter()
            at |= {"epoch": epoch + 1, "step": 0, "sums": {}, "seconds": now - began}
            # Saving stays below a tenth of the time, however big the network.
            # The clock of one process decides for all, since all must come along.
            due = main and at["epoch"] < epochs and now - saved >= 10 * cost_of_saving
            if anyone(due, 0, accelerator):
                _save(run, kept, at, accelerator)
                saved = time.perf_counter()
                cost_of_saving = saved - now

    network.network.load_state_dict(at["best"]["weights"])
    summary = {
        **facts,
        "epochs": epochs,
        "seconds": round(at["seconds"], 1),
        "images_per_second": round(at["images"] / at["seconds"], 1),
        **peak_memories(),
        "precision": accelerator.mixed_precision.replace("no", "fp32"),
    }
    finish(on_validation(network), at["best"], summary=summary)
    accelerator.wait_for_everyone()
    return folder / MODEL


def train_step(
    model: nn.Module,
    batch: Batch,
    optimizer: Any,
    accelerator: "Accelerator",
    loss_on_labels: Callable[[Tensor, Tensor], Tensor],
    lessons: Lessons | None = None,
    *,
    clip: float = 0.0,
    measure: bool = False,
) -> dict[str, Tensor]:
    """One step: forward, losses, backward, update.

    Args:
        model: The student, perhaps wrapped for several processes.
        batch: What it learns from.
        optimizer: Its optimiser.
        accelerator: The engine.
        loss_on_labels: Function of logits (B, L) and targets (B, L).
        lessons: The teachers at work, or None.
        clip: Largest norm of the gradient; 0 never clips.
        measure: Whether to look at each loss's share of the gradient too.

    Returns:
        The loss, its named parts before their weights and, where measured, their shares ("NAME_share"), detached;
        reading them waits for the device.
    """
    student: Any = accelerator.unwrap_model(model)
    with accelerator.autocast():
        out: Outputs = model(batch.images)
        seen = lessons.seen(batch) if lessons else None
    parts, weights = {"task": loss_on_labels(out.logits, batch.targets)}, {"task": 1.0}
    if lessons and seen is not None:
        guidance = lessons.guidance
        parts |= each_loss(
            guidance.losses,
            out,
            seen,
            batch.targets,
            task=str(guidance.teachers[0].header.task),
            temperature=guidance.temperature,
            stage=guidance.stage,
            adapters=student.adapters,
            use_unlabelled=True,
        )
        weights = {"task": guidance.task_weight, **guidance.losses}
    # Several processes wait for the gradient of every parameter, also where only a loss of weight 0 has one.
    shared = accelerator.num_processes > 1
    terms = {name: weights[name] * value for name, value in parts.items() if weights[name] != 0 or shared}
    loss = functools.reduce(torch.add, terms.values())
    shares = {}
    if measure and len(terms) > 1:
        # Losses on logits meet there, at no cost; others meet in the weights alone.
        trained = [p for p in student.network.parameters() if p.requires_grad]
        scale = accelerator.scaler.get_scale() if accelerator.scaler else 1.0
        found = gradient_shares(terms, trained if student.stages else [out.logits], scale)
        # fp16 begins with a scale at which gradients overflow, so as to find the largest that holds.
        shares = found if torch.stack(list(found.values())).isfinite().all() else {}
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    if clip and accelerator.sync_gradients:
        accelerator.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return {name: value.detach() for name, value in ({"loss": loss} | parts | shares).items()}


def automatic_lr(start: Start) -> float:
    """Peak learning rate for 64 images a step.

    Args:
        start: Files of starting weights.

    Returns:
        1e-3 from random weights and from our backbones, 3e-4 from a classifier or foreign weights. A backbone
        pretrained without labels has yet to learn what they are: at 3e-4 it ended lower on the phantom's validation
        images.
    """

    def pretrained_here(path: Path) -> bool:
        return checkpoint.is_ours(path) and checkpoint.describe(path).kind == "backbone"

    return 1e-3 if all(one is None or pretrained_here(one.path) for one in start) else 3e-4


def automatic_epochs(steps: int) -> int:
    """Epochs for a cohort of ``steps`` steps: about 600 steps in all, but from 8 to 30 epochs."""
    return int(np.clip(round(600 / steps), 8, 30))


def _adapters(
    network: GrayNetwork, size: int, guidance: Guidance | None
) -> tuple[nn.ModuleDict | None, tuple[str, ...], tuple[Tensor, Tensor] | None]:
    """Adapters of the feature losses, the features they need, and the teacher's classifier where it is reused."""
    if guidance is None or not guidance.stages:
        return None, (), None
    teacher, stages = guidance.teachers[0], guidance.stages
    own = stage_channels(network, stages, size)
    its = stage_channels(teacher.network, stages, teacher.size)
    adapters = build_adapters(guidance.losses, own, its, guidance.stage)
    reused = None
    if "simkd" in guidance.losses:
        layer = linear_layer(teacher.network, "a teacher for the loss simkd")
        bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
        reused = (layer.weight[teacher.order].detach().clone(), bias[teacher.order].detach().clone())
    return adapters, stages, reused


def _warn(line: dict[str, Any], at: dict[str, Any], progress: Progress, name: str) -> None:
    """Say once of each loss that it drowns the others."""
    loud = drowning(line)
    if loud and loud not in at["drowning"]:
        at["drowning"].append(loud)
        option = "--task_weight" if loud == "task" else f"--loss {loud}=..."
        share = f"{100 * line[f'{loud}_share']:.1f} %"
        progress.say(f"{name}: warning: {loud} makes up {share} of the gradient; lower {option} to let others count")


def _resume(run: RunFolder, kept: dict[str, Any], accelerator: "Accelerator") -> dict[str, Any]:
    """Where to begin: at the start, or where the run's resume state says, which is then loaded into ``kept``."""
    state = load_state(run.state, accelerator.num_processes)
    nothing = {"epoch": 0, "step": 0, "sums": {}, "best": {}, "stopped": False, "drowning": []}
    nothing |= {"seconds": 0.0, "images": 0}
    if state is None:
        run.truncate_log(0)
        return nothing
    for name, part in kept.items():
        if part is not None:
            part.load_state_dict(state[name])
    give_back(_own(kept), state["own"], accelerator)
    set_rng_state(state["rng"])
    run.truncate_log(state["lines"])
    return nothing | state["at"]


def _save(run: RunFolder, kept: dict[str, Any], at: dict[str, Any], accelerator: "Accelerator") -> None:
    """Write what `_resume` reads; all processes must come here together."""
    own = gathered(_own(kept), accelerator)
    if run.main:
        state = {name: part.state_dict() for name, part in kept.items() if part is not None}
        state |= {"own": own, "rng": rng_state(), "at": at, "lines": len(run.lines())}
        save_state(run.state, state, accelerator.num_processes)


def _own(kept: dict[str, Any]) -> dict[str, Tensor]:
    """Batch statistics, and their averages, which every process has of its own."""
    buffers, average = dict(kept["student"].named_buffers()), kept["average"]
    if average:
        buffers |= {f"average of {name}": average.values[name] for name in list(buffers) if name in average.values}
    return buffers
