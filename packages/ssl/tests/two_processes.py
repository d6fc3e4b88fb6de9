"""Run by test_processes.py in one or two processes: steps of SwAV on one and the same global batch."""

import sys

import torch
from torch import Tensor, nn

from cxr_common.training.accelerator import start
from cxr_common.training.loader import share
from cxr_ssl.feature_queue import FeatureQueue
from cxr_ssl.health import Monitor
from cxr_ssl.pretrain import train_step
from cxr_ssl.sinkhorn import sinkhorn
from cxr_ssl.swav import SwAV


class Pooled(nn.Module):
    """A backbone without batch statistics, which CPU processes cannot share."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 12, 3, stride=2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.convolution(pixels.float() / 255).relu().mean((2, 3))


def main(target: str) -> None:
    torch.set_num_threads(1)
    accelerator = start("fp32", seed=0)
    rank, processes = accelerator.process_index, accelerator.num_processes
    random = torch.Generator().manual_seed(1)
    own = torch.from_numpy(share(torch.arange(12).numpy(), rank, processes))

    scores = torch.rand(12, 20, generator=random) * 4 - 2
    result = {"codes": accelerator.gather(sinkhorn(scores[own])), "uneven": torch.zeros(0)}
    if processes == 2:  # 5 images here, 7 there
        uneven = sinkhorn(scores[:5] if rank == 0 else scores[5:])
        padded = torch.cat([uneven, torch.zeros(7 - len(uneven), 20)])
        result["uneven"] = torch.cat(list(accelerator.gather(padded[None])))[[*range(5), *range(7, 14)]]

    swav = SwAV(Pooled(), 12, embedding_dim=8, num_prototypes=20).eval()  # eval: fixed batch statistics
    optimizer = torch.optim.SGD(swav.parameters(), lr=0.5, momentum=0.9)
    model, optimizer = accelerator.prepare(swav, optimizer)
    queue, monitor = FeatureQueue(2, 2, len(own), 8), Monitor(20, 8)
    for step in range(5):
        views = [
            torch.randint(0, 256, (count, 12, 1, size, size), generator=random, dtype=torch.uint8)[:, own]
            for count, size in ((2, 16), (3, 8))
        ]
        train_step(
            model,
            views,
            optimizer,
            accelerator,
            queue,
            monitor,
            temperature=0.1,
            epsilon=0.05,
            frozen=step < 2,
        )
        gradients = {f"{step} {name}": p.grad.clone() for name, p in swav.named_parameters() if p.grad is not None}
        result |= gradients
    result |= {name: p.detach().clone() for name, p in swav.named_parameters()}
    numbers = monitor.numbers(lambda value: accelerator.reduce(value, "sum"))  # type: ignore[arg-type, return-value]
    result["numbers"] = torch.tensor(list(numbers.values()))
    if accelerator.is_main_process:
        torch.save(result, target)
    accelerator.wait_for_everyone()


main(sys.argv[1])
