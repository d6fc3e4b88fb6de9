"""Peak memory of a new process that loads one model and classifies one image."""

import sys
from pathlib import Path

from cxr_data.machine import peak_memory


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
        chosen = next(name for name, known in RUNTIMES.items() if known.title == runtime)
        classifier = load(path, runtime=chosen, threads=int(threads), device="cpu")
        classifier.run(np.zeros((1, 1, classifier.size, classifier.size), np.uint8))
    print(peak_memory())


if __name__ == "__main__":
    _main(*sys.argv[1:])
