"""Batches prepared ahead on threads; which images they hold depends on (seed, epoch) alone."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cxr_data.machine import usable_cores

T = TypeVar("T")


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


def prefetch(make: Callable[[int], T], steps: Sequence[int], *, workers: int | None = None) -> Iterator[T]:
    """Make ``make(step)`` for every step, in order, ahead of use.

    Threads, not processes: the pixels stay in one memory map and OpenCV works outside the interpreter lock.

    Args:
        make: Builds the batch of one step; must not depend on the order of calls.
        steps: The steps wanted.
        workers: Threads, and batches held ready beyond one; None chooses by the cores this process may use.

    Yields:
        The batches; an exception in ``make`` is raised here.
    """
    workers = workers or max(1, min(16, usable_cores() - 1))
    waiting = iter(steps)
    with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
        ready: deque[Future[T]] = deque()
        try:
            for _ in range(workers + 1):
                ready.extend(pool.submit(make, step) for step in _next(waiting))
            while ready:
                batch = ready.popleft().result()
                ready.extend(pool.submit(make, step) for step in _next(waiting))
                yield batch
        finally:
            for future in ready:
                future.cancel()


def _next(steps: Iterator[int]) -> list[int]:
    return [step for step in [next(steps, None)] if step is not None]
