"""Running a network over a cohort's images."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cxr_data.augment import whole
from cxr_data.prefetch import prefetch


@torch.inference_mode()
def outputs(
    network: nn.Module,
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    size: int,
    *,
    batch_size: int = 64,
    precision: torch.dtype = torch.float32,
    workers: int = 0,
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
        workers: Threads that prepare images; 0 chooses.

    Returns:
        (M, D) float32.
    """
    device = next(network.parameters()).device
    starts = range(0, len(rows), batch_size)
    was_training = network.training
    network.eval()
    answers = []
    try:
        images_of = functools.partial(_whole_images, pixels, rows, size, batch_size)
        for batch in prefetch(images_of, starts, workers=workers):
            images = torch.from_numpy(batch).unsqueeze(1).to(device, non_blocking=True)
            with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
                answer = network(images)
            answers.append(answer.float().cpu())
    finally:
        network.train(was_training)
    return torch.cat(answers).numpy() if answers else np.empty((0, 0), np.float32)


def _whole_images(
    pixels: NDArray[np.uint8], rows: NDArray[np.int64], size: int, count: int, start: int
) -> NDArray[np.uint8]:
    return whole(pixels[rows[start : start + count]], size)
