"""How large and how fast the models are, measured so that they can be compared.

All models are timed in one process, in alternation, with one runtime, one arithmetic (float32) and one
number of threads: other load on the machine affects all of them alike. Ratios between models carry over to
other machines better than milliseconds do.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cxr_common.models import cost
from cxr_data.machine import cpu_name
from cxr_data.timing import WARM_UP, side_by_side

Networks = Mapping[str, tuple[nn.Module, int]]


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
        functions = {name: (_of_arrays(network), size) for name, (network, size) in networks.items()}
        with torch.inference_mode():  # not before: weights that are moved in it could give no gradients to explanations
            timed = side_by_side(functions, seconds)
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


def size(network: nn.Module, edge: int, file: Path) -> dict[str, int]:
    """How large a model is.

    Returns:
        "parameters", "macs" (multiply-accumulates of one image) and "bytes" of the file.
    """
    return {
        "parameters": cost.parameters(network),
        "macs": cost.macs(network, edge),
        "bytes": file.stat().st_size,
    }


def _of_arrays(network: nn.Module) -> Callable[[NDArray[np.uint8]], object]:
    return lambda images: network(torch.from_numpy(images))
