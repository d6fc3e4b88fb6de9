"""EEEA-Net-C2, a small network found by early-exit evolutionary architecture search."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from timm.layers.drop import DropPath
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["BLOCKS", "EeeaNet", "SqueezeExcite"]


class BlockSpec(NamedTuple):
    """One inverted residual block: channels in, widened to ``mid``, out; odd kernel; SE width or None."""

    inputs: int
    mid: int
    outputs: int
    kernel: int
    stride: int
    activation: type[nn.Module]
    squeeze: int | None


_RELU, _SWISH = nn.ReLU, nn.Hardswish  # Hardswish is x * relu6(x + 3) / 6

BLOCKS = (
    BlockSpec(16, 16, 16, 3, 1, _RELU, None),
    BlockSpec(16, 48, 24, 3, 2, _RELU, None),
    BlockSpec(24, 96, 24, 5, 1, _RELU, None),
    BlockSpec(24, 72, 24, 3, 1, _RELU, None),
    BlockSpec(24, 96, 40, 7, 2, _RELU, 24),
    BlockSpec(40, 120, 40, 3, 1, _RELU, 32),
    BlockSpec(40, 120, 40, 7, 1, _RELU, 32),
    BlockSpec(40, 240, 80, 5, 2, _SWISH, None),
    BlockSpec(80, 480, 80, 7, 1, _SWISH, None),
    BlockSpec(80, 240, 80, 5, 1, _SWISH, None),
    BlockSpec(80, 240, 80, 3, 1, _SWISH, None),
    BlockSpec(80, 480, 112, 7, 1, _SWISH, 120),
    BlockSpec(112, 448, 112, 5, 1, _SWISH, 112),
    BlockSpec(112, 336, 112, 3, 1, _SWISH, 88),
    BlockSpec(112, 336, 112, 3, 1, _SWISH, 88),
    BlockSpec(112, 672, 160, 5, 2, _SWISH, 168),
    BlockSpec(160, 960, 160, 3, 1, _SWISH, 240),
    BlockSpec(160, 960, 160, 5, 1, _SWISH, 240),
    BlockSpec(160, 480, 160, 7, 1, _SWISH, 120),
)
"""The searched blocks b0 to b18."""

_STEM, _FINAL, _MIX = 16, 960, 1280
_LEVELS = (0, 3, 6, 14, 18)  # last block at each resolution


class SqueezeExcite(nn.Module):
    """Weigh each channel by what the whole image says: x * hard_sigmoid(W2 relu(W1 mean(x))).

    Args:
        channels: Channels of x.
        squeezed: Width r between the two 1x1 convolutions, both with bias.
    """

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        weights = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu())
        return x * nn.functional.hardsigmoid(weights)


class InvertedResidual(nn.Module):
    """Widen (1x1), convolve each channel (k x k), optionally squeeze and excite, narrow (1x1, linear).

    The identity is added where shapes allow. A block that does not widen has no first convolution.
    """

    def __init__(self, spec: BlockSpec, drop_path: float):
        super().__init__()
        widen: list[nn.Module] = []
        if spec.mid != spec.inputs:
            widen = [*_conv_norm(spec.inputs, spec.mid), spec.activation()]
        self.widen = nn.Sequential(*widen)
        depthwise = _conv_norm(spec.mid, spec.mid, spec.kernel, spec.stride, groups=spec.mid)
        self.depthwise = nn.Sequential(*depthwise, spec.activation())
        self.excite = nn.Identity() if spec.squeeze is None else SqueezeExcite(spec.mid, spec.squeeze)
        self.narrow = nn.Sequential(*_conv_norm(spec.mid, spec.outputs))
        self.residual = spec.stride == 1 and spec.inputs == spec.outputs
        self.drop_path = DropPath(drop_path) if drop_path and self.residual else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = self.narrow(self.excite(self.depthwise(self.widen(x))))
        return x + self.drop_path(y) if self.residual else y


class EeeaNet(nn.Module):
    """EEEA-Net-C2 of Termritthikun et al., IEEE/ACM TCBB 21(4), arXiv 2305.06244, behind timm's interface.

    Stem, blocks b0 to b18, a final 1x1 convolution to 960 channels, the mean over the image, a 1x1 mix to
    1280 without normalisation, the classifier. With 3 input channels and 14 outputs that is 4,732,838
    parameters, and 289.9 M multiply-accumulates at 224 px.

    Args:
        num_classes: Outputs; 0 for the 1280 pooled features.
        in_chans: Channels of the image.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = _MIX
        self.stem = nn.Sequential(*_conv_norm(in_chans, _STEM, 3, 2), nn.Hardswish())
        rates = torch.linspace(0, drop_path_rate, len(BLOCKS), device="cpu").tolist()
        self.blocks = nn.Sequential(*(InvertedResidual(spec, rate) for spec, rate in zip(BLOCKS, rates, strict=True)))
        self.final = nn.Sequential(*_conv_norm(BLOCKS[-1].outputs, _FINAL), nn.Hardswish())
        self.mix = nn.Sequential(nn.Conv2d(_FINAL, _MIX, 1, bias=False), nn.Hardswish())
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Identity()
        self.feature_info = [
            {"num_chs": BLOCKS[last].outputs, "reduction": 2 ** (level + 1), "module": f"blocks.{last}"}
            for level, last in enumerate(_LEVELS)
        ]
        self.reset_classifier(num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to logits (B, num_classes), or to features (B, 1280) without classes."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to the map before pooling, (B, 960, H / 32, W / 32)."""
        return self.final(self.blocks(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 960, h, w) to logits (B, num_classes), or to the features (B, 1280) under them."""
        x = self.dropout(self.mix(x.mean((2, 3), keepdim=True)).flatten(1))
        return x if pre_logits else self.classifier(x)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The map before pooling, and the maps at ``indices`` of ``feature_info``, from one pass."""
        wanted = {_LEVELS[index] for index in indices}
        maps = []
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in wanted:
                maps.append(x)
        return self.final(x), maps

    def get_classifier(self) -> nn.Module:
        """The last linear layer (an identity where there are no classes)."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on top.

        Args:
            num_classes: Outputs; 0 for none.
            global_pool: Pooling; only "avg" exists here.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"EEEA-Net pools by 'avg', not {global_pool!r}")
        self.num_classes = num_classes
        self.classifier = nn.Linear(_MIX, num_classes) if num_classes else nn.Identity()
        self.classifier.apply(_initialise)


def _conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.1),
    ]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


default_cfgs = generate_default_cfgs(
    {
        "eeea_net_c2": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "stem.0",
            "classifier": "classifier",
        }
    }
)


@register_model
def eeea_net_c2(pretrained: bool = False, **kwargs: Any) -> EeeaNet:
    """EEEA-Net-C2 by its timm name; no published weights can be fetched for it."""
    network = build_model_with_cfg(EeeaNet, "eeea_net_c2", pretrained, feature_cfg={"feature_cls": "hook"}, **kwargs)
    return cast(EeeaNet, network)
