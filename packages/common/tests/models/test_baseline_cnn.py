from typing import Any

import pytest
import torch

from cxr_common.models.cost import macs, parameters
from cxr_common.models.zoo import build


def test_layers_are_counted_by_hand():
    network: Any = build("baseline_cnn", 1, size=28)
    convolutions = (9 * 1 + 1) * 32 + (9 * 32 + 1) * 64
    dense = (64 * 7 * 7 + 1) * 128 + (128 + 1) * 1
    assert parameters(network) == convolutions + dense
    assert macs(network, 28) == 28 * 28 * 9 * 32 + 14 * 14 * 9 * 32 * 64 + 64 * 7 * 7 * 128 + 128


def test_it_is_conv_relu_pool_twice_then_two_dense_layers():
    torch.manual_seed(0)
    network: Any = build("baseline_cnn", 2, size=30).eval()  # an odd edge after the first pooling
    x = torch.rand(2, 1, 30, 30)
    y = x
    for convolution in (network.features[0][0], network.features[1][0]):
        y = torch.max_pool2d(torch.relu(convolution(y)), 2)
    y = torch.relu(y.flatten(1) @ network.hidden[0].weight.T + network.hidden[0].bias)
    torch.testing.assert_close(network(x), network.classifier(y))


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    network: Any = build("baseline_cnn", 2, size=16)
    x = torch.rand(2, 1, 16, 16)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_it_learns_to_tell_bright_from_dark():
    torch.manual_seed(0)
    network: Any = build("baseline_cnn", 1, size=16)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    targets = torch.arange(32).remainder(2).float()[:, None]
    x = torch.rand(32, 1, 16, 16) * 0.2 + targets[:, :, None, None] * 0.3
    for _ in range(30):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert ((network.eval()(x) > 0) == (targets > 0)).all()


def test_it_has_no_pooling_to_choose():
    network: Any = build("baseline_cnn", 1, size=16)
    with pytest.raises(ValueError, match="cannot pool by 'avg'"):
        network.reset_classifier(2, global_pool="avg")
