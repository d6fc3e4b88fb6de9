"""Look inside a network on the way: logits and inner features from one forward pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cxr_common.models.structure import STAGES, dry_run, feature_levels
from cxr_data.errors import BadInput, unknown_name

if TYPE_CHECKING:
    from cxr_common.models.zoo import GrayNetwork

POOLED = "pooled"
"""Name of the features that the classifier reads."""


def stage_names(gray_network: "GrayNetwork") -> tuple[str, ...]:
    """The stages that the network can be tapped at, shallow to deep, "pooled" last."""
    return (*feature_levels(gray_network.network), POOLED)


def features(gray_network: "GrayNetwork", pixels: Tensor, stages: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and inner features of one forward pass.

    "stage1" to "stage4" are maps (B, C, H, W), the last four levels of timm's ``feature_info``, "stage4" the
    deepest. Where a network has fewer levels only the deepest names exist. The tokens of a transformer come
    as a map, and a plain one gives its blocks at a quarter, half, three quarters and all of its depth.
    "pooled" is what the classifier reads, (B, num_features).

    Args:
        gray_network: The network, normalisation included.
        pixels: (B, 1, H, W), uint8 or float in 0..255.
        stages: Names of the features wanted.

    Returns:
        Logits (B, L), exactly as ``gray_network(pixels)`` gives them, and stage name to features.

    Raises:
        BadInput: The network has no stage of that name, or none of timm's interface.
    """
    network = gray_network.network
    _check(gray_network, stages)
    levels = {stage: level for stage, level in feature_levels(network).items() if stage in stages}
    x = gray_network.normalise(pixels)
    maps: Sequence[Tensor] = ()
    if levels:
        final, maps = network.forward_intermediates(x, indices=list(levels.values()))
    else:
        final = network.forward_features(x)
    pooled = network.forward_head(final, pre_logits=True)
    found = {**dict(zip(levels, maps, strict=True)), POOLED: pooled}
    return _logits(network.get_classifier(), pooled), {stage: found[stage] for stage in stages}


def stage_channels(gray_network: "GrayNetwork", stages: Sequence[str], size: int) -> dict[str, int]:
    """Channels of each stage: of its map, or ``num_features`` for "pooled"; see `stage_shapes`."""
    return {stage: shape[1] for stage, shape in stage_shapes(gray_network, stages, size).items()}


def stage_shapes(gray_network: "GrayNetwork", stages: Sequence[str], size: int) -> dict[str, tuple[int, ...]]:
    """Shape of each stage for one image, found by a pass without arithmetic.

    Args:
        gray_network: The network.
        stages: Names as in :func:`features`.
        size: Edge of the square input, pixels.

    Returns:
        Stage name to (1, C, H, W) of its map, or to (1, num_features) for "pooled".

    Raises:
        BadInput: The network has no stage of that name.
    """
    pixels = torch.empty(1, 1, size, size, dtype=torch.uint8, device="meta")
    _, found = dry_run(_Tapped(gray_network, stages), pixels)
    return {stage: tuple(found[stage].shape) for stage in stages}


class _Tapped(nn.Module):
    def __init__(self, gray_network: "GrayNetwork", stages: Sequence[str]):
        super().__init__()
        self.gray_network, self.stages = gray_network, stages

    def forward(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return features(self.gray_network, pixels, self.stages)


def _check(gray_network: "GrayNetwork", stages: Sequence[str]) -> None:
    network = gray_network.network
    if not hasattr(network, "feature_info") or not hasattr(network, "forward_intermediates"):
        raise BadInput(
            "a network that shows its inner features",
            f"{type(network).__name__}, which does not",
            do="choose another architecture, or a method that needs none",
        )
    known = stage_names(gray_network)
    for stage in stages:
        if stage in known:
            continue
        if stage in STAGES:
            raise BadInput(
                f"a stage of {type(network).__name__}",
                repr(stage),
                do=f"it is too shallow for that one: choose among {', '.join(known)}",
            )
        raise unknown_name("stage", stage, known)


def _logits(classifier: nn.Module, pooled: Tensor) -> Tensor:
    # Some of timm's classifiers are 1x1 convolutions.
    if isinstance(classifier, nn.Conv2d):
        return classifier(pooled[:, :, None, None]).flatten(1)
    return classifier(pooled)
