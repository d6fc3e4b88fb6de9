"""Convolutions over maps of a few pixels, as the product of matrices that they are.

The last levels of a ResNet see a radiograph of 64 pixels as 4 x 4 and 2 x 2 pixels with hundreds of channels. There
oneDNN's convolutions are slow on a CPU, above all backward and in bfloat16, where one product of matrices gives the
same sums several times faster (``benchmarks/test_hot_paths.py`` measures it).
"""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr_common.models.eight_bits import EightBits

N = TypeVar("N", bound=nn.Module)
TINY, SMALL = 4, 16
"""Pixels of an output up to which the product is faster: always, and where weights meet one pixel each or are many and
learn."""
MANY_WEIGHTS = 2**16
"""Weights for each pixel of an output from which on they are many in float32; in bfloat16 half of that."""


def fast_layout(network: N) -> N:
    """Lay a network out for speed, in place: weights channels-last, and small maps as products, which rely on that.

    Args:
        network: On any device; only a CPU multiplies (:func:`multiply_small_maps`).
    """
    multiply_small_maps(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] - the stubs lack it


def multiply_small_maps(network: nn.Module) -> None:
    """Let the plain convolutions of a network be products of matrices where their output is small, in place.

    Names and shapes of the weights stay, and sums and gradients up to rounding. Weights that meet nothing but padding,
    as eight of nine do where the map is a single pixel, are left out, and their gradient is 0.

    Args:
        network: Its modules of the exact type ``nn.Conv2d``, square, undilated, ungrouped and padded with zeros, change
            to ``SmallMap``; not those within a network in 8 bits, whose grids are counted by its convolutions.
    """
    if isinstance(network, EightBits):
        return
    if type(network) is nn.Conv2d and _plain(network):
        network.__class__ = SmallMap
    for child in network.children():
        multiply_small_maps(child)


class SmallMap(nn.Conv2d):
    """A convolution that is a linear layer on a CPU where its output has few pixels, and itself elsewhere."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, H', W')."""
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        height, width = input.shape[-2:]
        edge = (height + 2 * padding - kernel) // stride + 1
        if input.device.type != "cpu" or height != width or not 0 < edge * edge <= SMALL:
            return super().forward(input)
        # Offsets within the kernel that meet a pixel, for some pixel of the output.
        first, last = max(0, padding - stride * (edge - 1)), min(kernel, height + padding)
        # Backward gains most; where nothing learns, gathering what each pixel meets takes longer than it saves.
        many = edge * edge * MANY_WEIGHTS / (2 if torch.is_autocast_enabled("cpu") else 1)
        pays = torch.is_grad_enabled() and self.weight.numel() >= many
        if edge * edge > TINY and last - first > 1 and not pays:
            return super().forward(input)
        pixels = input.permute(0, 2, 3, 1)
        if last - first > 1:
            pixels = _Windows.apply(pixels, first, last, stride, padding, edge)
        else:
            start = first - padding
            pixels = pixels[:, start : start + stride * edge : stride, start : start + stride * edge : stride]
        # The channels-last view, so that the gradient comes in the layout of the weight and is not copied.
        weight = self.weight.permute(0, 2, 3, 1)
        if last - first < kernel:
            weight = weight[:, first:last, first:last]
        # Two dimensions: of more, PyTorch multiplies each row of pixels by itself where nothing learns.
        answer = F.linear(pixels.flatten(0, 2), weight.flatten(1), self.bias)
        return answer.view(len(input), edge, edge, -1).permute(0, 3, 1, 2)


class _Windows(torch.autograd.Function):
    """What each pixel of the output meets: (B, H, W, C) to (B, E, E, taps x taps x C).

    The gradient adds up in one tensor; that of eager slices would fill one for each.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, first: int, last: int, stride: int, padding: int, edge: int) -> Tensor:
        ctx.shape, ctx.padding = pixels.shape, padding
        reach = stride * (edge - 1) + 1
        offsets = [slice(start, start + reach, stride) for start in range(first, last)]
        ctx.places = [(slice(None), rows, columns) for rows in offsets for columns in offsets]
        padded = F.pad(pixels, (0, 0, padding, padding, padding, padding))
        return torch.cat([padded[place] for place in ctx.places], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]: as documented
        images, height, width, channels = ctx.shape
        padding = ctx.padding
        padded = gradient.new_zeros(images, height + 2 * padding, width + 2 * padding, channels)
        for place, part in zip(ctx.places, gradient.split(channels, -1), strict=True):
            padded[place] += part
        return padded[:, padding : padding + height, padding : padding + width], None, None, None, None, None


def _plain(conv: nn.Conv2d) -> bool:
    square = len(set(conv.kernel_size)) == len(set(conv.stride)) == len(set(conv.padding)) == 1
    usual = conv.groups == 1 and set(conv.dilation) == {1} and conv.padding_mode == "zeros"
    return square and usual and isinstance(conv.padding, tuple) and int(conv.padding[0]) < conv.kernel_size[0]
