"""Running a network over a cohort's images."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_common.training.accelerator import pinned
from cxr_data.augment import whole
from cxr_data.cohorts.prefetch import prefetch

if TYPE_CHECKING:
    from accelerate import Accelerator


@torch.inference_mode()
def outputs(
    network: nn.Module,
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    size: int,
    *,
    batch_size: int = 64,
    precision: torch.dtype = torch.float32,
    workers: int | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> NDArray[np.float32]:
    """What the network answers for whole images: logits of a classifier, features of a backbone.

    Args:
        network: Takes (B, 1, size, size) uint8, gives (B, D); runs on its own device and is put in eval
            mode for the duration.
        pixels: (N, P, P) uint8, usually the cohort's memory map.
        rows: (M,) rows wanted, in this order.
        size: Edge the network takes.
        batch_size: Images of a forward.
        precision: Arithmetic of the forward: float32, or bfloat16 where the device has it.
        workers: Threads that prepare images; None chooses.
        on_batch: Called after every batch with its number of images, for a progress bar.

    Returns:
        (M, D) float32.
    """
    device = next(network.parameters()).device
    starts = range(0, len(rows), batch_size)
    was_training = network.training
    network.eval()
    answers = []
    try:
        images_of = functools.partial(_whole_images, pixels, rows, size, batch_size, device)
        for batch in prefetch(images_of, starts, workers=workers):
            images = batch.to(device, non_blocking=True)
            with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
                answer = network(images)
            answers.append(answer.float().to("cpu", non_blocking=True))
            if on_batch is not None:
                on_batch(len(batch))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # until then the answers are on their way
    finally:
        network.train(was_training)
    return torch.cat(answers).numpy() if answers else np.empty((0, 0), np.float32)


def distributed_outputs(
    network: nn.Module,
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    size: int,
    accelerator: "Accelerator",
    *,
    batch_size: int = 64,
    precision: torch.dtype = torch.float32,
    workers: int | None = None,
) -> NDArray[np.float32]:
    """`outputs`, with the images divided over the processes of a training; each process returns all of them.

    Args:
        network: As in `outputs`, the same in all processes; not wrapped for several.
        pixels: As in `outputs`.
        rows: As in `outputs`, the same in all processes.
        size: As in `outputs`.
        accelerator: Tells the processes; all must call this together.
        batch_size: Images of a forward.
        precision: Arithmetic of the forward.
        workers: Threads that prepare images; None chooses.

    Returns:
        (M, D) float32, in the order of ``rows``.
    """
    options = {"batch_size": batch_size, "precision": precision, "workers": workers}
    processes = accelerator.num_processes
    if processes == 1 or not len(rows):
        return outputs(network, pixels, rows, size, **options)
    share = -(-len(rows) // processes)
    padded = np.resize(rows, share * processes)  # equal shares, as gathering needs; the repeated images are dropped
    mine = padded[accelerator.process_index * share :][:share]
    own = torch.from_numpy(outputs(network, pixels, mine, size, **options)).to(accelerator.device)
    everyones: Any = accelerator.gather(own)
    return everyones[: len(rows)].cpu().numpy()


def _whole_images(
    pixels: NDArray[np.uint8], rows: NDArray[np.int64], size: int, count: int, device: torch.device, start: int
) -> Tensor:
    """(B, 1, size, size) uint8, on the CPU."""
    return pinned(torch.from_numpy(whole(pixels[rows[start : start + count]], size)).unsqueeze(1), device)
