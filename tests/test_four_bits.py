"""Weights in few bits lie on their grid, and their size is counted as they would be stored."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "four_bits.py"))


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, None), (4, 32), (4, 7)])
def test_a_rounded_weight_is_the_nearest_of_its_levels(bits, group):
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    actual, size = SCRIPT["rounded"](weight, bits, group)
    width = 27 if group is None else min(group, 27)
    for row, rounded in zip(weight.flatten(1), actual.flatten(1), strict=True):
        for part, near in zip(row.split(width), rounded.split(width), strict=True):
            scale = float(part.abs().max() / (2 ** (bits - 1) - 1))
            assert float((part - near).abs().max()) <= 0.505 * scale
            assert len(near.unique()) <= 2**bits - 1
    scales = 5 * -(-27 // width)
    assert size == weight.numel() * bits / 8 + 2 * scales


def test_all_that_is_no_weight_of_a_product_stays_in_float32():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    before = {name: x.clone() for name, x in network.state_dict().items()}
    taken = SCRIPT["stored"](network, 4, None)
    changed = {name for name, x in network.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"0.weight", "3.weight"}
    products = (72 + 16) * 4 / 8 + 2 * (8 + 2)  # weights, and a scale for each output channel
    assert taken == products + 4 * (8 + 2 + 4 * 8)  # biases; BatchNorm's weight, bias, mean and variance
