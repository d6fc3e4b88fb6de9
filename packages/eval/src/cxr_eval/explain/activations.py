"""Activations of a level, and the gradients of a logit with respect to them, for networks of every family."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cxr_common.models.concatenated import Concatenated
from cxr_common.models.structure import dry_run, evaluating, feature_levels, side_by_side
from cxr_common.models.zoo import GrayNetwork
from cxr_data.errors import BadInput, require_known

GRID = 7
"""Cells on the edge of the map that most networks end with at their usual input, 224 / 32."""


def default_level(network: GrayNetwork, size: int) -> str:
    """The deepest level with at least GRID cells on an edge; where there is none, the finest.

    Deeper levels know more about the label, but at small inputs their maps have too few cells to point.

    Args:
        network: The network.
        size: Edge of the square input, pixels.

    Returns:
        "level1" to "level4".
    """
    grids = {level: grid(network, size, level) for level in feature_levels(network.network)}
    fine = [level for level, cells in grids.items() if cells >= GRID]
    return fine[-1] if fine else max(reversed(grids), key=lambda level: grids[level])


def grid(network: GrayNetwork, size: int, level: str) -> int:
    """Cells on an edge of a level's map for inputs of size x size pixels, found without arithmetic."""
    pixels = torch.empty(1, 1, size, size, dtype=torch.uint8, device="meta")
    with _kept(network, level, leaves=False) as kept:
        dry_run(network, pixels)
    return kept.joined()[0].shape[-1]


def activations(network: GrayNetwork, pixels: Tensor, level: str) -> Tensor:
    """What a level shows, as a map.

    Args:
        network: The network; its mode and weights stay as they are.
        pixels: (B, 1, S, S) uint8.
        level: "level1" to "level4", as in :mod:`cxr_common.models.features`; :func:`_places` says where exactly.

    Returns:
        (B, C, h, w), in eval mode, without gradients.

    Raises:
        BadInput: The network has no such level, or one that is no map.
    """
    with torch.no_grad(), evaluating(network), _kept(network, level, leaves=False) as kept:
        network(pixels.to(device_of(network)))
        return kept.joined()[0]


def activations_and_gradients(
    network: GrayNetwork, pixels: Tensor, label: Tensor | int, level: str
) -> tuple[Tensor, Tensor]:
    """What a level shows, and the gradient of one logit of each image with respect to it.

    Args:
        network: The network; its mode, weights and gradients stay as they are.
        pixels: (B, 1, S, S) uint8.
        label: Index of the logit, one for all images or (B,).
        level: "level1" to "level4".

    Returns:
        Activations and gradients, each (B, C, h, w), in eval mode.

    Raises:
        BadInput: The network has no such level, or one that is no map.
    """
    device = device_of(network)
    # Detached weights: the graph that is kept begins at the level.
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    with torch.enable_grad(), evaluating(network), _kept(network, level, leaves=True) as kept:
        logits = torch.func.functional_call(network, weights, (pixels.to(device),))
        index = torch.as_tensor(label, device=device).expand(len(logits))
        score = logits.gather(1, index[:, None]).sum()  # images do not mix in eval mode
        gradients = torch.autograd.grad(score, kept.tensors(), materialize_grads=True)
    shown, slope = kept.joined(gradients)
    return shown, slope


def device_of(network: nn.Module) -> torch.device:
    """Where the network computes."""
    return next(network.parameters()).device


def _places(network: Any, level: str) -> list[tuple[nn.Module, Any]]:
    """The module whose output is the map of a level, and the network it is part of; one for each part.

    Mostly the module that timm names for the level. Two exceptions, where a LayerNorm reads that module's
    output x: what follows does not depend on the scale of x, so that <x, gradient> = 0 at every position
    (Euler's theorem) and the products that class activation maps are made of cancel. There the normalised
    output is taken. In a plain transformer that is the first norm of the level's last block: behind it the
    classifier may read the class token alone, and image tokens have no gradient at all.
    """
    if isinstance(network, Concatenated):
        return [place for part in network.parts for place in _places(part, level)]
    levels = feature_levels(network)
    require_known("level", level, levels)
    module = network.get_submodule(network.feature_info[levels[level]]["module"])
    reductions = {info["reduction"] for info in network.feature_info}
    if len(reductions) == 1 and isinstance(getattr(module, "norm1", None), nn.LayerNorm):
        module = module.norm1
    elif level == max(levels) and isinstance(getattr(network, "norm", None), nn.LayerNorm):
        module = network.norm
    return [(module, network)]


class _Kept:
    """Outputs of the places of a level, as the modules gave them."""

    def __init__(self, places: list[tuple[nn.Module, Any]], level: str):
        self.places, self.level = places, level
        self.outputs: dict[int, Tensor] = {}

    def tensors(self) -> list[Tensor]:
        return [self.outputs[place] for place in range(len(self.places))]

    def joined(self, *others: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs, and tensors of the same shapes, each as one (B, C, h, w): parts side by side."""
        networks = [network for _, network in self.places]
        return tuple(
            side_by_side(
                [_as_map(x.detach(), network, self.level) for x, network in zip(tensors, networks, strict=True)]
            )
            for tensors in (self.tensors(), *others)
        )


@contextmanager
def _kept(network: GrayNetwork, level: str, *, leaves: bool) -> Iterator[_Kept]:
    """Keep a level's output during a forward; as leaves, it is where the graph begins."""
    inner = network.network
    if not hasattr(inner, "feature_info"):
        raise BadInput(
            "a network that shows its inner features",
            f"{type(inner).__name__}, which does not",
            do="leave explanations out, or choose another architecture",
        )
    kept = _Kept(_places(inner, level), level)

    def keep(place: int, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise BadInput("a level with one map", type(output).__name__, where=f"{level} of {type(inner).__name__}")
        kept.outputs[place] = output.detach().requires_grad_() if leaves else output
        return kept.outputs[place].clone()  # the next layer may work in place

    handles = [
        module.register_forward_hook(lambda _m, _i, output, place=place: keep(place, output))
        for place, (module, _) in enumerate(kept.places)
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _as_map(tensor: Tensor, network: Any, level: str) -> Tensor:
    """(B, C, h, w), (B, h, w, C) or tokens (B, N, C), by the network's family, to (B, C, h, w)."""
    if tensor.ndim == 4:
        return tensor.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else tensor
    if tensor.ndim == 3:
        tokens = tensor[:, getattr(network, "num_prefix_tokens", 0) :]
        edge = math.isqrt(tokens.shape[1])
        if edge * edge == tokens.shape[1]:
            return tokens.transpose(1, 2).unflatten(2, (edge, edge))
    raise BadInput(
        "a level that is a map", f"shape {tuple(tensor.shape)}", where=f"{level} of {type(network).__name__}"
    )
