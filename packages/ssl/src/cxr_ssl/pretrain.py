"""The one loop of this stage: a backbone learns from radiographs without labels."""

import contextlib
import functools
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cxr_common import checkpoint
from cxr_common.cohorts import open_cohort, pixel_size_for
from cxr_common.cohorts.cohort import Cohort
from cxr_common.command import config_dict
from cxr_common.errors import BadInput
from cxr_common.models.foreign import from_foreign
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.accelerator import arithmetic
from cxr_common.training.accelerator import start as start_engine
from cxr_common.training.parameters import average_buffers, groups, set_lr
from cxr_common.training.progress import Progress
from cxr_common.training.resume import StopSignal, anyone, load_state, rng_state, save_state, set_rng_state
from cxr_common.training.run_folder import RunFolder, open_run
from cxr_common.training.schedules import warmup_cosine
from cxr_ssl.config import PretrainConfig
from cxr_ssl.crops import view_batches, view_specs
from cxr_ssl.feature_queue import FeatureQueue
from cxr_ssl.health import Collapse, Monitor, defined, diagnose
from cxr_ssl.outcome import before, header, summary, write_backbone
from cxr_ssl.probe import probe_backbone
from cxr_ssl.rules import Plan
from cxr_ssl.rules import plan as make_plan
from cxr_ssl.sinkhorn import sinkhorn
from cxr_ssl.swav import SwAV, freeze_prototypes, normalise_prototypes, swapped_prediction_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

# What a result does not depend on, and so may change between a start and its resumption.
INCIDENTAL = ("run", "runs_dir", "name", "workers", "restart", "data", "start", "on_collapse")
SHOWN = ("loss", "code_entropy", "prototypes_in_use", "rank", "probe_auroc")
"""Numbers of an epoch that a person is shown; metrics.jsonl has all."""


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain a backbone and write ``backbone.safetensors``; go on where an earlier start was stopped.

    The weights kept are those of the epoch with the best linear probe on validation images where the cohort
    has labels, else the last. Only training pixels train; test images are not touched.

    Args:
        config: The command's config.

    Returns:
        Path of the backbone.

    Raises:
        BadInput: Data, architecture, start or folder that cannot work, or a run that has collapsed.
    """
    # What is learnt from.
    cohort = open_cohort(config.data, pixel_size=pixel_size_for(config.size), seed=0)
    rows = cohort.rows("train")
    if len(rows) < 2:
        raise BadInput("at least 2 training images", str(len(rows)), where=cohort.source)
    accelerator = start_engine(config.precision, config.seed)
    main, device, processes = accelerator.is_main_process, accelerator.device, accelerator.num_processes
    plan = _plan(config, len(rows), processes)
    crops = config.crops
    specs = view_specs(
        config.size,
        crops.global_count,
        crops.global_scale,
        local_size=config.local_size,
        local_count=crops.local_count,
        local_scale=crops.local_scale,
    )

    # Who learns.
    torch.manual_seed(config.seed)
    start = None if config.start == "random" else Path(config.start)
    smallest = min(spec.size for spec in specs)
    backbone = new_backbone(config.architecture, config.size, cohort.mean_std(), start, smallest_view=smallest)
    width = int(backbone.network.num_features)  # type: ignore[arg-type]
    swav = SwAV(backbone, width, embedding_dim=plan.embedding, num_prototypes=plan.prototypes)
    if processes > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(swav)  # in place, as swav itself is no BatchNorm
    optimizer = make_optimizer(config.optimizer, swav, lr=plan.lr, weight_decay=config.weight_decay)
    queue = FeatureQueue(crops.global_count, plan.queue, plan.global_batch // processes, plan.embedding, device)
    probe = functools.partial(
        probe_backbone, backbone, cohort, config.size, seed=config.seed, precision=arithmetic(accelerator)
    )

    # Where it is written.
    parents = (checkpoint.parent("start", start),) if start else ()
    folder = Path(config.runs_dir, config.run, config.name)
    identity = _identity(config, plan, cohort, parents)
    with accelerator.main_process_first():
        run = open_run(folder, identity, config_dict(config), restart=config.restart, main=main)
    with contextlib.closing(run):
        if run.finished:
            if main:
                print(f"{folder}: done before, nothing to do")
            return folder / "backbone.safetensors"

        model, optimizer = accelerator.prepare(swav, optimizer)
        new_monitor = functools.partial(Monitor, plan.prototypes, plan.embedding, device)
        monitor = new_monitor()
        at = _resume(run, swav, optimizer, queue, monitor, accelerator)
        save = functools.partial(_save, run, swav, optimizer, queue, accelerator=accelerator)
        began = saved = time.perf_counter() - at["seconds"]
        cost_of_saving = 0.0
        rate = functools.partial(
            warmup_cosine,
            steps=plan.epochs * plan.steps,
            warmup_steps=plan.warmup_steps,
            peak=plan.lr,
            start=plan.lr / 20,
            end=plan.lr / 1000,
        )
        shown = Progress(
            config.name, plan.epochs, plan.steps, start_epoch=at["epoch"], start_step=at["step"], show=main
        )
        with StopSignal() as stop, shown as progress:
            if not at["images"]:
                progress.say(f"{config.name}: {_introduction(config, cohort, plan, accelerator)}")
                figures = probe()
                run.log({"epoch": 0, **figures})
                progress.say(f"{config.name}: before the first epoch  {_sentence(figures)}")
            else:
                progress.say(f"{config.name}: goes on with epoch {at['epoch'] + 1}, step {at['step'] + 1}")
            for epoch in range(at["epoch"], plan.epochs):
                model.train()
                batches = view_batches(
                    cohort,
                    rows,
                    specs,
                    seed=config.seed,
                    epoch=epoch,
                    first_step=at["step"],
                    global_batch=plan.global_batch,
                    accelerator=accelerator,
                    workers=config.workers,
                )
                for step, views in enumerate(batches, start=at["step"]):
                    done = epoch * plan.steps + step
                    set_lr(optimizer, rate(done))
                    loss = train_step(
                        model,
                        views,
                        optimizer,
                        accelerator,
                        queue,
                        monitor,
                        temperature=config.temperature,
                        epsilon=config.epsilon,
                        frozen=done < plan.freeze_steps,
                    )
                    at["images"] += plan.global_batch
                    progress.step(plan.global_batch, **({"loss": float(loss)} if step % 10 == 0 else {}))
                    if anyone(stop.requested, step, accelerator):
                        at |= {"epoch": epoch, "step": step + 1, "seconds": time.perf_counter() - began}
                        save(monitor, at)
                        raise SystemExit(143)

                average_buffers(swav)
                health = monitor.numbers(functools.partial(_total, accelerator=accelerator))
                monitor = new_monitor()
                figures = {**{name: defined(value) for name, value in health.items()}, **probe()}
                run.log({"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"], **figures})
                progress.epoch({name: figures[name] for name in SHOWN})
                if collapse := diagnose(health, num_prototypes=plan.prototypes, embedding_dim=plan.embedding):
                    _report(collapse, epoch + 1, config, folder, progress)
                score, best = figures["probe_auroc"], at["best"]
                if not best or score is None or best["score"] is None or score > best["score"]:
                    weights = {name: one.detach().cpu().clone() for name, one in _weights(backbone).items()}
                    at["best"] = {"score": score, "epoch": epoch + 1, "figures": figures, "weights": weights}
                at |= {"epoch": epoch + 1, "step": 0, "seconds": time.perf_counter() - began}
                # Saving stays below a tenth of the time, however short the epochs.
                # The clock of one process decides for all, since all must come along.
                due = main and time.perf_counter() - saved >= 10 * cost_of_saving
                if anyone(due, 0, accelerator):
                    started = time.perf_counter()
                    save(monitor, at)
                    saved = time.perf_counter()
                    cost_of_saving = saved - started

        if main:
            best = at["best"]
            about = header(config, cohort, parents, {"epoch": best["epoch"], **best["figures"]})
            written = write_backbone(folder, best["weights"], about)
            seconds, images = time.perf_counter() - began, at["images"]
            run.finish(summary(run, best, images=images, seconds=seconds, accelerator=accelerator))
            print(_farewell(config, before(run), best, written))
        accelerator.wait_for_everyone()
    return folder / "backbone.safetensors"


def train_step(
    model: nn.Module,
    views: list[Tensor],
    optimizer: Any,
    accelerator: "Accelerator",
    queue: FeatureQueue,
    monitor: Monitor,
    *,
    temperature: float,
    epsilon: float,
    frozen: bool,
) -> Tensor:
    """One step: embed all views, code the global ones, predict each code from the other views, update.

    Args:
        model: A `SwAV`, perhaps wrapped for several processes.
        views: One tensor a size, (V_s, B, 1, H_s, W_s) uint8; the views of the first get codes.
        optimizer: Its optimiser.
        accelerator: The engine.
        queue: Earlier embeddings; takes in those of this step.
        monitor: Takes in the health of this step.
        temperature: tau of the prediction.
        epsilon: Smoothness of the codes.
        frozen: Leave the prototypes where they are.

    Returns:
        The loss, detached; reading it waits for the device.
    """
    coded, images = views[0].shape[:2]
    with accelerator.autocast():
        embeddings, scores = model(views)
    swav: Any = getattr(model, "module", model)  # without the wrapper for several processes
    balanced = scores[:coded].detach()
    if queue.full:
        balanced = torch.cat([balanced, queue.scores(swav.prototypes.weight)], dim=1)
    codes = torch.stack([sinkhorn(view, epsilon=epsilon)[:images] for view in balanced])
    loss, _ = swapped_prediction_loss(scores, codes, temperature=temperature)

    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    if frozen:
        freeze_prototypes(swav.prototypes)
    optimizer.step()
    if not frozen:
        normalise_prototypes(swav.prototypes)

    queue.push(embeddings[:coded])
    monitor.update(loss, embeddings[:coded], scores[:coded].detach(), codes)
    return loss.detach()


def new_backbone(
    architecture: str,
    size: int,
    mean_std: tuple[float, float],
    start: Path | None,
    *,
    smallest_view: int,
) -> GrayNetwork:
    """Build the network that is pretrained.

    Args:
        architecture: Name in the zoo.
        size: Edge of the input.
        mean_std: Mean and standard deviation of the training pixels / 255.
        start: Weights to begin with, ours or foreign; None draws them from torch's generator.
        smallest_view: Edge of the smallest view the network will see.

    Raises:
        BadInput: Unknown architecture, weights that do not fit it, or a view that leaves its last stage a
            single pixel.
    """
    network: Any = build(architecture, 0, size=size)
    reduction = max(level["reduction"] for level in network.feature_info)
    # A kernel that strides over a single pixel learns in its middle only; and oneDNN's bf16 convolution (seen in
    # torch 2.15) leaves the gradient of its other weights unwritten: whatever lay in memory, NaN at times.
    if 2 * smallest_view <= reduction:
        raise BadInput(
            f"views of more than {reduction // 2} pixels for {architecture}, which shrinks them {reduction} times",
            f"views of {smallest_view} pixels",
            do=f"--crops.local_size {3 * reduction // 4} or more, or a larger --size",
        )
    if start is not None:
        network.load_state_dict(from_foreign(start, architecture, size=size))
    return GrayNetwork(network, *mean_std).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_optimizer(name: str, swav: SwAV, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW, or SGD or lightly's LARS with momentum .9 (LARS does not scale groups without weight decay)."""
    parameters = groups(swav, weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, fused=True)
    if name == "sgd":
        sgd = torch.optim.SGD(parameters, lr=lr, momentum=0.9, fused=True)
        # Fused SGD fails when a first gradient comes late, as that of frozen prototypes does: momentum 0 is the same.
        for parameter in swav.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    from lightly.utils.lars import LARS

    return LARS(parameters, lr=lr, momentum=0.9)


def _plan(config: PretrainConfig, images: int, processes: int) -> Plan:
    return make_plan(
        images,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        processes=processes,
        epochs=config.epochs,
        embedding=config.embedding,
        prototypes=config.prototypes,
        queue=config.queue,
        freeze=config.freeze,
        lr=config.lr,
    )


def _identity(
    config: PretrainConfig, plan: Plan, cohort: Cohort, parents: tuple[dict[str, str], ...]
) -> dict[str, Any]:
    """All that the result depends on."""
    return {
        "stage": "ssl-pretrain",
        "config": {name: value for name, value in config_dict(config).items() if name not in INCIDENTAL},
        "plan": asdict(plan),
        "parents": {p["role"]: p["sha256"] for p in parents},
        "cohort": cohort.fingerprint,
    }


def _resume(
    run: RunFolder,
    swav: SwAV,
    optimizer: Any,
    queue: FeatureQueue,
    monitor: Monitor,
    accelerator: "Accelerator",
) -> dict[str, Any]:
    """Where to begin: at the start, or where the run's resume state says, which is then loaded."""
    state = load_state(run.state)
    if state is None:
        run.truncate_log(0)
        return {"epoch": 0, "step": 0, "best": {}, "seconds": 0.0, "images": 0}
    swav.load_state_dict(state["swav"])
    optimizer.load_state_dict(state["optimizer"])
    rank = accelerator.process_index  # queue and batch statistics are each process's own
    queue.restore({**state["queue"], "embeddings": state["queue"]["embeddings"][rank]})
    for name, buffer in swav.named_buffers():
        buffer.copy_(state["buffers"][name][rank])
    if run.main:  # the sums of all processes, which must not count more than once
        monitor.restore(state["monitor"])
    set_rng_state(state["rng"])
    run.truncate_log(state["lines"])
    return state["at"]


def _save(
    run: RunFolder,
    swav: SwAV,
    optimizer: Any,
    queue: FeatureQueue,
    monitor: Monitor,
    at: dict[str, Any],
    *,
    accelerator: "Accelerator",
) -> None:
    """Keep everything that going on exactly here takes; all processes must come here together."""
    stored = {**queue.state(), "embeddings": accelerator.gather(queue.embeddings[None])}
    buffers = {name: accelerator.gather(buffer[None]) for name, buffer in swav.named_buffers()}
    sums = {name: _total(value, accelerator=accelerator) for name, value in monitor.state().items()}
    if run.main:
        state = {"swav": swav.state_dict(), "optimizer": optimizer.state_dict(), "rng": rng_state()}
        state |= {"queue": stored, "buffers": buffers, "monitor": sums, "at": at, "lines": len(run.lines())}
        save_state(run.state, state)


def _total(value: Tensor, *, accelerator: "Accelerator") -> Tensor:
    total: Any = accelerator.reduce(value, "sum")
    return total


def _weights(backbone: GrayNetwork) -> dict[str, Tensor]:
    return backbone.network.state_dict()


def _report(collapse: Collapse, epoch: int, config: PretrainConfig, folder: Path, progress: Progress) -> None:
    if config.on_collapse == "stop":
        raise BadInput(
            "a run that tells images apart",
            f"{collapse.kind} in epoch {epoch}: {collapse.found}",
            where=folder,
            do=f"--restart with {collapse.remedy}; or go on all the same with --on_collapse warn",
        )
    progress.say(f"{config.name}: warning: {collapse.kind}: {collapse.found}; try {collapse.remedy}")


def _introduction(config: PretrainConfig, cohort: Cohort, plan: Plan, accelerator: "Accelerator") -> str:
    crops = config.crops
    return (
        f"{config.architecture} on {len(cohort.rows('train'))} training images of {cohort.name}, "
        f"{crops.global_count} x {config.size} + {crops.local_count} x {config.local_size} px, "
        f"K {plan.prototypes}, D {plan.embedding}, queue {plan.queue}, frozen {plan.freeze_steps} of "
        f"{plan.epochs * plan.steps} steps of {plan.global_batch}, {config.optimizer} {plan.lr:.2g}, "
        f"{accelerator.device} {accelerator.mixed_precision.replace('no', 'fp32')}"
    )


def _sentence(figures: dict[str, float | None]) -> str:
    if figures["probe_auroc"] is None:
        return "no linear probe: a split lacks labels or one of the classes"
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)


def _farewell(config: PretrainConfig, first: float | None, best: dict[str, Any], written: list[Path]) -> str:
    lines = [f"wrote {path}" for path in written]
    if first is not None and best["score"] is not None:
        found = f"AUROC {first:.4f} before, {best['score']:.4f} after epoch {best['epoch']}"
        lines.insert(0, f"linear probe on validation images: {found}")
    data = "" if config.data == "phantom" else f" --data {config.data}"
    return "\n".join([*lines, f"next:  uv run distill --run {config.run}{data}"])
