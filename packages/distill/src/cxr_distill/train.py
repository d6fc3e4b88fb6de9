"""The training loop of ``finetune`` and ``distill``: a classifier trained on labels and, if any, on teachers."""

import contextlib
import functools
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from cxr_common.models.features import feature_channels
from cxr_common.models.pretrained import Start
from cxr_common.models.zoo import GrayNetwork
from cxr_common.training.accelerator import arithmetic
from cxr_common.training.parameters import groups, set_lr
from cxr_common.training.processes import (
    align_gradients,
    average_buffers,
    broadcast_from_main,
    share_batch_statistics,
)
from cxr_common.training.run_folder import RunFolder
from cxr_common.training.session import TrainingSession, open_training_run
from cxr_common.training.state import Best, MetricMeans, keep_if_best
from cxr_common.training.state import TrainState as CommonState
from cxr_data.cohorts.chunk_cache import shuffle_window
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.command import config_dict
from cxr_distill import eight_bits, linear
from cxr_distill.average import Average
from cxr_distill.config import TrainConfig
from cxr_distill.data import Batch, TrainingSet, batches, labelled_task, mixed, order_of, training_set
from cxr_distill.imbalance import first_logits
from cxr_distill.layerwise import slower_below
from cxr_distill.losses import Interface, Outputs
from cxr_distill.losses.processes import gather_batch
from cxr_distill.monitoring import EVERY, check_finite, dominating, gradient_shares, score, validation
from cxr_distill.plan import Plan, planned
from cxr_distill.results import conclude, identity, weights_file
from cxr_distill.student import Student, new_network
from cxr_distill.teachers import Distillation, Teachers, epoch_views, prepare
from cxr_distill.validation import feature_losses, validation_logits

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(kw_only=True)
class TrainState(CommonState[Student]):
    """All that training changes, and what a step needs beside it.

    Attributes:
        network: The student with its adapters.
        loss_on_labels: Function of logits (B, L) and targets (B, L); None where features alone are learnt.
        teachers: The teachers; None trains on labels alone.
        average: Moving average of the weights; None for none.
        means: Metrics of the epoch so far.
        clip: Largest norm of the gradient; 0 never clips.
        stopped: No better epoch has come for as long as the config allows.
        warned: Losses that were reported to dominate the gradient.
    """

    loss_on_labels: Callable[[Tensor, Tensor], Tensor] | None
    teachers: Teachers | None = None
    average: Average | None = None
    means: MetricMeans = field(default_factory=MetricMeans)
    clip: float = 0.0
    stopped: bool = False
    warned: list[str] = field(default_factory=list)

    SAVED: ClassVar[tuple[str, ...]] = (*CommonState.SAVED, "stopped", "warned")

    def __post_init__(self) -> None:
        """Average and means are part of what is saved."""
        self.parts = {"means": self.means, **({"average": self.average} if self.average else {})}


def train(
    config: TrainConfig,
    architecture: str,
    folder: Path,
    cohort: Cohort,
    accelerator: "Accelerator",
    *,
    start: Start = (),
    distillation: Distillation | None = None,
    parents: tuple[dict[str, str], ...] = (),
    float_model: Path | None = None,
) -> Path:
    """Train a classifier and write ``model.safetensors``; resume where an earlier start was stopped.

    The weights kept are those of the epoch with the best validation AUROC. Calibration and thresholds are
    fitted on validation data too; test data is not touched. On a cohort without labels encoders are the teachers, the
    best epoch is that of the lowest distillation loss on validation images, and ``backbone.safetensors`` is written.

    Args:
        config: The command's config.
        architecture: Name in the zoo.
        folder: The stage's folder.
        cohort: Cohort with splits "train" and "val".
        accelerator: Device, precision and processes.
        start: Files of starting weights; none draws random ones.
        distillation: The teachers and how to learn from them; None trains on labels alone.
        parents: Provenance of the files this run is made from.
        float_model: A model of the same config, which is trained on in 8 bits; None trains in float.

    Returns:
        Path of the model file.

    Raises:
        BadInput: Labels, start or folder that cannot work, or a training that diverged.
    """
    data = training_set(cohort, config, labelled_only=distillation is None or not distillation.use_unlabelled)
    show = accelerator.is_main_process
    student = _new_student(config, architecture, data, start, distillation, show=show, float_model=float_model)
    share_batch_statistics(student, accelerator)
    align_gradients(student, accelerator)
    fresh = None if float_model else student.network
    plan = planned(config, len(data.rows), start, fresh, accelerator.num_processes)
    if float_model:
        plan = eight_bits.planned(config, plan)
    wanted = identity(config, architecture, cohort, parents, epochs=plan.epochs, guided=distillation is not None)
    options: Any = {"restart": config.restart, "extend": config.extend, "track": config.track}
    with open_training_run(folder, wanted, config_dict(config), accelerator, **options) as run:
        written = weights_file(folder, cohort)
        if run.finished:
            return written
        if not plan.epochs:
            outcome = _without_training(config, data, student, accelerator)
        elif config.mode == "linear":
            outcome = _fit_linear(config, data, student, accelerator, run)
        else:
            outcome = _train_epochs(config, data, plan, student, distillation, accelerator, run)
        conclude(config, architecture, data, accelerator, run, parents, student.network, *outcome)
        if config.mode == "linear":
            shutil.rmtree(folder / linear.FEATURES, ignore_errors=True)
    return written


def _train_epochs(
    config: TrainConfig,
    data: TrainingSet,
    plan: Plan,
    student: Student,
    distillation: Distillation | None,
    accelerator: "Accelerator",
    run: RunFolder,
) -> tuple[Best, dict[str, Any]]:
    """Train epoch by epoch, from where an earlier start was stopped; the student ends with the best weights."""
    state = _new_state(config, data, student, plan, distillation, accelerator)
    with TrainingSession(run, state, epochs=plan.epochs, steps=plan.steps, batch_size=plan.batch_size) as session:
        state.stopped = state.stopped and not run.extended
        while state.epoch < plan.epochs and not state.stopped:
            state.model.train()
            for batch in session.timed(_epoch(config, data, plan, state), lambda batch: batch.images):
                set_lr(state.optimizer, plan.lr_at(state.epoch * plan.steps + state.step))
                metrics = train_step(state, batch)
                state.means.add(metrics, optional=[name for name in metrics if name.endswith("_share")])
                session.end_step(plan.batch_size, metrics["loss"])
            line = _validate(config, data, state, run.path)
            session.end_epoch({**line, "lr": plan.lr_at((state.epoch + 1) * plan.steps - 1)}, line)
            _warn_of_dominating_loss(line, state, session)
            _stop_early(config.patience, state, session)
            state.end_epoch()
            session.save_in_time()
        if config.keep_state:
            session.save()
    assert state.best is not None
    student.network.network.load_state_dict(state.best.weights)
    return state.best, {"epochs": plan.epochs, **session.facts()}


def _without_training(
    config: TrainConfig, data: TrainingSet, student: Student, accelerator: "Accelerator"
) -> tuple[Best, dict[str, Any]]:
    """The network as it is: one in 8 bits of which only the ranges were taken."""
    student.to(accelerator.device)
    logits = validation_logits(student.network, data, config, accelerator, torch.float32)
    targets, task = data.cohort.targets[data.val_rows], labelled_task(data.cohort)
    return Best(0, None, validation(logits, targets=targets, task=task, teacher=None), {}), {"epochs": 0}


def train_step(state: TrainState, batch: Batch) -> dict[str, Tensor]:
    """One step: forward, losses, backward, update.

    Args:
        state: Its weights, optimiser state and average are changed.
        batch: The batch.

    Returns:
        The loss, its named terms before their weights and, every so many steps, each term's share of the gradient
        ("NAME_share", NaN where fp16 overflowed), detached scalars; reading them waits for the device.
    """
    accelerator, student = state.accelerator, state.network
    with accelerator.autocast():
        out: Outputs = state.model(batch.images)
        seen = state.teachers.outputs(batch) if state.teachers else None
    parts, weights = {}, {"task": 1.0}
    if state.loss_on_labels is not None:
        parts["task"] = state.loss_on_labels(gather_batch(out.logits), gather_batch(batch.targets))
    if state.teachers and seen is not None:
        distillation = state.teachers.distillation
        parts |= state.teachers.terms(out, seen, batch.targets, student.adapters)
        weights = {"task": distillation.task_weight} | {loss.name: w for loss, w in distillation.losses.items()}
    # With several processes every parameter needs a gradient, also where only a loss of weight 0 gives one.
    shared = accelerator.num_processes > 1
    terms = {name: weights[name] * value for name, value in parts.items() if weights[name] != 0 or shared}
    loss = functools.reduce(torch.add, terms.values())
    shares = {}
    if state.step % EVERY == 0 and len(terms) > 1:
        # Losses on logits meet there, at no cost; others meet in the weights alone.
        trained = [p for p in student.network.parameters() if p.requires_grad]
        scale = accelerator.scaler.get_scale() if accelerator.scaler else 1.0
        shares = gradient_shares(terms, trained if student.feature_names else [out.logits], scale)
        # fp16 begins with a scale at which gradients overflow, so as to find the largest that holds.
        finite = torch.stack(list(shares.values())).isfinite().all()
        shares = {name: torch.where(finite, share, torch.nan) for name, share in shares.items()}
    state.optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    if state.clip and accelerator.sync_gradients:
        accelerator.clip_grad_norm_(state.model.parameters(), state.clip)
    state.optimizer.step()
    if state.average:
        state.average.update(student)
    return {name: value.detach() for name, value in ({"loss": loss} | parts | shares).items()}


def _adapters(
    network: GrayNetwork, size: int, distillation: Distillation | None
) -> tuple[nn.ModuleDict | None, tuple[str, ...]]:
    """Adapters of the losses, and the features that the losses read."""
    if distillation is None or not distillation.feature_names:
        return None, ()
    names = distillation.feature_names
    return distillation.adapters(Interface(feature_channels(network, names, size))), names


def _new_student(
    config: TrainConfig,
    architecture: str,
    data: TrainingSet,
    start: Start,
    distillation: Distillation | None,
    *,
    show: bool,
    float_model: Path | None = None,
) -> Student:
    """The network with its starting weights, and the adapters of its losses."""
    torch.manual_seed(config.seed)
    if float_model:
        network = eight_bits.started(float_model, config, data.cohort, data.rows)
        return Student(network, *_adapters(network, config.input_size, distillation))
    network = new_network(
        architecture,
        len(data.cohort.labels),
        config.input_size,
        *data.cohort.mean_std(),
        start,
        config.optim.drop_path,
        first_logits(data.targets[data.rows], data.task, config.imbalance) if data.task else None,
        show=show,
    )
    return Student(network, *_adapters(network, config.input_size, distillation))


def _new_state(
    config: TrainConfig,
    data: TrainingSet,
    student: Student,
    plan: Plan,
    distillation: Distillation | None,
    accelerator: "Accelerator",
) -> TrainState:
    """The state before the first step, on the device."""
    workers = config.workers or 0
    teachers = None
    if distillation:
        teachers = prepare(distillation, data.cohort, data.rows, data.spec, accelerator, workers=workers)
    parameters: Any = groups(student, config.weight_decay)
    if config.mode == "layerwise":
        parameters = slower_below(parameters, student.network.network, config.optim.lowest_lr)
    optimizer = torch.optim.AdamW(parameters, lr=plan.peak_lr, fused=True)
    model, optimizer = accelerator.prepare(student, optimizer)
    return TrainState(
        network=student,
        model=model,
        optimizer=optimizer,
        accelerator=accelerator,
        loss_on_labels=data.loss,
        teachers=teachers,
        average=Average(student, config.optim.ema) if config.optim.ema else None,
        clip=config.optim.clip,
    )


def _epoch(config: TrainConfig, data: TrainingSet, plan: Plan, state: TrainState) -> Iterator[Batch]:
    """The batches of the current epoch that are still to be trained on."""
    teachers, n, epoch = state.teachers, len(data.rows), state.epoch
    distillation = teachers.distillation if teachers else None
    fixed = distillation is not None and distillation.cached_views > 0
    window = shuffle_window(data.cohort, data.rows)
    steps = batches(
        data.cohort,
        data.rows,
        data.targets,
        data.spec,
        order_of(n, config.seed, epoch, plan.batch_size, data.weights, fixed=fixed, window=window),
        epoch_views(distillation, data.spec, n, config.seed, epoch),
        accelerator=state.accelerator,
        first_step=state.step,
        sizes=teachers.sizes if teachers else (),
        finer=distillation.finer if distillation else {},
        cached=teachers.cached_reader(epoch) if teachers else None,
        workers=config.workers,
        augment_on_device=config.augment_on_device,
    )
    for step, batch in enumerate(steps, start=state.step):
        if config.optim.mixup:
            seed = (config.seed, epoch, step, state.accelerator.process_index)
            yield mixed(batch, config.optim.mixup, seed)
        else:
            yield batch


def _validate(config: TrainConfig, data: TrainingSet, state: TrainState, folder: Path) -> dict[str, Any]:
    """Metrics of the epoch that has just ended; keeps its weights where it is the best.

    Raises:
        BadInput: The loss is no longer finite; in all processes alike.
    """
    means, student, epoch = state.means.means(state.accelerator), state.network, state.epoch + 1
    state.means.reset()
    check_finite("a finite loss", means["loss"], epoch, folder)
    average_buffers(student, state.accelerator)
    with state.average.applied(student) if state.average else contextlib.nullcontext():
        average_buffers(student, state.accelerator)
        student.fold()
        if data.task:
            logits = validation_logits(student.network, data, config, state.accelerator)
            teacher = state.teachers.validation if state.teachers else None
            figures = validation(logits, targets=data.cohort.targets[data.val_rows], task=data.task, teacher=teacher)
        else:
            assert state.teachers is not None
            figures = feature_losses(student, state.teachers, data, config, state.accelerator)
        figures = broadcast_from_main(figures, state.accelerator)
        check_finite("a finite loss on validation images", figures["val_loss"], epoch, folder)
        state.best = keep_if_best(
            state.best, student.network.network, epoch=epoch, score=score(figures), figures=figures
        )
    finite = {name: value if math.isfinite(value) else None for name, value in means.items()}
    return {"epoch": epoch, **finite, **figures}


def _stop_early(patience: int, state: TrainState, session: TrainingSession) -> None:
    """Stop where no better epoch has come for ``patience`` epochs; 0 never stops."""
    assert state.best is not None
    if patience and state.epoch + 1 - state.best.epoch >= patience:
        session.say(f"no better validation AUROC for {patience} epochs, stopped")
        state.stopped = True


def _warn_of_dominating_loss(line: dict[str, Any], state: TrainState, session: TrainingSession) -> None:
    """Say once of each loss that it dominates the others."""
    name = dominating(line)
    if name and name not in state.warned:
        state.warned.append(name)
        option = "--task_weight" if name == "task" else f"--loss {name}=..."
        share = f"{100 * line[f'{name}_share']:.1f} %"
        session.say(f"warning: {name} makes up {share} of the gradient; lower {option} to let others count")


def _fit_linear(
    config: TrainConfig, data: TrainingSet, student: Student, accelerator: "Accelerator", run: RunFolder
) -> tuple[Best, dict[str, Any]]:
    """Fit the classifier alone; the best penalty and the time it took."""
    network = student.network.to(accelerator.device)
    rows, n = data.rows, len(data.rows)
    if data.weights is not None:
        window = shuffle_window(data.cohort, rows)
        rows = rows[order_of(n, config.seed, 0, n, data.weights, window=window).images[0]]
    assert data.task is not None
    assert data.loss is not None
    look = functools.partial(
        linear.pooled_features, network, data.cohort, size=config.input_size, precision=arithmetic(accelerator)
    )
    judge = functools.partial(validation, targets=data.cohort.targets[data.val_rows], task=data.task)
    best, seconds = linear.fit(network, look, rows, data.val_rows, data.targets, data.loss, judge, run)
    return Best(best["epoch"], tuple(best["score"]), best["val"], {}), {"seconds": round(seconds, 1)}
