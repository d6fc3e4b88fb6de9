"""Training data: rows, targets, order, and batches of augmented images."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_common.training.accelerator import pinned
from cxr_common.training.device_views import Unrendered, prepared, shown
from cxr_common.training.loader import epoch_order, share
from cxr_data.augment import Views, ViewSpec, training_views
from cxr_data.cohorts.chunk_cache import Window
from cxr_data.cohorts.cohort import Cohort
from cxr_data.cohorts.prefetch import prefetch
from cxr_data.errors import BadInput
from cxr_data.preparation.splits import label_fraction
from cxr_distill.config import TrainingSettings
from cxr_distill.imbalance import label_loss, sampling_weights

if TYPE_CHECKING:
    from accelerate import Accelerator


def labelled_task(cohort: Cohort, do: str = "ssl-pretrain takes images alone") -> str:
    """The cohort's task.

    Args:
        cohort: The cohort.
        do: What can be done without labels.

    Raises:
        BadInput: It has no labels.
    """
    if cohort.task is None:
        raise BadInput(
            "a cohort with labels",
            "images alone",
            where=cohort.source,
            do=f"give class subfolders or a manifest with labels; {do}",
        )
    return cohort.task


def with_trained_labels(cohort: Cohort, fraction: float = 1.0, seed: int = 0, taught: Collection[str] = ()) -> Cohort:
    """The cohort without labels that training images do not differ in: nothing could be learned or claimed of them.

    Args:
        cohort: The cohort.
        fraction: Share of the labelled training patients whose labels are used.
        seed: Chooses the patients.
        taught: Labels that a teacher answers for: they stay in a multi-label cohort.

    Raises:
        BadInput: A class without training images, or no label left.
    """
    dropped: list[str] = []
    kept = cohort
    # Which patients are used depends on the labels there are.
    while blank := _blank_labels(kept, fraction, seed):
        if cohort.task == "multiclass":
            raise BadInput(
                "training images of every class",
                f"none of {', '.join(blank)}",
                where=cohort.source,
                do="leave the class out (cxr-data prepare --labels), or change the split",
            )
        unlearnt = [label for label in blank if label not in taught]
        if not unlearnt:
            break
        dropped += unlearnt
        kept = replace(kept, labels=tuple(label for label in kept.labels if label not in unlearnt))
    if not dropped:
        return cohort
    if not kept.labels:
        found = f"no value, or the same for all, in {', '.join(dropped)}"
        raise BadInput("training images that differ in a label", found, where=cohort.source)
    used = f" among the {fraction:.3g} of the labels that are used" if fraction < 1 else ""
    note = (
        f"training images{used} do not differ in {', '.join(dropped)} (no value, or the same for all): left out of "
        "training, thresholds and averages"
    )
    return replace(kept, notes=(note, *cohort.notes))


def _blank_labels(cohort: Cohort, fraction: float, seed: int) -> list[str]:
    """Labels of at most one value, classes without an image, among the labelled training images if there are any."""
    rows = cohort.rows("train")
    labelled = rows[~np.isnan(cohort.targets[rows]).all(axis=1)] if cohort.labels else rows[:0]
    if not len(labelled):
        return []
    used = label_fraction(cohort, fraction, seed=seed) if fraction < 1 else labelled
    targets = cohort.targets[used]
    held = (targets == 1).any(axis=0)
    if cohort.task != "multiclass":
        held &= (targets == 0).any(axis=0)
    return [label for label, differs in zip(cohort.labels, np.atleast_1d(held).tolist(), strict=True) if not differs]


def without_labels(cohort: Cohort) -> Cohort:
    """The images of a cohort alone: nothing that is made of them can depend on a label."""
    return replace(cohort, task=None, labels=())


def training_rows(
    cohort: Cohort, *, fraction: float, seed: int, labelled_only: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows to train on and the targets of all rows.

    Args:
        cohort: The cohort.
        fraction: Share of the labelled training patients whose labels are used.
        seed: Chooses the patients.
        labelled_only: Leave out images without labels; with teachers those are of use too.

    Returns:
        Rows (M,) and targets (N, L), NaN where a label is unknown or not to be used.

    Raises:
        BadInput: No labels, or no training or validation image has any.
    """
    targets = cohort.targets.copy()
    rows = cohort.rows("train")
    if fraction < 1:
        kept = label_fraction(cohort, fraction, seed=seed)
        targets[np.setdiff1d(rows, kept)] = np.nan
    labelled = rows[~np.isnan(targets[rows]).all(axis=1)]
    if not len(labelled) or np.isnan(cohort.targets[cohort.rows("val")]).all():
        raise BadInput("labelled images for training and validation", "a split without any", where=cohort.source)
    return (labelled if labelled_only else rows), targets


@dataclass(frozen=True)
class TrainingSet:
    """Images and labels of a training, and the loss on the labels.

    Attributes:
        cohort: Where the pixels are.
        task: "multiclass" or "multilabel"; None for images without labels.
        rows: (M,) rows to train on.
        targets: (N, L) targets of all rows, NaN where unknown or not to be used.
        weights: (M,) how often each image is drawn, relative to the others; None for once each.
        loss: Loss on the labels, of logits (B, L) and targets (B, L); None for images without labels.
        spec: Shape and augmentation of the student's images.
    """

    cohort: Cohort
    task: str | None
    rows: NDArray[np.int64]
    targets: NDArray[np.float32]
    weights: NDArray[np.float64] | None
    loss: Callable[[Tensor, Tensor], Tensor] | None
    spec: ViewSpec

    @property
    def val_rows(self) -> NDArray[np.int64]:
        """Validation rows."""
        return self.cohort.rows("val")


def training_set(cohort: Cohort, config: TrainingSettings, *, labelled_only: bool) -> TrainingSet:
    """The training set that a config asks for.

    Args:
        cohort: Cohort with splits "train" and "val"; one without labels for a student that learns features alone.
        config: Tells label fraction, seed, loss and treatment of class imbalance.
        labelled_only: Leave out images without labels; with teachers those are of use too.

    Raises:
        BadInput: No label is known, or a loss that does not fit the task.
    """
    spec = training_views(config.augment, config.input_size)
    if cohort.task is None:
        return TrainingSet(cohort, None, cohort.rows("train"), cohort.targets, None, None, spec)
    task = cohort.task
    rows, targets = training_rows(cohort, fraction=config.label_fraction, seed=config.seed, labelled_only=labelled_only)
    loss = label_loss(
        task,
        config.task_loss or "auto",
        targets[rows],
        imbalance=config.imbalance,
        label_smoothing=config.optim.label_smoothing,
    )
    weights = sampling_weights(targets[rows], task) if config.imbalance == "balanced" else None
    return TrainingSet(cohort, task, rows, targets, weights, loss, spec)


class Batch(NamedTuple):
    """One batch, on the device.

    Attributes:
        images: Augmented images for the student, (B, 1, S, S) uint8 (float in 0..255 once mixed).
        targets: (B, L) float32, NaN where unknown.
        shown: The same augmented images at each teacher's input size, by that size.
        cached: Cached outputs for these augmented images, by "TEACHER.NAME", as in "0.logits".
    """

    images: Tensor
    targets: Tensor
    shown: dict[int, Tensor]
    cached: dict[str, Tensor]


class _Ahead(NamedTuple):
    """A batch that waits to be moved to the device; its fields are those of `Batch`."""

    images: Tensor | Unrendered
    targets: Tensor
    at_sizes: dict[int, Tensor | Unrendered]
    cached: dict[str, Tensor]


class Order(NamedTuple):
    """The images of an epoch and their augmented views.

    Attributes:
        images: (steps, global batch) positions among the training rows.
        views: (steps, global batch) rows of the drawn view parameters: the image's own; where images are drawn several
            times an epoch, one for each time.
    """

    images: NDArray[np.int64]
    views: NDArray[np.int64]


def order_of(
    n: int,
    seed: int,
    epoch: int,
    global_batch: int,
    weights: NDArray[np.float64] | None = None,
    *,
    fixed: bool = False,
    window: Window | None = None,
) -> Order:
    """Shuffle the images of an epoch into global batches, each image once or as often as its weight says.

    Args:
        n: Number of training images.
        seed: Seed of the run.
        epoch: The epoch.
        global_batch: Images of a step over all processes.
        weights: (n,) how often each image is to be drawn, relative to the others; None for once each.
        fixed: Views belong to images, however often these are drawn (cached teacher outputs).
        window: Chunks of the images, where these are not all at hand.

    Returns:
        The order; the same number of steps in every epoch, with weights or without.
    """
    if weights is None:
        order = epoch_order(n, seed, epoch, global_batch, window)
        return Order(order, order)
    # One draw from each n-th of the total weight: an image of weight w of n comes floor(w) or ceil(w) times.
    rng = np.random.default_rng([seed, epoch, 0xBA1A])
    bounds = np.cumsum(weights) / np.sum(weights)
    chosen = np.minimum(np.searchsorted(bounds, (np.arange(n) + rng.uniform(size=n)) / n, side="right"), n - 1)
    window = window and window._replace(chunk_of=window.chunk_of[chosen])
    order = epoch_order(n, seed, epoch, global_batch, window)
    drawn = chosen[order]
    return Order(drawn, drawn if fixed else order)


def batches(
    cohort: Cohort,
    rows: NDArray[np.int64],
    targets: NDArray[np.float32],
    spec: ViewSpec,
    order: Order,
    views: Views,
    *,
    accelerator: "Accelerator",
    first_step: int = 0,
    sizes: Sequence[int] = (),
    finer: Mapping[int, Cohort] = MappingProxyType({}),
    cached: Callable[[NDArray[np.int64]], dict[str, Tensor]] | None = None,
    workers: int | None = None,
    augment_on_device: bool = False,
) -> Iterator[Batch]:
    """The batches of an epoch.

    Args:
        cohort: Where the pixels are.
        rows: (M,) rows to train on.
        targets: (N, L) targets of all rows.
        spec: Shape and augmentation of the student's images.
        order: Which images come when.
        views: Parameters of the epoch's views.
        accelerator: Tells device and share of this process.
        first_step: Step to begin with.
        sizes: Edges of the teachers' inputs.
        finer: The same images stored at more pixels, for views of these sizes.
        cached: Reads cached teacher outputs of images at positions among the rows, instead of ``sizes``.
        workers: Threads; None chooses.
        augment_on_device: Render the views on the device instead.

    Yields:
        Batches, on the device.
    """
    device = accelerator.device

    def make(step: int) -> _Ahead:
        mine = [share(part[step], accelerator.process_index, accelerator.num_processes) for part in order]
        chosen, slots = (part[np.argsort(mine[0], kind="stable")] for part in mine)
        drawn = {name: values[slots] for name, values in views.items()}
        pixels = cohort.pixels[rows[chosen]]

        def rendered(size: int, pixels: NDArray[np.uint8] = pixels) -> Tensor | Unrendered:
            return prepared(pixels, drawn, replace(spec, size=size), device, on_device=augment_on_device)

        images = rendered(spec.size)
        at_sizes = {size: images if size == spec.size else rendered(size) for size in sizes if size not in finer}
        at_sizes |= {size: rendered(size, finer[size].pixels[rows[chosen]]) for size in sizes if size in finer}
        wanted = pinned(torch.from_numpy(targets[rows[chosen]]), device)
        told = {name: pinned(x, device) for name, x in cached(chosen).items()} if cached else {}
        return _Ahead(images, wanted, at_sizes, told)

    for ahead in prefetch(make, range(first_step, len(order.images)), workers=workers):
        images = shown(ahead.images, device)[0].unsqueeze(1)
        yield Batch(
            images,
            ahead.targets.to(device, non_blocking=True),
            {s: images if x is ahead.images else shown(x, device)[0].unsqueeze(1) for s, x in ahead.at_sizes.items()},
            {name: x.to(device, non_blocking=True) for name, x in ahead.cached.items()},
        )


def mixed(batch: Batch, alpha: float, seed: Sequence[int]) -> Batch:
    """Mix every image with another of its batch, and the targets alike.

        x' = λ x + (1 - λ) x_π,   y' = λ y + (1 - λ) y_π,   λ ~ Beta(α, α)

    Zhang et al. 2018, "mixup: beyond empirical risk minimization", with one λ per batch. Teachers see the
    same mixtures. A label unknown in either image is unknown in the mixture.

    Args:
        batch: Of B images, without cached teacher outputs.
        alpha: α > 0.
        seed: Fixes λ and the permutation π.

    Returns:
        The mixed batch; images are float in 0..255.
    """
    rng = np.random.default_rng(list(seed))
    share_of_own = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(batch.images))).to(batch.images.device)

    def blend(x: Tensor) -> Tensor:
        return share_of_own * x.float() + (1 - share_of_own) * x[other].float()

    images = blend(batch.images)
    shown = {size: images if x is batch.images else blend(x) for size, x in batch.shown.items()}
    return Batch(images, blend(batch.targets), shown, {})
