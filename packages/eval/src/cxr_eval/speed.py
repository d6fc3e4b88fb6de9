"""How large and how fast the models are, measured so that they can be compared.

All models are timed in one process, in alternation, with one runtime, one arithmetic (float32) and one
number of threads: what the machine does besides hits all of them alike. Ratios between models carry over to
other machines better than milliseconds do.
"""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cxr_common.machine import cpu_name
from cxr_common.models import cost

ROUNDS = 5
WARM_UP = 3
BATCHES = (8, 32)
LONGEST = 2.0
"""Seconds a batch may take to be tried."""
UNSTEADY = 2.0
"""Spread of latencies (95th percentile over median) from which a reader is warned."""

Networks = Mapping[str, tuple[nn.Module, int]]


@torch.inference_mode()
def measure(networks: Networks, *, threads: int = 0, seconds: float = 2.0) -> dict[str, dict[str, Any]]:
    """Time every network on the CPU in float32, channels-last layout, in alternation.

    Latency is the wall time of a forward of one image; throughput the best of batches of 1, 8 and 32 (those that take
    under 2 s).

    Args:
        networks: Model name -> (network taking (B, 1, size, size) uint8, size); moved to the CPU.
        threads: CPU threads; 0 for as many as torch would take.
        seconds: Time for each network, about; half of it for the latency.

    Returns:
        Name -> "latency_ms_p50", "latency_ms_p95", "images_per_second" and its "batch", and
        how it was measured: "runtime", "precision", "threads", "warm_up" and "runs" (forwards of one
        image), "device".
    """
    before = torch.get_num_threads()
    threads = threads or before
    torch.set_num_threads(threads)
    try:
        inputs = {}
        for name, (network, size) in networks.items():
            network.to("cpu", torch.float32).to(memory_format=torch.channels_last).eval()
            noise = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 1, size, size), np.uint8)
            inputs[name] = torch.from_numpy(noise)
            for _ in range(WARM_UP):
                network(inputs[name][:1])
        single = alternate(_calls(networks, inputs, 1), seconds / 2)
        rates = {name: [(1 / float(np.median(times)), 1)] for name, times in single.items()}
        for batch in BATCHES:
            # Large networks on slow machines: a batch that takes seconds says nothing a smaller one does not.
            quick = {name: networks[name] for name in networks if batch / rates[name][0][0] < LONGEST}
            for name, times in alternate(_calls(quick, inputs, batch), seconds / 2 / len(BATCHES)).items():
                rates[name].append((batch / float(np.median(times)), batch))
    finally:
        torch.set_num_threads(before)
    results = {}
    for name in networks:
        p50, p95 = np.percentile(single[name], [50, 95]) * 1000
        rate, batch = max(rates[name])
        results[name] = {
            "latency_ms_p50": float(p50),
            "latency_ms_p95": float(p95),
            "images_per_second": rate,
            "batch": batch,
            "runtime": f"PyTorch {torch.__version__} eager, channels-last",
            "precision": "fp32",
            "threads": threads,
            "warm_up": WARM_UP,
            "runs": len(single[name]),
            "device": cpu_name(),
        }
    return results


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


def _calls(networks: Networks, inputs: Mapping[str, torch.Tensor], batch: int) -> dict[str, Callable[[], object]]:
    return {name: functools.partial(network, inputs[name][:batch]) for name, (network, _) in networks.items()}
