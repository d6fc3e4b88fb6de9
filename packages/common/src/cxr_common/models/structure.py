"""Where a network's parts are: its classifier, its input channels, its four levels of features."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LEVELS = ("level1", "level2", "level3", "level4")
"""Names of the feature levels, shallow to deep; "level4" is always the deepest."""


def classifier_name(network: Any) -> str:
    """Dotted name of the last layer, which makes logits of pooled features ("fc", "head.fc", ...).

    Args:
        network: A network of timm's interface. One without outputs has an identity in that place.
    """
    classifier = network.get_classifier()
    return next(name for name, module in network.named_modules() if module is classifier)


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d | None]:
    """Name and module of the convolution that reads the image; "" and None for a network without any."""
    found = ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    return next(found, ("", None))


def input_channels(network: nn.Module) -> int:
    """Channels of the image that the network's first convolution reads; 1 for a network without any."""
    convolution = first_convolution(network)[1]
    return 1 if convolution is None else convolution.in_channels


def side_by_side(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C_i, H_i, W_i) concatenated along the channels, averaged to the resolution of the first."""
    size = (maps[0].shape[-2], maps[0].shape[-1])
    return torch.cat(
        [nn.functional.adaptive_avg_pool2d(x, size) if tuple(x.shape[-2:]) != size else x for x in maps], dim=1
    )


def feature_levels(network: Any) -> dict[str, int]:
    """Which entries of ``network.feature_info`` the feature levels stand for.

    In a pyramid (ResNet, Swin) the last four, so that "level1" to "level4" have strides 4 to 32 nearly
    everywhere. A network with fewer has the deepest levels only. A plain transformer repeats one block
    at one resolution: its levels end at each quarter of its depth.

    Returns:
        Level name to index into ``feature_info``, shallow to deep.
    """
    reductions = [info["reduction"] for info in network.feature_info]
    count = len(reductions)
    if count > len(LEVELS) and len(set(reductions)) == 1:
        picked: Sequence[int] = [count * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    else:
        picked = range(max(0, count - len(LEVELS)), count)
    return dict(zip(LEVELS[-len(picked) :], picked, strict=True))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards every part is in the mode, training or eval, that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class _SameShape(TorchFunctionMode):
    """Let BatchNorm return its input: on the meta device it is decomposed, ten times slower than a convolution."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is nn.functional.batch_norm else func(*args, **(kwargs or {}))


def dry_run(module: nn.Module, *inputs: Tensor) -> Any:
    """Run a module in eval mode on the meta device: shapes without arithmetic.

    The module itself stays on its device, in its mode, with its weights; nothing is copied.

    Args:
        module: Any module.
        inputs: Tensors of the shapes and dtypes of interest, on any device.

    Returns:
        What the module returns, on the meta device.
    """
    tensors: Mapping[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = {name: tensor.to("meta") for name, tensor in tensors.items()}
    with evaluating(module), torch.no_grad(), _SameShape():
        return torch.func.functional_call(module, state, tuple(tensor.to("meta") for tensor in inputs))
