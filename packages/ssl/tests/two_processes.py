"""Run by test_processes.py in each of two processes: steps of SwAV, shared with the other process and alone."""

import contextlib
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxr_common.training.accelerator import start
from cxr_common.training.loader import share
from cxr_ssl.codes import sinkhorn
from cxr_ssl.config import PretrainConfig
from cxr_ssl.feature_queue import FeatureQueue
from cxr_ssl.methods.swav import SwAVConfig
from cxr_ssl.plan import make_plan
from cxr_ssl.state import TrainState
from cxr_ssl.step import train_step


class Pooled(nn.Module):
    """A backbone without batch statistics, which CPU processes cannot share."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 12
        self.convolution = nn.Conv2d(1, 12, 3, stride=2)

    @property
    def network(self) -> "Pooled":
        """As `GrayNetwork` holds one."""
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        return self.convolution(pixels.float() / 255).relu().mean((2, 3))


class Alone:
    """What `train_step` needs of an accelerator, for one process that knows of no other."""

    process_index, num_processes = 0, 1
    autocast = staticmethod(contextlib.nullcontext)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def prepare(self, *parts: Any) -> tuple[Any, ...]:
        return parts

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def reduce(self, tensor: Tensor, _how: str) -> Tensor:
        return tensor


def steps(accelerator: Any) -> dict[str, Tensor]:
    """Codes, gradients, weights and diagnostics of five steps with batches of 12 images over all processes."""
    own = torch.from_numpy(share(np.arange(12), accelerator.process_index, accelerator.num_processes))
    random = torch.Generator().manual_seed(1)
    scores = torch.rand(12, 20, generator=random) * 4 - 2
    result = {"codes": accelerator.gather(sinkhorn(scores[own]))}

    torch.manual_seed(0)
    plan = make_plan(PretrainConfig(batch_size=12, optimizer="sgd", epochs=2), 60)
    options, backbone = SwAVConfig(prototypes=20, embedding=8, queue=2, queue_start=0, freeze=2), Pooled()
    method: Any = options.build(backbone, options.settings(60, plan), plan, coded_crops=2)  # type: ignore[arg-type]
    swav = method.module.eval()  # eval: fixed batch statistics
    optimizer = torch.optim.SGD(swav.parameters(), lr=0.5, momentum=0.9)
    model, optimizer = accelerator.prepare(swav, optimizer)
    method.start(torch.device("cpu"), len(own))
    state = TrainState(
        network=swav, model=model, optimizer=optimizer, accelerator=accelerator, method=method, plan=plan
    )
    for step in range(5):
        crops = [
            torch.randint(0, 256, (count, 12, 1, size, size), generator=random, dtype=torch.uint8)[:, own]
            for count, size in ((2, 16), (3, 8))
        ]
        state.step = step
        train_step(state, crops)
        for name, parameter in swav.named_parameters():
            if parameter.grad is not None:
                result[f"{step} {name}"] = parameter.grad.clone()
    result |= {name: parameter.detach().clone() for name, parameter in swav.named_parameters()}
    sums = {name: accelerator.reduce(total, "sum").double() for name, total in method.sums.items()}
    result["numbers"] = torch.tensor(list(method.diagnostics(sums).values()))
    return result


def main(target: str) -> None:
    torch.set_num_threads(1)
    alone = steps(Alone())
    accelerator = start("fp32", seed=0)
    assert accelerator.num_processes == 2
    together = steps(accelerator)

    scores = torch.rand(12, 20, generator=torch.Generator().manual_seed(2))
    uneven = sinkhorn(scores[:5] if accelerator.process_index == 0 else scores[5:])  # 5 images here, 7 there
    padded: Any = accelerator.gather(torch.cat([uneven, torch.zeros(7 - len(uneven), 20)]))
    together["uneven"] = padded[[*range(5), *range(7, 14)]]
    empty: Any = accelerator.gather(FeatureQueue(2, 0, 6, 8).embeddings[None])
    assert empty.shape == (2, 2, 0, 6, 8)  # the queue of a run without one can be saved too
    accelerator.end_training()
    alone["uneven"] = sinkhorn(scores)
    if accelerator.is_main_process:
        torch.save([alone, together], target)


main(sys.argv[1])
