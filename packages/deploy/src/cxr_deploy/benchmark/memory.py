"""Peak memory of a process that loads one model and answers for one image, measured in such a process."""

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cxr_data.errors import BadInput
from cxr_data.machine import peak_memory


def peaks(wanted: Mapping[str, tuple[Path, str, str]], threads: int) -> dict[str, int]:
    """``peak_bytes`` of several (file, runtime, precision) by name, as many at a time as there are cores.

    Raises:
        BadInput: A process failed.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = {name: pool.submit(peak_bytes, *way, threads) for name, way in wanted.items()}
        return {name: peak.result() for name, peak in found.items()}


def peak_bytes(file: Path, runtime: str, precision: str, threads: int) -> int:
    """Largest resident memory of a fresh process that answers for one image in this runtime, bytes.

    The interpreter and the libraries count: they are what a machine must hold.

    Args:
        file: The model file.
        runtime: First part of a key of :data:`cxr_deploy.benchmark.entries.RUNTIMES`.
        precision: Second part.
        threads: CPU threads.

    Raises:
        BadInput: The process failed.
    """
    command = [sys.executable, "-m", "cxr_deploy.benchmark.memory", str(file), runtime, precision, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.splitlines() or ["no message"])[-1][:200]
        raise BadInput(
            "a model that runs in a process of its own",
            reason,
            where=file,
            do="run it again; --memory false (benchmark-model) or --speed false (evaluate) leaves this out",
        )
    return int(done.stdout.split()[-1])


def _main(file: str, runtime: str, precision: str, threads: str) -> None:
    import numpy as np

    from cxr_deploy.predict.classifier import load

    path = Path(file)
    if runtime.startswith("PyTorch"):
        import torch

        from cxr_common.checkpoint import describe
        from cxr_deploy.benchmark.entries import RUNTIMES

        torch.set_num_threads(int(threads) or torch.get_num_threads())
        run, size = RUNTIMES[runtime, precision](path, int(threads)), describe(path).input.size
        run(np.zeros((1, 1, size, size), np.uint8))
    else:
        chosen = "openvino" if runtime == "OpenVINO" else "onnxruntime"
        classifier = load(path, runtime=chosen, threads=int(threads))
        classifier.run(np.zeros((1, 1, classifier.size, classifier.size), np.uint8))
    print(peak_memory())


if __name__ == "__main__":
    _main(*sys.argv[1:])
