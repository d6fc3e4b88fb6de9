"""Smaller learning rates for lower layers."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

STEPS = 12
"""Number of different learning rates; more would only split the work of the optimiser."""


def slower_below(
    groups: Sequence[dict[str, Any]], network: nn.Module, lowest: float, steps: int = STEPS
) -> list[dict[str, Any]]:
    """Split optimiser groups by depth and give each part its share of the learning rate.

        share = lowest^(1 - d),   d = depth of the layer, 0 the first, 1 the last, rounded to ``steps`` values

    As in layer-wise decay (Bao et al. 2022, "BEiT", §A), with the decay spread over the depth, so that one number
    suits networks of any depth.

    Args:
        groups: Optimiser groups over the network's parameters and perhaps others, which learn at the full rate.
        network: The network; depth is the order of its layers, within each part of a concatenated network.
        lowest: Share of the learning rate at the first layer, in (0, 1].
        steps: Number of different shares.

    Returns:
        Groups with "lr_scale" in (0, 1] beside what the given ones hold.
    """
    depth = depths(network)
    split: dict[tuple[int, int], dict[str, Any]] = {}
    for number, group in enumerate(groups):
        for parameter in group["params"]:
            level = round(depth.get(id(parameter), 1.0) * (steps - 1))
            scale = lowest ** (1 - level / (steps - 1))
            split.setdefault((number, level), {**group, "params": [], "lr_scale": scale})["params"].append(parameter)
    return list(split.values())


def depths(network: nn.Module) -> Mapping[int, float]:
    """Depth of every parameter, 0 (first layer) to 1 (last), by its ``id``.

    Layers are the modules that hold parameters of their own, in the order in which the network defines them.
    """
    parts = getattr(network, "parts", None)
    if isinstance(parts, nn.ModuleList):
        return {key: value for part in parts for key, value in depths(part).items()}
    layers = [list(module.parameters(recurse=False)) for module in network.modules()]
    layers = [layer for layer in layers if layer]
    last = max(len(layers) - 1, 1)
    return {id(parameter): position / last for position, layer in enumerate(layers) for parameter in layer}
