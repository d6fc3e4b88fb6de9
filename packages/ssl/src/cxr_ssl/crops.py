"""Multi-crop: the augmented crops of every batch, rendered ahead of use."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cxr_common.training.device_views import Unrendered, prepared, shown
from cxr_common.training.loader import epoch_order, share
from cxr_data.augment import ViewSpec, draw
from cxr_data.cohorts.chunk_cache import shuffle_window
from cxr_data.cohorts.cohort import Cohort
from cxr_data.cohorts.prefetch import prefetch
from cxr_ssl.config import Crops

if TYPE_CHECKING:
    from accelerate import Accelerator


def crop_specs(size: int, crops: Crops, local_size: int) -> list[ViewSpec]:
    """Global crops and, where there are any, local ones, with the mild augmentation that suits radiographs.

    Shapes as SwAV's multi-crop (section 3.3); of its colour distortion only brightness, contrast, gamma and
    blur are left, since hue and saturation mean nothing in gray.
    """
    specs = [ViewSpec(size, crops.global_scale, crops.global_count, blur=0.3)]
    if crops.local_count:
        specs.append(ViewSpec(local_size, crops.local_scale, crops.local_count, blur=0.15))
    return specs


def crop_batches(
    cohort: Cohort,
    rows: NDArray[np.int64],
    specs: Sequence[ViewSpec],
    *,
    seed: int,
    epoch: int,
    first_step: int,
    global_batch: int,
    accelerator: "Accelerator",
    workers: int | None = None,
    augment_on_device: bool = False,
) -> Iterator[list[Tensor]]:
    """The crops of an epoch's batches, rendered on threads straight from the memory map.

    Args:
        cohort: Where the pixels are.
        rows: (M,) rows to train on.
        specs: Shape and augmentation of the crops of each size.
        seed: Seed of order and crops.
        epoch: The epoch; with the seed it determines every crop of every image.
        first_step: Step to begin with.
        global_batch: Images of a step over all processes.
        accelerator: Tells device and share of this process.
        workers: Threads; None chooses.
        augment_on_device: Render them on the device instead.

    Yields:
        One tensor a spec, (count, B, 1, size, size) uint8 on the device; image b is the same in all of them.
    """
    drawn = [draw(spec, len(rows), seed, epoch, stream) for stream, spec in enumerate(specs)]
    order = epoch_order(len(rows), seed, epoch, global_batch, shuffle_window(cohort, rows))

    def make(step: int) -> list[Tensor | Unrendered]:
        # Ascending rows are read faster from disk; which place an image has in its batch is of no
        # consequence.
        chosen = np.sort(share(order[step], accelerator.process_index, accelerator.num_processes))
        pixels = cohort.pixels[rows[chosen]]
        mine = [{name: values[chosen] for name, values in parameters.items()} for parameters in drawn]
        return [
            prepared(pixels, views, spec, accelerator.device, on_device=augment_on_device)
            for spec, views in zip(specs, mine, strict=True)
        ]

    for stacks in prefetch(make, range(first_step, len(order)), workers=workers):
        yield [shown(views, accelerator.device).unsqueeze(2) for views in stacks]
