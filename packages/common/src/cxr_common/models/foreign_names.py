"""The names that other libraries give the weights of networks in the zoo."""

import re
from collections.abc import Callable

Renaming = tuple[str, str | Callable[[re.Match[str]], str]]


def _mobilenet_v2() -> list[Renaming]:
    # torchvision numbers the blocks through; timm counts within stages of 1, 2, 3, 4, 3, 3 and 1 blocks.
    places = [(stage, block) for stage, depth in enumerate((1, 2, 3, 4, 3, 3, 1)) for block in range(depth)]
    first = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    other = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
    renamings: list[Renaming] = [
        (r"^features\.0\.0\.", "conv_stem."),
        (r"^features\.0\.1\.", "bn1."),
        (r"^features\.18\.0\.", "conv_head."),
        (r"^features\.18\.1\.", "bn2."),
        (r"^classifier\.1\.", "classifier."),
    ]
    for number, (stage, block) in enumerate(places, start=1):
        for theirs, ours in (first if number == 1 else other).items():
            pattern = rf"^features\.{number}\.conv\.{re.escape(theirs)}\."
            renamings.append((pattern, f"blocks.{stage}.{block}.{ours}."))
    return renamings


def _layer(match: re.Match[str]) -> str:
    # Children 4 to 7 of a ResNet are layer1 to layer4.
    return f"layer{int(match[1]) - 3}."


def _half(match: re.Match[str]) -> int:
    # torchvision alternates stages (odd) and downsamplings (even): 1, 3, 5, 7 and 2, 4, 6.
    return int(match[1]) // 2


_CONVNEXT_PARTS = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}
_SWIN_PARTS = {"0": "fc1", "3": "fc2"}

RENAMINGS: dict[str, list[Renaming]] = {
    "timm": [],
    "ResNet as a sequence of children (lightly)": [
        (r"^0\.", "conv1."),
        (r"^1\.", "bn1."),
        (r"^([4-7])\.", _layer),
    ],
    "torchvision DenseNet, first release": [(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.")],
    "torchvision VGG": [
        (r"^classifier\.0\.", "pre_logits.fc1."),
        (r"^classifier\.3\.", "pre_logits.fc2."),
        (r"^classifier\.6\.", "head.fc."),
    ],
    "torchvision MobileNetV2": _mobilenet_v2(),
    "torchvision ConvNeXt": [
        (r"^features\.0\.([01])\.", r"stem.\1."),
        (r"^features\.([1357])\.(\d+)\.layer_scale$", lambda m: f"stages.{_half(m)}.blocks.{m[2]}.gamma"),
        (
            r"^features\.([1357])\.(\d+)\.block\.([0235])\.",
            lambda m: f"stages.{_half(m)}.blocks.{m[2]}.{_CONVNEXT_PARTS[m[3]]}.",
        ),
        (r"^features\.([246])\.([01])\.", lambda m: f"stages.{_half(m)}.downsample.{m[2]}."),
        (r"^classifier\.0\.", "head.norm."),
        (r"^classifier\.2\.", "head.fc."),
    ],
    "torchvision Swin": [
        (r"^features\.0\.0\.", "patch_embed.proj."),
        (r"^features\.0\.2\.", "patch_embed.norm."),
        (
            r"^features\.([1357])\.(\d+)\.mlp\.([03])\.",
            lambda m: f"layers.{_half(m)}.blocks.{m[2]}.mlp.{_SWIN_PARTS[m[3]]}.",
        ),
        (r"^features\.([1357])\.(\d+)\.", lambda m: f"layers.{_half(m)}.blocks.{m[2]}."),
        (r"^features\.([246])\.", lambda m: f"layers.{_half(m)}.downsample."),
        (r"^head\.", "head.fc."),
    ],
}
"""Naming scheme to its (pattern, replacement) pairs, by which its names become timm's."""


def to_timm(name: str, renamings: list[Renaming]) -> str:
    """Name of a tensor in timm: the first pattern that matches decides, and a name that none matches stays.

    Args:
        name: The name in the other library, without any wrapper's prefix.
        renamings: One value of :data:`RENAMINGS`.
    """
    for pattern, replacement in renamings:
        renamed, count = re.subn(pattern, replacement, name, count=1)
        if count:
            return renamed
    return name
