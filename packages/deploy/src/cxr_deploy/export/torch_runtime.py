"""Networks in PyTorch as functions from gray pixels to answers, as they are or made fast."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cxr_common.models.zoo import GrayNetwork
from cxr_data.header import Header
from cxr_deploy.export.answer import Answering
from cxr_deploy.runtimes import OUTPUTS, Run


def in_torch(
    network: GrayNetwork, header: Header, *, fold: bool = False, bf16: bool = False, device: str = "cpu"
) -> Run:
    """A network in PyTorch.

    Args:
        network: The classifier; left as it is.
        header: Its header.
        fold: Put batch normalisation into the convolutions and use channels-last layout.
        bf16: Compute in bfloat16 where PyTorch's autocast does.
        device: "cpu" or "cuda"; there too float32 is not rounded to TF32.
    """
    answering = Answering(folded(network, header.input.size) if fold else network, header).eval().to(device)
    if fold:
        answering = answering.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(device, dtype=torch.bfloat16, enabled=bf16),
        ):
            answers = answering(torch.from_numpy(pixels).to(device))
        return {name: answer.float().cpu().numpy() for name, answer in zip(OUTPUTS, answers, strict=False)}

    return run


def folded(network: GrayNetwork, size: int) -> GrayNetwork:
    """A copy with every batch normalisation that directly follows a convolution put into its weights.

    ``w' = w g / sqrt(v + eps)`` and ``b' = (b - m) g / sqrt(v + eps) + beta`` with the running mean m and variance v.
    Pairs are found by watching one forward pass; activations that timm keeps in its normalisation layers stay.

    Args:
        network: In eval mode; left as it is.
        size: Edge of its square input, pixels.

    Returns:
        The copy, which gives the same logits up to rounding.
    """
    copied = copy.deepcopy(network).eval()
    pairs = _pairs(copied, size)
    for conv, norm_name, norm in pairs:
        fused = nn.utils.fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = fused
        rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
        parent = copied.get_submodule(norm_name.rpartition(".")[0])
        setattr(parent, norm_name.rpartition(".")[2], nn.Sequential(*rest) if rest else nn.Identity())
    return copied


@torch.inference_mode()
def _pairs(network: GrayNetwork, size: int) -> list[tuple[nn.Conv2d, str, Any]]:
    """(convolution, name of the normalisation, normalisation) where one reads what the other has just written."""
    written: list[tuple[nn.Conv2d, torch.Tensor]] = []
    pairs: list[tuple[nn.Conv2d, str, Any]] = []
    names = {module: name for name, module in network.named_modules()}

    def after(module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            written.append((module, output))

    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d) and written and inputs[0] is written[-1][1]:
            pairs.append((written[-1][0], names[module], module))

    hooks = [hook for m in names for hook in (m.register_forward_hook(after), m.register_forward_pre_hook(before))]
    try:
        network(torch.zeros(1, 1, size, size, dtype=torch.uint8))
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
