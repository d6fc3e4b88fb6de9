from typing import Any

import pytest
import torch
from torch import nn

from cxr_common.models.cost import macs, parameters
from cxr_common.models.zoo import GrayNetwork, build


def meta(architecture, channels=3, size=None):
    with torch.device("meta"):
        return build(architecture, 1000, channels=channels, size=size)


@pytest.mark.parametrize(
    ("architecture", "giga_macs", "million_parameters"),
    # Parameters as torchvision documents them; MACs as it does, or as counted by hand below.
    [
        ("resnet18", 1.814, 11.689512),
        ("resnet34", 3.664, 21.797672),
        ("resnet50", 4.089, 25.557032),
        ("densenet121", 2.834, 7.978856),
        pytest.param("densenet161", 7.728, 28.681000, marks=pytest.mark.slow),
        ("mobilenetv2_100", 0.301, 3.504872),
        pytest.param("swin_tiny_patch4_window7_224", 4.491, 28.288354, marks=pytest.mark.slow),
        ("convnext_tiny", 4.456, 28.589128),
    ],
)
def test_known_networks(architecture, giga_macs, million_parameters):
    network = meta(architecture)
    assert macs(network, 224) / 1e9 == pytest.approx(giga_macs, abs=6e-4)
    assert parameters(network) == round(million_parameters * 1e6)


def test_attention_is_counted_by_hand():
    network = meta("vit_small_patch16_224")
    tokens, width, depth = 197, 384, 12
    linear = tokens * width * (3 * width + width + 4 * width + 4 * width)
    attention = 2 * tokens * tokens * width
    expected = 196 * 16 * 16 * 3 * width + depth * (linear + attention) + width * 1000
    assert macs(network, 224) == expected


def test_a_gray_network_reads_one_channel():
    torch.manual_seed(0)
    network = GrayNetwork(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, groups=1), nn.ReLU()), 0.5, 0.25)
    assert macs(network, 8) == 8 * 8 * 4 * 9
    assert parameters(network) == 4 * 9 + 4
    color = GrayNetwork(nn.Conv2d(3, 4, 1), 0.5, 0.25)
    assert macs(color, 8) == 8 * 8 * 3 * 4


def test_groups_divide_the_work():
    assert macs(nn.Conv2d(8, 8, 3, groups=8, padding=1), 10) == 10 * 10 * 8 * 9


def test_the_network_is_left_as_it_was():
    network: Any = build("resnet18", 2)
    network.bn1.eval()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    macs(network, 32)
    assert network.training
    assert network.layer1.training
    assert not network.bn1.training
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
    assert next(network.parameters()).device.type == "cpu"
