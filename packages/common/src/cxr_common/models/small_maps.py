"""Convolutions whose output is a single pixel, as the product of matrices that they are."""

import torch.nn.functional as F
from torch import Tensor, nn


def shorten(network: nn.Module) -> None:
    """Let the plain convolutions of a network leave out the weights that meet nothing but padding, in place.

    The last stage of a ResNet sees a view of 32 pixels as one: of a 3 x 3 kernel eight weights lie on the padding and
    yet cost as much as the ninth. The sums are the same, and the gradient of the eight is 0, as it should be; on a CPU
    oneDNN is slow there besides. Names and shapes of the weights stay.

    Args:
        network: Its modules of the exact type ``nn.Conv2d``, square, undilated, ungrouped and padded with zeros, change
            to ``OnePixel``.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _plain(module):
            module.__class__ = OnePixel


class OnePixel(nn.Conv2d):
    """A convolution that is a linear layer where its output is one pixel, and itself elsewhere."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, H', W')."""
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        height, width = input.shape[-2:]
        if height != width or not 0 <= height + 2 * padding - kernel < stride:
            return super().forward(input)
        met = min(height, kernel - padding)  # pixels, and weights, that meet in each direction
        pixels = input[..., :met, :met].permute(0, 2, 3, 1).flatten(1)
        # Cut from the channels-last view, so that the gradient comes in the layout of the weight and is not copied.
        weight = self.weight.permute(0, 2, 3, 1)[:, padding : padding + met, padding : padding + met].flatten(1)
        return F.linear(pixels, weight, self.bias)[..., None, None]


def _plain(conv: nn.Conv2d) -> bool:
    square = len(set(conv.kernel_size)) == len(set(conv.stride)) == len(set(conv.padding)) == 1
    usual = conv.groups == 1 and set(conv.dilation) == {1} and conv.padding_mode == "zeros"
    return square and usual and isinstance(conv.padding, tuple) and int(conv.padding[0]) < conv.kernel_size[0]
