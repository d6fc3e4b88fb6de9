"""How large and how fast the models are, measured so that they can be compared.

All models are timed in one process, in alternation, with one runtime, one arithmetic (float32) and one
number of threads: what the machine does besides hits all of them alike. Ratios between models carry over to
other machines better than milliseconds do.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cxr_common.models import cost
from cxr_data.machine import cpu_name

ROUNDS = 5
WARM_UP = 3
BATCHES = (8, 32)
LONGEST = 2.0
"""Seconds a batch may take to be tried."""
UNSTEADY = 2.0
"""Spread of latencies (95th percentile over median) from which a reader is warned."""

Networks = Mapping[str, tuple[nn.Module, int]]
Ways = Mapping[str, tuple[Callable[[NDArray[np.uint8]], object], int]]


@torch.inference_mode()
def measure(networks: Networks, *, threads: int = 0, seconds: float = 2.0) -> dict[str, dict[str, Any]]:
    """Time every network on the CPU in float32, channels-last layout, in alternation.

    Args:
        networks: Model name -> (network taking (B, 1, size, size) uint8, size); moved to the CPU.
        threads: CPU threads; 0 for as many as torch would take.
        seconds: Time for each network, about; half of it for the latency.

    Returns:
        Name -> what ``side_by_side`` tells, and how it was measured: "runtime", "precision", "threads", "warm_up",
        "device".
    """
    before = torch.get_num_threads()
    threads = threads or before
    torch.set_num_threads(threads)
    try:
        for network, _ in networks.values():
            network.to("cpu", torch.float32).to(memory_format=torch.channels_last).eval()
        timed = side_by_side({name: (_of_arrays(network), size) for name, (network, size) in networks.items()}, seconds)
    finally:
        torch.set_num_threads(before)
    how = {
        "runtime": f"PyTorch {torch.__version__} eager, channels-last",
        "precision": "fp32",
        "threads": threads,
        "warm_up": WARM_UP,
        "device": cpu_name(),
    }
    return {name: row | how for name, row in timed.items()}


def side_by_side(ways: Ways, seconds: float) -> dict[str, dict[str, Any]]:
    """Latency of one image, and the best throughput of batches of 1, 8 and 32 (those that take under 2 s).

    Args:
        ways: Name -> (function of a (B, 1, size, size) uint8 array, size); all of them take turns.
        seconds: Time for each, about; half of it for the latency.

    Returns:
        Name -> "latency_ms_p50", "latency_ms_p95", "latency_ms_p99" (wall time of one image), "runs" (how many were
        timed), "images_per_second" and its "batch".
    """
    noise = {
        name: np.random.default_rng(0).integers(0, 256, (max(BATCHES), 1, size, size), np.uint8)
        for name, (_, size) in ways.items()
    }

    def calls(names: Iterable[str], batch: int) -> dict[str, Callable[[], object]]:
        return {name: functools.partial(ways[name][0], noise[name][:batch]) for name in names}

    for call in calls(ways, 1).values():
        for _ in range(WARM_UP):
            call()
    single = alternate(calls(ways, 1), seconds / 2)
    rates = {name: [(1 / float(np.median(times)), 1)] for name, times in single.items()}
    for batch in BATCHES:
        # Large networks on slow machines: a batch that takes seconds says nothing a smaller one does not.
        quick = [name for name in ways if batch / rates[name][0][0] < LONGEST]
        for name, times in alternate(calls(quick, batch), seconds / 2 / len(BATCHES)).items():
            rates[name].append((batch / float(np.median(times)), batch))
    found = {}
    for name, times in single.items():
        p50, p95, p99 = (float(value) * 1000 for value in np.percentile(times, [50, 95, 99]))
        rate, batch = max(rates[name])
        found[name] = {
            "latency_ms_p50": p50,
            "latency_ms_p95": p95,
            "latency_ms_p99": p99,
            "runs": len(times),
            "images_per_second": rate,
            "batch": batch,
        }
    return found


def disturbed(timed: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A sentence for the reader when the machine was too busy for its timings to be trusted, else None.

    Args:
        timed: What ``measure`` returned.
    """
    spread = {name: row["latency_ms_p95"] / row["latency_ms_p50"] for name, row in timed.items()}
    worst = max(spread, key=lambda name: spread[name], default=None)
    if worst is None or spread[worst] < UNSTEADY:
        return None
    return (
        f"The machine was busy while the models were timed (the 95th percentile of {worst} is "
        f"{spread[worst]:.1f} times its median): time them again on a quiet one before comparing."
    )


def size(network: nn.Module, edge: int, file: Path) -> dict[str, int]:
    """How large a model is.

    Args:
        network: The network.
        edge: Edge of its square input, pixels.
        file: Its weights file.

    Returns:
        "parameters", "macs" (multiply-accumulates of one image) and "bytes" of the file.
    """
    return {
        "parameters": cost.parameters(network),
        "macs": cost.macs(network, edge),
        "bytes": file.stat().st_size,
    }


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


def _of_arrays(network: nn.Module) -> Callable[[NDArray[np.uint8]], object]:
    return lambda images: network(torch.from_numpy(images))
