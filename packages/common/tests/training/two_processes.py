"""Run by test_processes.py in each of two processes: steps with gradients in other strides than their weights'.

Convolutions return such strides on some processors and for some sizes; here a function makes sure of it.
"""

import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from cxr_common.training.accelerator import start
from cxr_common.training.processes import align_gradients


class OtherStrides(torch.autograd.Function):
    """The same tensor; its gradient in the strides of contiguous memory along dimensions of size 1."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return gradient.as_strided(gradient.shape, (gradient.shape[1], 1, 1, 1))


class Pointwise(nn.Conv2d):
    """A 1x1 convolution."""

    def forward(self, input: Tensor) -> Tensor:
        return conv2d(input, OtherStrides.apply(self.weight), self.bias)


torch.set_num_threads(1)
warnings.simplefilter("error")
accelerator = start("fp32", seed=0)
assert accelerator.num_processes == 2
module = nn.Sequential(nn.Conv2d(1, 8, 7, bias=False), Pointwise(8, 4, 1), nn.Conv2d(4, 4, 3)).to(
    memory_format=torch.channels_last  # type: ignore[call-overload] - the stubs lack it
)
if "as-they-come" not in sys.argv:
    align_gradients(module, accelerator)
model, optimizer = accelerator.prepare(module, torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9))
for _ in range(3):
    optimizer.zero_grad(set_to_none=True)
    images = torch.rand(6, 1, 16, 16)
    accelerator.backward(model(images).square().mean() + model(images[:, :, :12, :12]).square().mean())
    optimizer.step()
print("steps without a warning")
accelerator.end_training()
