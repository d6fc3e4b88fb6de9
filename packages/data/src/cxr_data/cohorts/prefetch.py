"""Run work ahead of time on threads, and return the results in order."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from cxr_data.machine import usable_cores

T = TypeVar("T")


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
            ready.extend(pool.submit(make, step) for step in islice(waiting, workers + 1))
            while ready:
                batch = ready.popleft().result()
                ready.extend(pool.submit(make, step) for step in islice(waiting, 1))
                yield batch
        finally:
            for future in ready:
                future.cancel()
