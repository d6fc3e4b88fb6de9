"""A small network trained from scratch: the baseline for every pretrained one."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["BaselineCnn"]

_WIDTHS, _HIDDEN, _DROPOUT = (32, 64), 128, 0.5


class BaselineCnn(nn.Module):
    """Two convolutions with ReLU and max-pooling, flattened into two dense layers with dropout between.

    The from-scratch baseline of Desbele 2025 (transfer learning and knowledge distillation for chest X-ray
    classification), which names these layers but not their widths: 32 and 64 channels of 3x3, 128 hidden
    units and dropout 0.5 are ours. The sigmoid is left to the loss. Flattening ties the weights to one size.

    Args:
        num_classes: Logits; 0 for the 128 features under them.
        in_chans: Channels of the image.
        img_size: Edge of the square image, pixels, at least 4.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, img_size: int = 224):
        super().__init__()
        first, second = _WIDTHS
        self.num_features = self.head_hidden_size = _HIDDEN
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(in_chans, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.hidden = nn.Sequential(nn.Linear(second * (img_size // 4) ** 2, _HIDDEN), nn.ReLU())
        self.dropout = nn.Dropout(_DROPOUT)
        self.classifier = nn.Identity()
        self.feature_info = [
            {"num_chs": width, "reduction": 2 ** (level + 1), "module": f"features.{level}"}
            for level, width in enumerate(_WIDTHS)
        ]
        self.reset_classifier(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, img_size, img_size) to logits (B, num_classes), or features (B, 128) where there are none."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, img_size, img_size) to the last map, (B, 64, img_size // 4, img_size // 4)."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 64, h, w) to logits (B, num_classes), or to the features (B, 128) under them."""
        x = self.dropout(self.hidden(torch.flatten(x, 1)))
        return x if pre_logits else self.classifier(x)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The last map, and the maps at ``indices`` of ``feature_info``, from one pass."""
        maps = []
        for level, layer in enumerate(self.features):
            x = layer(x)
            if level in indices:
                maps.append(x)
        return x, maps

    def get_classifier(self) -> nn.Module:
        """The last dense layer (an identity where there are no outputs)."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on top.

        Args:
            num_classes: Outputs; 0 for none.
            global_pool: Must be None: the map is flattened, not pooled.
        """
        if global_pool is not None:
            raise ValueError(f"the baseline CNN flattens its map, it cannot pool by {global_pool!r}")
        self.num_classes = num_classes
        self.classifier = nn.Linear(_HIDDEN, num_classes) if num_classes else nn.Identity()


default_cfgs = generate_default_cfgs({"baseline_cnn": {"url": "", "input_size": (3, 224, 224)}})


@register_model
def baseline_cnn(pretrained: bool = False, **kwargs: Any) -> BaselineCnn:
    """The baseline CNN by its timm name; there are no published weights of it."""
    return cast(BaselineCnn, build_model_with_cfg(BaselineCnn, "baseline_cnn", pretrained, **kwargs))
