"""Peak memory of a process that loads one network and answers for one image in eager float32 PyTorch."""

import sys

from cxr_data.machine import peak_memory


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
