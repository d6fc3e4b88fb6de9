"""The training loop of ``ssl-pretrain``: a backbone trained on radiographs without labels."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cxr_common.models.pretrained import parents_of, resolve
from cxr_common.training.accelerator import arithmetic
from cxr_common.training.accelerator import start as start_accelerator
from cxr_common.training.parameters import set_lr
from cxr_common.training.processes import align_gradients, all_reduce_sum, average_buffers, share_batch_statistics
from cxr_common.training.run_folder import RunFolder, experiment
from cxr_common.training.session import TrainingSession, open_training_run
from cxr_common.training.sizes import training_size
from cxr_common.training.state import keep_if_best
from cxr_data import open_cohort, pixel_size_for
from cxr_data.cohorts.chunk_cache import shuffle_identity
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.command import config_dict
from cxr_data.errors import BadInput
from cxr_data.models.header import identities
from cxr_data.sources import print_notes
from cxr_ssl.checkpointing import recompute_activations
from cxr_ssl.config import PretrainConfig, PretrainSettings
from cxr_ssl.crops import crop_batches, crop_specs
from cxr_ssl.diagnostics import defined
from cxr_ssl.messages import SHOWN, farewell, introduction, probe_sentence
from cxr_ssl.method import Method
from cxr_ssl.plan import Plan, make_plan
from cxr_ssl.probe import probe_backbone
from cxr_ssl.recovery import react_to_collapse
from cxr_ssl.results import before, write_results
from cxr_ssl.state import TrainState, make_optimizer, new_backbone, set_weight_decay
from cxr_ssl.step import train_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    Probe = Callable[[], dict[str, float | None]]


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain a backbone and write ``backbone.safetensors``; resume where an earlier start was stopped.

    The weights kept are those of the epoch with the best linear probe on validation images where there are labels,
    else the last. Only training pixels train; test images are not touched.

    Args:
        config: The command's config.

    Returns:
        Path of the backbone.

    Raises:
        BadInput: Data, architecture, start or folder that cannot work, or a run that has collapsed.

    Examples:
        >>> from cxr_ssl import pretrain
        >>> from cxr_ssl.config import PretrainConfig
        >>> config = PretrainConfig(data="phantom:200", architecture="resnet18", epochs=4)
        >>> pretrain(config)  # doctest: +SKIP
        PosixPath('runs/quickstart/ssl/backbone.safetensors')
    """
    config = replace(config, size=training_size(config.size, config.data, config.architecture))
    cohort, probed = _open_cohorts(config)
    rows, folder = cohort.rows("train"), Path(config.runs_dir, config.run, config.name)
    accelerator = start_accelerator(config.precision, config.seed, deterministic=config.deterministic)
    plan = make_plan(config, len(rows), accelerator.num_processes)
    specs = crop_specs(config.input_size, config.crops, config.local_size)
    method, parents = _new_method(config, cohort, plan, min(spec.size for spec in specs), accelerator)
    identity = _identity(config, plan, cohort, probed, parents)
    options: Any = {"restart": config.restart, "extend": config.extend, "track": config.track}
    with open_training_run(folder, identity, config_dict(config), accelerator, **options) as run:
        if run.finished:
            return folder / "backbone.safetensors"
        state = _new_state(config, method, plan, len(rows), run, accelerator)
        computed = {"seed": config.seed, "precision": arithmetic(accelerator), "workers": config.workers}
        probe: Probe = functools.partial(
            probe_backbone, method.backbone, probed, config.input_size, accelerator, **computed
        )
        with TrainingSession(run, state, epochs=plan.epochs, steps=plan.steps, batch_size=plan.global_batch) as session:
            if not session.resumed:
                _begin(config, cohort, state, session, probe)
            while state.epoch < plan.epochs:
                state.model.train()
                batches = crop_batches(
                    cohort,
                    rows,
                    specs,
                    seed=config.seed,
                    epoch=state.epoch,
                    first_step=state.step,
                    global_batch=plan.global_batch,
                    accelerator=accelerator,
                    workers=config.workers,
                    augment_on_device=config.augment_on_device,
                )
                for crops in session.timed(batches, lambda crops: crops[0][0]):
                    step = state.epoch * plan.steps + state.step
                    set_lr(state.optimizer, state.plan.lr_at(step))
                    set_weight_decay(state.optimizer, state.plan.weight_decay_at(step))
                    metrics = train_step(state, crops)
                    session.end_step(plan.global_batch, metrics["loss"])
                _end_epoch(config, state, session, probe)
                session.save_in_time()
            if config.keep_state:
                session.save()
        if run.main:
            written = write_results(config, cohort, parents, state, run, session.facts())
            assert state.best is not None
            print(farewell(config, cohort, before(run), state.best, written))
        accelerator.wait_for_everyone()
    return folder / "backbone.safetensors"


def _open_cohorts(config: PretrainConfig) -> tuple[Cohort, Cohort]:
    """The cohort to train on and the one to probe on."""
    pixel_size = pixel_size_for(config.input_size)
    cohort = open_cohort(config.data, pixel_size=pixel_size, seed=0)
    print_notes(cohort, config.data)
    if len(cohort.rows("train")) < 2:
        raise BadInput("at least 2 training images", str(len(cohort.rows("train"))), where=cohort.source)
    if config.probe_data is None:
        return cohort, cohort
    probed = open_cohort(config.probe_data, pixel_size=pixel_size, seed=0)
    if probed.task is None:
        raise BadInput("a cohort with labels", "images alone", where="--probe_data")
    return cohort, probed


def _new_method(
    config: PretrainConfig, cohort: Cohort, plan: Plan, smallest_crop: int, accelerator: "Accelerator"
) -> tuple[Method, tuple[dict[str, str], ...]]:
    """The method around a backbone with its starting weights, and their provenance."""
    torch.manual_seed(config.seed)
    start = resolve(config.start, config.architecture, config.start_mean, config.start_std)
    main, options = accelerator.is_main_process, config.method_options
    backbone = new_backbone(
        config.architecture, config.input_size, cohort.mean_std(), start, smallest_crop=smallest_crop, show=main
    )
    settings = options.settings(len(cohort.rows("train")), plan)
    method = options.build(backbone, settings, plan, coded_crops=config.crops.global_count)
    if config.on_collapse != "warn":
        method.refuse_certain_collapse()
    share_batch_statistics(method.module, accelerator)
    align_gradients(method.module, accelerator)
    if config.checkpointing:
        recompute_activations(backbone.network)
    return method, parents_of(start)


def _identity(
    config: PretrainConfig, plan: Plan, cohort: Cohort, probed: Cohort, parents: tuple[dict[str, str], ...]
) -> dict[str, Any]:
    """All that the result depends on."""
    return {
        "stage": "ssl-pretrain",
        "epochs": plan.epochs,
        "config": experiment(config, PretrainSettings),
        "options": config_dict(config.method_options),
        "global_batch": plan.global_batch,
        "parents": identities(parents),
        "cohort": cohort.fingerprint,
        "probe_cohort": probed.fingerprint,
        **shuffle_identity(cohort),
    }


def _new_state(
    config: PretrainConfig, method: Method, plan: Plan, images: int, run: RunFolder, accelerator: "Accelerator"
) -> TrainState:
    """The state before the first step, on the device."""
    optimizer = make_optimizer(config.optimizer, method.module, lr=plan.lr, weight_decay=plan.weight_decay)
    model, prepared = accelerator.prepare(method.module, optimizer)
    method.start(accelerator.device, plan.global_batch // accelerator.num_processes)
    if run.extended:  # what began at a step of the shorter run does not begin again
        shorter = make_plan(config, images, accelerator.num_processes)
        shorter = replace(shorter, epochs=run.extended[0])
        method.change(config.method_options.settings(images, shorter))
    state = TrainState(
        network=method.module,
        model=model,
        optimizer=prepared,
        accelerator=accelerator,
        method=method,
        plan=plan,
        accumulate=config.accumulate,
    )
    if config.on_collapse == "recover":
        state.healthy = state.snapshot()
    return state


def _begin(config: PretrainConfig, cohort: Cohort, state: TrainState, session: TrainingSession, probe: "Probe") -> None:
    """Say what is about to happen, and probe the starting weights."""
    session.say(introduction(config, cohort, state.method, state.plan, state.accelerator))
    for warning in state.method.warnings(state.plan):
        session.say(f"warning: {warning}")
    figures = probe()
    session.run.log({"epoch": 0, **figures})
    session.say(f"before the first epoch  {probe_sentence(figures)}")


def _end_epoch(config: PretrainConfig, state: TrainState, session: TrainingSession, probe: "Probe") -> None:
    """Diagnose and probe the epoch, log it, and move on; after a collapse perhaps back.

    Raises:
        BadInput: The run has collapsed and is to stop.
    """
    method = state.method
    average_buffers(method.module, state.accelerator)
    sums = {name: all_reduce_sum(total, state.accelerator).cpu().double() for name, total in method.sums.items()}
    diagnostics = method.diagnostics(sums)
    figures = {**{name: defined(value) for name, value in diagnostics.items()}, **probe()}
    line = {"epoch": state.epoch + 1, "lr": state.optimizer.param_groups[0]["lr"], **figures}
    session.progress.epoch({name: figures[name] for name in SHOWN if name in figures})
    recovery = None
    if collapse := method.collapse(diagnostics):
        recovery, advice = react_to_collapse(collapse, state, config.on_collapse, session.run.path)
        line |= {"collapse": collapse.kind, "recovery": recovery and recovery.description}
        session.say(f"warning: {collapse.kind}: {collapse.evidence}; {advice}")
    session.run.log(line)
    if recovery:
        recovery.apply(state)
        session.progress.back_to(state.epoch)
    else:
        score = figures["probe_auroc"]
        state.best = keep_if_best(
            state.best,
            method.backbone.network,
            epoch=state.epoch + 1,
            score=None if score is None else (score,),
            figures=figures,
        )
        state.end_epoch()
        method.start_epoch()
    if state.healthy is not None:
        state.healthy = state.snapshot()
