"""Logits and inner features of a network from one forward pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cxr_common.models.structure import LEVELS, dry_run, feature_levels
from cxr_data.errors import BadInput, unknown_name

if TYPE_CHECKING:
    from cxr_common.models.zoo import GrayNetwork

POOLED = "pooled"
"""Name of the features that the classifier reads."""


def feature_names(gray_network: "GrayNetwork") -> tuple[str, ...]:
    """Features that the network gives, shallow to deep, "pooled" last."""
    return (*feature_levels(gray_network.network), POOLED)


def features(gray_network: "GrayNetwork", pixels: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and inner features of one forward pass.

    "level1" to "level4" are maps (B, C, H, W), the last four levels of timm's ``feature_info``, "level4" the
    deepest. Where a network has fewer levels only the deepest names exist. The tokens of a transformer come
    as a map, and a plain one gives its blocks at a quarter, half, three quarters and all of its depth.
    "pooled" is what the classifier reads, (B, num_features).

    Args:
        gray_network: The network, normalisation included.
        pixels: (B, 1, H, W), uint8 or float in 0..255.
        names: Names of the features wanted.

    Returns:
        Logits (B, L), exactly as ``gray_network(pixels)`` gives them, and features by name.

    Raises:
        BadInput: The network has no feature of that name, or none of timm's interface.
    """
    network = gray_network.network
    _check(gray_network, names)
    indices = {name: index for name, index in feature_levels(network).items() if name in names}
    x = gray_network.normalise(pixels)
    maps: Sequence[Tensor] = ()
    if indices:
        final, maps = network.forward_intermediates(x, indices=list(indices.values()))
    else:
        final = network.forward_features(x)
    pooled = network.forward_head(final, pre_logits=True)
    values = {**dict(zip(indices, maps, strict=True)), POOLED: pooled}
    return _logits(network.get_classifier(), pooled), {name: values[name] for name in names}


def feature_channels(gray_network: "GrayNetwork", names: Sequence[str], size: int) -> dict[str, int]:
    """Channels of each feature: of its map, or ``num_features`` for "pooled"; see `feature_shapes`."""
    return {name: shape[1] for name, shape in feature_shapes(gray_network, names, size).items()}


def feature_shapes(gray_network: "GrayNetwork", names: Sequence[str], size: int) -> dict[str, tuple[int, ...]]:
    """Shape of each feature for one image, found by a pass without arithmetic.

    Args:
        gray_network: The network.
        names: Names as in :func:`features`.
        size: Edge of the square input, pixels.

    Returns:
        Name to (1, C, H, W) of its map, or to (1, num_features) for "pooled".

    Raises:
        BadInput: The network has no feature of that name.
    """
    pixels = torch.empty(1, 1, size, size, dtype=torch.uint8, device="meta")
    _, maps = dry_run(_Features(gray_network, names), pixels)
    return {name: tuple(maps[name].shape) for name in names}


class _Features(nn.Module):
    def __init__(self, gray_network: "GrayNetwork", names: Sequence[str]):
        super().__init__()
        self.gray_network, self.names = gray_network, names

    def forward(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return features(self.gray_network, pixels, self.names)


def _check(gray_network: "GrayNetwork", names: Sequence[str]) -> None:
    network = gray_network.network
    if not hasattr(network, "feature_info") or not hasattr(network, "forward_intermediates"):
        raise BadInput(
            "a network that shows its inner features",
            f"{type(network).__name__}, which does not",
            do="choose another architecture, or a method that needs none",
        )
    known = feature_names(gray_network)
    for name in names:
        if name in known:
            continue
        if name in LEVELS:
            raise BadInput(
                f"a level of {type(network).__name__}",
                repr(name),
                do=f"it is too shallow for that one: choose among {', '.join(known)}",
            )
        raise unknown_name("feature", name, known)


def _logits(classifier: nn.Module, pooled: Tensor) -> Tensor:
    # Some of timm's classifiers are 1x1 convolutions.
    if isinstance(classifier, nn.Conv2d):
        return classifier(pooled[:, :, None, None]).flatten(1)
    return classifier(pooled)
