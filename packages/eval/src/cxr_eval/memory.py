"""Peak memory of a process that loads one network and answers for one image in eager float32 PyTorch."""

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cxr_data.machine import peak_memory
from cxr_data.timing import peak_bytes


def peaks(files: Mapping[str, Path], threads: int) -> dict[str, int]:
    """Largest resident memory of such a process for each weights file, bytes; as many at a time as there are cores.

    Args:
        files: Name -> model.safetensors.
        threads: CPU threads; 0 takes every core.

    Raises:
        BadInput: A process failed.
    """
    do = "run it again; --speed false leaves this out"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {
            name: pool.submit(peak_bytes, __spec__.name, str(file), str(threads), where=str(file), do=do)
            for name, file in files.items()
        }
        return {name: peak.result() for name, peak in started.items()}


def _main(file: str, threads: str) -> None:
    import torch

    from cxr_common.checkpoint import load

    torch.set_num_threads(int(threads) or torch.get_num_threads())
    network, header = load(file, kind="model")
    with torch.inference_mode():
        network(torch.zeros(1, 1, header.input.size, header.input.size, dtype=torch.uint8))
    print(peak_memory())


if __name__ == "__main__":
    _main(*sys.argv[1:])
