"""Which images a batch holds: it depends on (seed, epoch) alone. Imports no torch."""

import numpy as np
from numpy.typing import NDArray

from cxr_data.cohorts.chunk_cache import Window


def global_batch(batch_size: int, images: int, processes: int) -> int:
    """Images of a step over all processes: equal parts of at least 2, as BatchNorm needs."""
    return max(min(batch_size, images) // processes, 2) * processes


def epoch_order(n: int, seed: int, epoch: int, global_batch: int, window: Window | None = None) -> NDArray[np.int64]:
    """Shuffle the images of an epoch into global batches of equal size.

    Without a window every order is equally likely. With one, chunks arrive in random order, and each image comes at its
    chunk's arrival plus a uniform delay of up to ``window.chunks`` arrivals: no more chunks than that are in use at a
    time, and each is used in one stretch of the epoch.

    Args:
        n: Number of images, at least 1.
        seed: Seed of the run.
        epoch: Epoch.
        global_batch: Images of a step over all processes.
        window: (n,) chunks of the images, where these are not all at hand.

    Returns:
        (steps, global_batch) positions in [0, n); what does not fill a batch is left out, and a set smaller than one
        batch is repeated to fill one.
    """
    rng = np.random.default_rng([seed, epoch, 0xC0FFEE])
    if window is None:
        order = rng.permutation(n)
    else:
        chunks, which = np.unique(window.chunk_of, return_inverse=True)
        arrival = rng.permutation(len(chunks))[which]
        order = np.argsort(arrival + window.chunks * rng.uniform(size=n), kind="stable")
    if n < global_batch:
        order = np.resize(order, global_batch)
    return order[: len(order) // global_batch * global_batch].reshape(-1, global_batch)


def share(batch: NDArray[np.int64], rank: int, processes: int) -> NDArray[np.int64]:
    """The part of a global batch that belongs to one process; parts are equal and contiguous."""
    size = len(batch) // processes
    return batch[rank * size : (rank + 1) * size]
