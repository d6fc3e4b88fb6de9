import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from cxr_common import checkpoint
from cxr_common.checkpoint import Header, Input
from cxr_common.models.eight_bits import in_eight_bits, observing
from cxr_common.models.features import feature_channels, features
from cxr_common.models.zoo import GrayNetwork, build

SMALL = ("test_resnet", "test_efficientnet", "test_vit", "test_byobnet")
"""Residual sums, SE gates with SiLU, tokens, grouped convolutions."""
SIZE = 64


def lively(architecture: str) -> GrayNetwork:
    torch.manual_seed(0)
    network = build(architecture, 3, size=SIZE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.2)
    return GrayNetwork(network, 0.45, 0.25).eval()


def pixels(count: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def quantised(architecture: str, weight_bits: int = 7) -> tuple[GrayNetwork, GrayNetwork]:
    network = lively(architecture)
    eight = in_eight_bits(network, SIZE, weight_bits)
    with torch.no_grad(), observing(eight):
        eight(pixels())
    return network, eight


@pytest.mark.parametrize("architecture", SMALL)
def test_layers_see_whole_numbers_of_their_scales_and_answers_stay_near(architecture, monkeypatch):
    network, eight = quantised(architecture)
    seen = []
    for operation in (torch.fake_quantize_per_tensor_affine, torch.fake_quantize_per_channel_affine):

        def watched(value, scale, *rest, operation=operation):
            result = operation(value, scale, *rest)
            axis = scale if scale.ndim == 0 else scale.reshape(-1, *[1] * (value.ndim - 1))
            seen.append((scale.ndim, float((result / axis - (result / axis).round()).abs().max()), result / axis))
            return result

        monkeypatch.setattr(torch, operation.__name__, watched)
    with torch.no_grad():
        exact, near = network(pixels()), eight(pixels())
    assert len(seen) > 10
    assert max(off for _, off, _ in seen) < 1e-3
    assert max(float(whole.abs().max()) for dims, _, whole in seen if dims) == pytest.approx(63, abs=1e-3)
    assert 0 < (exact - near).abs().max() < 0.15 * exact.abs().max()


@pytest.mark.parametrize("architecture", SMALL)
def test_training_reaches_every_weight_and_leaves_batch_statistics(architecture):
    _, eight = quantised(architecture)
    eight.train()
    assert not [m for m in eight.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = eight(pixels())
    assert logits.dtype == torch.float32
    before = eight.network.ranges.clone()
    logits.square().sum().backward()
    assert not [name for name, p in eight.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    with torch.no_grad():
        eight(pixels() // 2)
    assert (eight.network.ranges != before).any()  # ranges follow what training shows


@pytest.mark.parametrize("architecture", SMALL[:3])
def test_a_file_gives_the_same_network_back(architecture, tmp_path):
    _, eight = quantised(architecture, weight_bits=8)
    about: dict[str, Any] = {"task": "multilabel", "labels": ("a", "b", "c"), "bits": eight.network.bits}
    header = Header("model", architecture, Input(SIZE, 0.45, 0.25), **about)
    checkpoint.save(tmp_path / "m.safetensors", eight, header)
    again, read = checkpoint.load(tmp_path / "m.safetensors", kind="model")
    assert read.bits == {"activations": 8, "weights": 8}
    with torch.no_grad():
        assert torch.equal(again(pixels()), eight(pixels()))
        assert torch.equal(copy.deepcopy(again)(pixels()), eight(pixels()))


@pytest.mark.parametrize("architecture", SMALL)
def test_inner_features_come_with_the_same_logits(architecture):
    _, eight = quantised(architecture)
    with torch.no_grad():
        logits, values = features(eight, pixels(), ("level4", "pooled"))
        torch.testing.assert_close(logits, eight(pixels()), rtol=1e-5, atol=1e-5)
    widths = feature_channels(eight, ("level4", "pooled"), SIZE)
    assert {name: value.shape[1] for name, value in values.items()} == widths


def test_a_grid_spans_its_range_and_holds_zero():
    network, eight = quantised("test_resnet")
    inner = eight.network
    for place, index in inner.places.items():
        low, high = inner.ranges[index].tolist()
        assert low <= 0 <= high
        assert high > low, place
        step = (high - low) / 255
        value = torch.linspace(low, high, 1000)
        on_grid = inner.on_grid(value, place)
        assert float((on_grid - value).abs().max()) <= step * (0.5 + 0.51)  # half a step, and the rounded zero point
        assert float(inner.on_grid(torch.zeros(1), place)) == 0
        assert math.isclose(float(on_grid.unique().diff().max()), step, rel_tol=1e-3)
    assert not network.training
