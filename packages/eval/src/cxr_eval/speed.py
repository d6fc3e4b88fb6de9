"""How large and how fast the models are, measured so that they can be compared.

All models are timed in one process, in alternation, with one runtime, one arithmetic (float32) and one
number of
threads: what the machine does besides hits all of them alike. Ratios between models carry over to other
machines better than milliseconds do.
"""

import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

ROUNDS = 5
WARM_UP = 3
BATCHES = (8, 32)

Networks = Mapping[str, tuple[nn.Module, int]]


@torch.inference_mode()
def measure(networks: Networks, *, threads: int = 0, seconds: float = 2.0) -> dict[str, dict[str, Any]]:
    """Time every network on the CPU in float32, channels-last layout, in alternation.

    Latency is the wall time of a forward of one image; throughput the best of batches of 1, 8 and 32.

    Args:
        networks: Model name -> (network taking (B, 1, size, size) uint8, size); moved to the CPU.
        threads: CPU threads; 0 for as many as torch would take.
        seconds: Time for each network, about; half of it for the latency.

    Returns:
        Name -> "parameters", "latency_ms_p50", "latency_ms_p95", "images_per_second" and its "batch", and
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
        single = _alternate(networks, inputs, 1, seconds / 2)
        rates = {name: [(1 / float(np.median(times)), 1)] for name, times in single.items()}
        for batch in BATCHES:
            for name, times in _alternate(networks, inputs, batch, seconds / 2 / len(BATCHES)).items():
                rates[name].append((batch / float(np.median(times)), batch))
    finally:
        torch.set_num_threads(before)
    results = {}
    for name, (network, _) in networks.items():
        p50, p95 = np.percentile(single[name], [50, 95]) * 1000
        rate, batch = max(rates[name])
        results[name] = {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
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


def cpu_name() -> str:
    """Name of the CPU as its maker prints it, or the machine type where that is not to be had."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    return lines[0].split(":", 1)[1].strip() if lines else platform.processor() or platform.machine()


def _alternate(
    networks: Mapping[str, tuple[nn.Module, int]],
    inputs: Mapping[str, torch.Tensor],
    batch: int,
    seconds: float,
) -> dict[str, list[float]]:
    """Seconds of each forward; in every round each network has its turn, its first forward not counted."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(ROUNDS):
        for name, (network, _) in networks.items():
            images = inputs[name][:batch]
            network(images)
            end = time.perf_counter() + seconds / ROUNDS
            while True:
                start = time.perf_counter()
                network(images)
                stop = time.perf_counter()
                times[name].append(stop - start)
                if stop >= end:
                    break
    return times
