"""Which images a batch holds: it depends on (seed, epoch) alone. Imports no torch."""

import numpy as np
from numpy.typing import NDArray


def global_batch(batch_size: int, images: int, processes: int) -> int:
    """Images of a step over all processes: equal parts of at least 2, as BatchNorm needs.

    Args:
        batch_size: Images wanted.
        images: Images there are.
        processes: Number of processes.
    """
    return max(min(batch_size, images) // processes, 2) * processes


def epoch_order(n: int, seed: int, epoch: int, global_batch: int) -> NDArray[np.int64]:
    """Shuffle the images of an epoch into global batches of equal size.

    Args:
        n: Number of images, at least 1.
        seed: Seed of the run.
        epoch: Epoch.
        global_batch: Images of a step over all processes.

    Returns:
        (steps, global_batch) positions in [0, n); what does not fill a batch is left out, and a set smaller than one
        batch is repeated to fill one.
    """
    order = np.random.default_rng([seed, epoch, 0xC0FFEE]).permutation(n)
    if n < global_batch:
        order = np.resize(order, global_batch)
    return order[: len(order) // global_batch * global_batch].reshape(-1, global_batch)


def share(batch: NDArray[np.int64], rank: int, processes: int) -> NDArray[np.int64]:
    """The part of a global batch that belongs to one process; parts are equal and contiguous."""
    size = len(batch) // processes
    return batch[rank * size : (rank + 1) * size]
