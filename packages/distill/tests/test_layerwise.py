import itertools
from typing import Any

import pytest
from torch import nn

from cxr_common.models.zoo import build
from cxr_common.training.parameters import groups
from cxr_distill.layerwise import depths, slower_below


def scales(network: nn.Module, lowest: float, module: nn.Module | None = None) -> dict[int, float]:
    split = slower_below(groups(module or network, 0.05), network, lowest)
    return {id(p): group["lr_scale"] for group in split for p in group["params"]}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "eeea_net_c2", "baseline_cnn"])
def test_from_the_first_layer_to_the_classifier(name) -> None:
    network: Any = build(name, 2, size=32)
    actual = scales(network, 0.1)
    assert actual.keys() == {id(p) for p in network.parameters()}
    last = list(network.get_classifier().parameters())
    assert {actual[id(p)] for p in last} == {1.0}
    assert min(actual.values()) == pytest.approx(0.1)
    in_order = [actual[id(p)] for p in network.parameters() if id(p) in depths(network)]
    assert sum(a <= b for a, b in itertools.pairwise(in_order)) > 0.9 * (len(in_order) - 1)


def test_groups_keep_what_they_hold_and_adapters_learn_at_the_full_rate() -> None:
    network, adapter = build("test_resnet", 2, size=32), nn.Linear(3, 4)
    both = nn.ModuleList([network, adapter])
    split = slower_below(groups(both, 0.05), network, 0.1)
    for group in split:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
    actual = scales(network, 0.1, both)
    assert {actual[id(p)] for p in adapter.parameters()} == {1.0}


def test_parts_of_a_concatenated_network_begin_anew() -> None:
    network = build("test_resnet+test_vit", 2, size=32)
    actual = scales(network, 0.1)
    for part in network.get_submodule("parts").children():
        assert min(actual[id(p)] for p in part.parameters()) == pytest.approx(0.1)
    assert {actual[id(p)] for p in network.get_submodule("classifier").parameters()} == {1.0}
