from typing import Any

import pytest
import torch

from cxr_common.models.zoo import build
from cxr_data.errors import BadInput

PAIR = "resnet18+eeea_net_c2"


def test_logits_are_one_linear_layer_on_all_features():
    torch.manual_seed(0)
    network: Any = build(PAIR, 3).eval()
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        joined = torch.cat([part(x) for part in network.parts], 1)
        expected = joined @ network.classifier.weight.T + network.classifier.bias
        torch.testing.assert_close(network(x), expected)
    assert network.num_features == joined.shape[1] == 512 + 1280


def test_each_part_starts_from_its_own_weights():
    torch.manual_seed(0)
    alone: list[Any] = [build(name, 7).eval() for name in PAIR.split("+")]
    network: Any = build(PAIR, 3).eval()
    for part, one in enumerate(alone):
        network.load_part(part, one.state_dict())
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        actual = network.forward_head(network.forward_features(x), pre_logits=True)
        expected = [one.forward_head(one.forward_features(x), pre_logits=True) for one in alone]
    assert torch.equal(actual, torch.cat(expected, 1))


def test_the_same_network_twice_has_two_sets_of_weights():
    network: Any = build("baseline_cnn+baseline_cnn", 2, size=16)
    first, second = network.parts
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        first.features[0][0].weight.zero_()
    assert second.features[0][0].weight.abs().max() > 0
    assert network.num_features == 256


def test_wrong_weights_of_a_part_are_refused():
    network: Any = build(PAIR, 3)
    with pytest.raises(BadInput, match=r"weights of part 0 \(ResNet\), found (Missing|Unexpected) key"):
        network.load_part(0, build("baseline_cnn", 2, size=16).state_dict())
    with pytest.raises(BadInput, match="a part from 0 to 1, found 2"):
        network.load_part(2, {})
    with pytest.raises(ValueError, match="pools in its own way"):
        network.reset_classifier(2, global_pool="avg")


@pytest.mark.slow
def test_three_parts():
    network: Any = build("resnet18+resnet18+eeea_net_c2", 0, size=32)
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 512 + 512 + 1280)
