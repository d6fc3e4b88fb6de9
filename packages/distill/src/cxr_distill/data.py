"""What the loop is fed: rows, targets and views."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_common.cohorts.cohort import Cohort
from cxr_common.cohorts.splits import label_fraction
from cxr_common.errors import BadInput
from cxr_common.training.loader import epoch_order, prefetch, share
from cxr_common.views import ViewSpec, draw, render

if TYPE_CHECKING:
    from accelerate import Accelerator


def labelled_task(cohort: Cohort) -> str:
    """The cohort's task.

    Raises:
        BadInput: It has no labels.
    """
    if cohort.task is None:
        raise BadInput(
            "a cohort with labels",
            "images alone",
            where=cohort.source,
            do="give class subfolders or a manifest with labels; ssl-pretrain takes images alone",
        )
    return cohort.task


def training_rows(
    cohort: Cohort, *, fraction: float, seed: int, labelled_only: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows to train on and the targets of all rows.

    Args:
        cohort: The cohort.
        fraction: Share of the labelled training patients whose labels are used.
        seed: Chooses the patients.
        labelled_only: Leave out images without labels; a teacher can teach those too.

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


def batches(
    cohort: Cohort,
    rows: NDArray[np.int64],
    targets: NDArray[np.float32],
    spec: ViewSpec,
    *,
    seed: int,
    epoch: int,
    first_step: int,
    global_batch: int,
    accelerator: "Accelerator",
    teacher_size: int | None,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """The batches of an epoch.

    Args:
        cohort: Where the pixels are.
        rows: (M,) rows to train on.
        targets: (N, L) targets of all rows.
        spec: What the student's views look like.
        seed: Seed of order and views.
        epoch: The epoch.
        first_step: Step to begin with.
        global_batch: Images of a step over all processes.
        accelerator: Tells device and share of this process.
        teacher_size: Edge of the teacher's input; None without a teacher.
        workers: Threads; 0 chooses.

    Yields:
        The student's views (B, 1, S, S) uint8, the same views at the teacher's size or None, and targets
        (B, L) float32; on the device.
    """
    order = epoch_order(len(rows), seed, epoch, global_batch)
    views = draw(spec, len(rows), seed, epoch)

    def make(step: int) -> tuple[Tensor, Tensor | None, Tensor]:
        chosen = np.sort(share(order[step], accelerator.process_index, accelerator.num_processes))
        drawn = {name: values[chosen] for name, values in views.items()}
        pixels = cohort.pixels[rows[chosen]]
        images = torch.from_numpy(render(pixels, drawn, spec)[0]).unsqueeze(1)
        shown = None if teacher_size is None else images
        if teacher_size not in (None, spec.size):
            shown = torch.from_numpy(render(pixels, drawn, replace(spec, size=teacher_size))[0]).unsqueeze(1)
        return images, shown, torch.from_numpy(targets[rows[chosen]])

    device = accelerator.device
    for images, shown, wanted in prefetch(make, range(first_step, len(order)), workers=workers):
        moved = images.to(device, non_blocking=True)
        if shown is not None:
            shown = moved if shown is images else shown.to(device, non_blocking=True)
        yield moved, shown, wanted.to(device, non_blocking=True)
