"""Time functions and measure the memory of processes, so that the figures of several can be compared.

All functions are timed in one process, in alternation: what the machine does besides hits all of them alike. Ratios
carry over to other machines better than milliseconds do.
"""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.errors import BadInput

ROUNDS = 5
WARM_UP = 3
BATCHES = (8, 32)
LONGEST = 2.0
"""Seconds a batch may take to be tried."""
UNSTEADY = 2.0
"""Spread of latencies (95th percentile over median) from which a reader is warned."""

Functions = Mapping[str, tuple[Callable[[NDArray[np.uint8]], object], int]]


def side_by_side(functions: Functions, seconds: float) -> dict[str, dict[str, Any]]:
    """Latency of one image, and the best throughput of batches of 1, 8 and 32 (those that take under 2 s).

    Args:
        functions: Name -> (function of a (B, 1, size, size) uint8 array, size); all of them take turns.
        seconds: Time for each, about; half of it for the latency.

    Returns:
        Name -> "latency_ms_p50", "latency_ms_p95", "latency_ms_p99" (wall time of one image), "runs" (how many were
        timed), "images_per_second" and its "batch".
    """
    noise = {
        name: np.random.default_rng(0).integers(0, 256, (max(BATCHES), 1, size, size), np.uint8)
        for name, (_, size) in functions.items()
    }

    def calls(names: Iterable[str], batch: int) -> dict[str, Callable[[], object]]:
        return {name: functools.partial(functions[name][0], noise[name][:batch]) for name in names}

    for call in calls(functions, 1).values():
        for _ in range(WARM_UP):
            call()
    single = alternate(calls(functions, 1), seconds / 2)
    rates = {name: [(1 / float(np.median(times)), 1)] for name, times in single.items()}
    for batch in BATCHES:
        # Large networks on slow machines: a batch that takes seconds says nothing a smaller one does not.
        quick = [name for name in functions if batch / rates[name][0][0] < LONGEST]
        for name, times in alternate(calls(quick, batch), seconds / 2 / len(BATCHES)).items():
            rates[name].append((batch / float(np.median(times)), batch))
    measured = {}
    for name, times in single.items():
        p50, p95, p99 = (float(value) * 1000 for value in np.percentile(times, [50, 95, 99]))
        rate, batch = max(rates[name])
        measured[name] = {
            "latency_ms_p50": p50,
            "latency_ms_p95": p95,
            "latency_ms_p99": p99,
            "runs": len(times),
            "images_per_second": rate,
            "batch": batch,
        }
    return measured


def disturbed(timed: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A sentence for the reader when the machine was too busy for its timings to be trusted, else None."""
    spread = {name: row["latency_ms_p95"] / row["latency_ms_p50"] for name, row in timed.items()}
    worst = max(spread, key=lambda name: spread[name], default=None)
    if worst is None or spread[worst] < UNSTEADY:
        return None
    return (
        f"The machine was busy while the models were timed (the 95th percentile of {worst} is "
        f"{spread[worst]:.1f} times its median): time them again on a quiet one before comparing."
    )


def alternate(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Time functions side by side: in every round each has its turn, its first call of the turn not counted.

    Args:
        calls: Name -> function without arguments.
        seconds: Time for each function, about, over all rounds.

    Returns:
        Name -> seconds of each call.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()
            end = time.perf_counter() + seconds / ROUNDS
            while True:
                start = time.perf_counter()
                call()
                stop = time.perf_counter()
                times[name].append(stop - start)
                if stop >= end:
                    break
    return times


def peak_memories(module: str, arguments: Mapping[str, Sequence[str]], *, do: str) -> dict[str, int]:
    """Largest resident memory of fresh processes, bytes; as many at a time as there are cores.

    The interpreter and the libraries count: they are what a machine must hold.

    Args:
        module: Run as ``python -m MODULE ARGUMENTS``; it ends by printing that number of bytes.
        arguments: Name -> arguments, the first of them a file.
        do: What to do where a process fails, for the message.

    Raises:
        BadInput: A process failed.
    """

    def peak(words: Sequence[str]) -> int:
        done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.splitlines() or ["no message"])[-1][:200]
            raise BadInput("a model that runs in a process of its own", reason, where=words[0], do=do)
        return int(done.stdout.split()[-1])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(arguments, pool.map(peak, arguments.values()), strict=True))
