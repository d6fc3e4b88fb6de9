"""The one loop of this stage: a backbone learns from radiographs without labels."""

import contextlib
import functools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cxr_common.models.pretrained import parents_of, resolve
from cxr_common.models.zoo import GrayNetwork
from cxr_common.training.accelerator import arithmetic
from cxr_common.training.accelerator import start as start_engine
from cxr_common.training.parameters import set_lr
from cxr_common.training.processes import (
    all_reduce_sum,
    any_process,
    average_buffers,
    highest_signal,
    share_batch_statistics,
)
from cxr_common.training.resume import StopSignal, load_state, save_state
from cxr_common.training.run_folder import RunFolder, open_run
from cxr_data import open_cohort, pixel_size_for
from cxr_data.cohort import Cohort
from cxr_data.command import config_dict
from cxr_data.errors import BadInput
from cxr_data.progress import Progress
from cxr_data.sources import print_notes
from cxr_ssl.checkpointing import recompute_activations
from cxr_ssl.config import PretrainConfig
from cxr_ssl.crops import view_batches, view_specs
from cxr_ssl.diagnostics import defined, diagnose
from cxr_ssl.messages import SHOWN, farewell, introduction, probe_sentence
from cxr_ssl.plan import Plan, misgivings, refuse_hopeless
from cxr_ssl.plan import plan as make_plan
from cxr_ssl.probe import probe_backbone
from cxr_ssl.recovery import answer
from cxr_ssl.results import before, header, summary, write_backbone, write_pictures
from cxr_ssl.state import Learner, make_optimizer, new_backbone, new_learner, set_weight_decay
from cxr_ssl.step import train_step
from cxr_ssl.swav import SwAV

# What a result does not depend on, and so may change between a start and its resumption.
INCIDENTAL = ("preset", "run", "runs_dir", "name", "workers", "restart", "data", "start", "on_collapse")


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
    print_notes(cohort, config.data)
    rows = cohort.rows("train")
    if len(rows) < 2:
        raise BadInput("at least 2 training images", str(len(rows)), where=cohort.source)
    accelerator = start_engine(config.precision, config.seed)
    main, processes = accelerator.is_main_process, accelerator.num_processes
    first_plan = planned(config, len(rows), processes)
    if config.on_collapse != "warn":
        refuse_hopeless(first_plan)
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
    start = resolve(config.start, config.architecture, config.start_mean, config.start_std)
    smallest = min(spec.size for spec in specs)
    backbone = new_backbone(
        config.architecture, config.size, cohort.mean_std(), start, smallest_view=smallest, show=main
    )
    swav = SwAV(
        backbone,
        backbone.network.num_features,
        embedding_dim=first_plan.embedding,
        num_prototypes=first_plan.prototypes,
        standardise=config.standardise,
    )
    share_batch_statistics(swav, accelerator)
    if config.checkpointing:
        recompute_activations(backbone.network)
    optimizer = make_optimizer(config.optimizer, swav, lr=first_plan.lr, weight_decay=first_plan.weight_decay)
    probe = functools.partial(
        probe_backbone, backbone, cohort, config.size, seed=config.seed, precision=arithmetic(accelerator)
    )

    # Where it is written.
    parents = parents_of(start)
    folder = Path(config.runs_dir, config.run, config.name)
    identity = _identity(config, first_plan, cohort, parents)
    with accelerator.main_process_first():
        run = open_run(folder, identity, config_dict(config), restart=config.restart, main=main)
    with contextlib.closing(run):
        if run.finished:
            if main:
                print(f"{folder}: already finished, nothing to do")
            return folder / "backbone.safetensors"

        learner = new_learner(swav, optimizer, first_plan, crops.global_count, accelerator)
        at, healthy = _begin(run, learner, first_plan)
        plan = replace(first_plan, **at["changes"])
        if config.on_collapse == "remedy" and not healthy:
            healthy = {"learner": learner.state(), "at": dict(at)}
        began = saved = time.perf_counter() - at["seconds"]
        cost_of_saving = 0.0
        shown = Progress(
            config.name, plan.epochs, plan.steps, start_epoch=at["epoch"], start_step=at["step"], show=main
        )
        with StopSignal() as stop, shown as progress:
            if not at["images"]:
                progress.say(f"{config.name}: {introduction(config, cohort, plan, accelerator)}")
                for misgiving in misgivings(plan):
                    progress.say(f"{config.name}: warning: {misgiving}")
                figures = probe()
                run.log({"epoch": 0, **figures})
                progress.say(f"{config.name}: before the first epoch  {probe_sentence(figures)}")
            else:
                progress.say(f"{config.name}: goes on with epoch {at['epoch'] + 1}, step {at['step'] + 1}")
            while at["epoch"] < plan.epochs:
                epoch = at["epoch"]
                learner.model.train()
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
                    set_lr(learner.optimizer, plan.lr_at(done))
                    set_weight_decay(learner.optimizer, plan.weight_decay_at(done))
                    loss = train_step(
                        learner.model,
                        views,
                        learner.optimizer,
                        accelerator,
                        learner.queue,
                        learner.monitor,
                        temperature=config.temperature,
                        epsilon=plan.epsilon,
                        frozen=done < plan.freeze_steps,
                        parts=config.accumulate,
                        fill_queue=done >= plan.queue_from,
                    )
                    at["images"] += plan.global_batch
                    progress.step(plan.global_batch, **({"loss": float(loss)} if step % 10 == 0 else {}))
                    if number := highest_signal(stop.received, accelerator):
                        at |= {"step": step + 1, "seconds": time.perf_counter() - began}
                        _save(run, learner, at, healthy)
                        stop.leave(number)

                average_buffers(swav, accelerator)
                health = learner.monitor.numbers(functools.partial(all_reduce_sum, accelerator=accelerator))
                figures = {**{name: defined(value) for name, value in health.items()}, **probe()}
                line = {"epoch": epoch + 1, "lr": learner.optimizer.param_groups[0]["lr"], **figures}
                progress.epoch({name: figures[name] for name in SHOWN})
                remedy = None
                if collapse := diagnose(health, num_prototypes=plan.prototypes, embedding_dim=plan.embedding):
                    remedy, advice = answer(collapse, plan, at, healthy, config.on_collapse, folder)
                    line |= {"collapse": collapse.kind, "remedy": remedy and remedy.told}
                    progress.say(f"{config.name}: warning: {collapse.kind}: {collapse.found}; {advice}")
                run.log(line)
                if remedy:
                    learner.restore(healthy["learner"])
                    at = remedy.applied_to(healthy["at"]) | {"images": at["images"]}
                    plan = replace(first_plan, **at["changes"])
                    progress.back_to(at["epoch"])
                else:
                    at |= {"epoch": epoch + 1, "step": 0, "best": _better(at["best"], figures, epoch + 1, backbone)}
                at["seconds"] = time.perf_counter() - began
                learner.follow(plan)
                if healthy:
                    healthy = {"learner": learner.state(), "at": dict(at)}
                # Saving stays below a tenth of the time, however short the epochs.
                # The clock of one process decides for all, since all must come along.
                due = main and time.perf_counter() - saved >= 10 * cost_of_saving
                if any_process(due, accelerator):
                    started = time.perf_counter()
                    _save(run, learner, at, healthy)
                    saved = time.perf_counter()
                    cost_of_saving = saved - started

        if main:
            best = at["best"]
            about = header(config, cohort, backbone, parents, {"epoch": best["epoch"], **best["figures"]})
            written = write_backbone(folder, best["weights"], about)
            written.append(write_pictures(folder, config, cohort, swav, best, run, arithmetic(accelerator)))
            seconds, images = time.perf_counter() - began, at["images"]
            run.finish(summary(run, best, images=images, seconds=seconds, accelerator=accelerator))
            print(farewell(config, before(run), best, written))
        accelerator.wait_for_everyone()
    return folder / "backbone.safetensors"


def planned(config: PretrainConfig, images: int, processes: int) -> Plan:
    """Everything decided for a number of training images, before any remedy."""
    return make_plan(
        images,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        processes=processes,
        accumulate=config.accumulate,
        epochs=config.epochs,
        embedding=config.embedding,
        prototypes=config.prototypes,
        queue=config.queue,
        queue_start=config.schedule.queue_start,
        epsilon=config.epsilon,
        freeze=config.freeze,
        warmup=config.schedule.warmup,
        lr=config.lr,
        weight_decay=config.weight_decay,
        weight_decay_end=config.weight_decay_end,
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


def _begin(run: RunFolder, learner: Learner, first_plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where to begin, and the last healthy state where one is kept: at the start, or where the run was left.

    The place is a dict: epoch and step to go on with, best epoch so far, seconds and images spent, remedies
    tried, and the fields of the plan that they changed.
    """
    state = load_state(run.state, learner.accelerator.num_processes)
    if state is None:
        run.truncate_log(0)
        at = {"epoch": 0, "step": 0, "best": {}, "seconds": 0.0, "images": 0, "remedies": [], "changes": {}}
        return at, {}
    learner.follow(replace(first_plan, **state["at"]["changes"]))
    learner.restore(state["learner"])
    run.truncate_log(state["lines"])
    return state["at"], state["healthy"]


def _save(run: RunFolder, learner: Learner, at: dict[str, Any], healthy: dict[str, Any]) -> None:
    """Keep everything that going on exactly here takes; all processes must come here together."""
    state = {"learner": learner.state(), "at": at, "healthy": healthy, "lines": len(run.lines())}
    if run.main:
        save_state(run.state, state, learner.accelerator.num_processes)


def _better(best: dict[str, Any], figures: dict[str, Any], epoch: int, backbone: GrayNetwork) -> dict[str, Any]:
    """The epoch with the best probe: the best so far, or this one; without a probe the last."""
    score = figures["probe_auroc"]
    if best and score is not None and best["score"] is not None and score <= best["score"]:
        return best
    weights = {name: one.detach().cpu().clone() for name, one in backbone.network.state_dict().items()}
    return {"score": score, "epoch": epoch, "figures": figures, "weights": weights}
