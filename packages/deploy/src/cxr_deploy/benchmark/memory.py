"""Peak memory of a new process that loads one model and classifies one image."""

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cxr_data import timing
from cxr_data.machine import peak_memory


def peaks(wanted: Mapping[str, tuple[Path, str, str]], threads: int) -> dict[str, int]:
    """:func:`peak_bytes` of several (file, runtime, precision) by name, as many at a time as there are cores.

    Raises:
        BadInput: A process failed.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {name: pool.submit(peak_bytes, *row, threads) for name, row in wanted.items()}
        return {name: peak.result() for name, peak in started.items()}


def peak_bytes(file: Path, runtime: str, precision: str, threads: int) -> int:
    """Largest resident memory of a fresh process that answers for one image in this runtime, bytes.

    Args:
        file: The model file.
        runtime: First part of a key of :func:`cxr_deploy.benchmark.entries.makers`.
        precision: Second part.
        threads: CPU threads.

    Raises:
        BadInput: The process failed.
    """
    do = "run it again; --memory false leaves this out"
    return timing.peak_bytes(__spec__.name, str(file), runtime, precision, str(threads), where=str(file), do=do)


def _main(file: str, runtime: str, precision: str, threads: str) -> None:
    import numpy as np

    from cxr_deploy.predict.classifier import load
    from cxr_deploy.runtimes import RUNTIMES

    path = Path(file)
    if runtime.startswith("PyTorch"):
        import torch

        from cxr_common.checkpoint import describe
        from cxr_deploy.benchmark import entries

        torch.set_num_threads(int(threads) or torch.get_num_threads())
        run, size = entries.makers()[runtime, precision](path, int(threads)), describe(path).input.size
        run(np.zeros((1, 1, size, size), np.uint8))
    else:
        chosen = next(name for name, one in RUNTIMES.items() if one.title == runtime)
        classifier = load(path, runtime=chosen, threads=int(threads), device="cpu")
        classifier.run(np.zeros((1, 1, classifier.size, classifier.size), np.uint8))
    print(peak_memory())


if __name__ == "__main__":
    _main(*sys.argv[1:])
