"""What a network costs: parameters and multiply-accumulates."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cxr_common.models.structure import dry_run, input_channels


def parameters(network: nn.Module) -> int:
    """Number of parameters, frozen ones included (buffers such as running means are none)."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, size: int) -> int:
    """Multiply-accumulates of one image in one forward pass in eval mode.

    Counted where they happen, in the dispatcher, so nothing that multiplies matrices is missed: convolutions,
    linear layers, and both products of attention. Normalisation, activations and pooling count nothing, as is
    usual in the literature: ResNet-18 at 224 px and 3 channels has 1.814 G.

    Args:
        network: A network, or a :class:`~cxr_common.models.zoo.GrayNetwork`.
        size: Edge of the square input, pixels.
    """
    channels = 1 if hasattr(network, "network") else input_channels(network)
    with FlopCounterMode(display=False) as counter:
        dry_run(network, torch.empty(1, channels, size, size, device="meta"))
    return counter.get_total_flops() // 2
