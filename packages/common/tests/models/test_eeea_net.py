import copy
from typing import Any

import pytest
import timm
import torch

from cxr_common.models import eeea_net
from cxr_common.models.cost import macs, parameters
from cxr_common.models.eeea_net import SqueezeExcite

BLOCKS = [
    464, 2_592, 7_440, 4_440, 16_040, 19_072, 23_872, 35_920, 102_400, 45_520,
    41_680, 233_624, 214_480, 139_416, 139_416, 429_224, 782_000, 797_360, 295_160,
]  # fmt: skip
RESIDUAL = "YNYYNYYNYYYNYYYNYYY"


def create(**options) -> Any:
    with torch.device("meta"):
        return timm.create_model("eeea_net_c2", **options)


def test_every_layer_has_the_published_parameters():
    network = create(num_classes=14)
    assert parameters(network.stem) == 464
    assert [parameters(block) for block in network.blocks] == BLOCKS
    assert parameters(network.final) == 155_520
    assert parameters(network.mix) == 1_228_800
    assert parameters(network.classifier) == 1281 * 14
    assert "".join("Y" if block.residual else "N" for block in network.blocks) == RESIDUAL


@pytest.mark.parametrize(("outputs", "expected"), [(14, 4_732_838), (1000, 5_995_904)])
def test_totals(outputs, expected):
    assert parameters(create(num_classes=outputs)) == expected


def test_multiply_accumulates():
    assert macs(create(num_classes=14), 224) == pytest.approx(289.9e6, abs=0.05e6)


def test_activations_are_where_the_table_says():
    network = create()
    relu = [any(isinstance(part, torch.nn.ReLU) for part in block.depthwise) for block in network.blocks]
    assert relu == [True] * 7 + [False] * 12
    assert all(type(block.depthwise[-1]) in (torch.nn.ReLU, torch.nn.Hardswish) for block in network.blocks)


def test_squeeze_excite_is_its_formula():
    torch.manual_seed(0)
    layer: Any = SqueezeExcite(6, 3).double()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    reduce, expand = layer.reduce.weight[:, :, 0, 0], layer.expand.weight[:, :, 0, 0]
    squeezed = torch.relu(x.mean((2, 3)) @ reduce.T + layer.reduce.bias)
    gate = torch.nn.functional.relu6(squeezed @ expand.T + layer.expand.bias + 3) / 6
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


def test_h_swish_is_its_formula():
    x = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(torch.nn.Hardswish()(x), x * torch.nn.functional.relu6(x + 3) / 6)


def test_block_is_written_out():
    torch.manual_seed(0)
    block: Any = eeea_net.InvertedResidual(eeea_net.BLOCKS[5], 0.0).double().eval()
    x = torch.randn(1, 40, 6, 6, dtype=torch.float64)
    y = torch.relu(block.widen[1](block.widen[0](x)))
    y = torch.relu(block.depthwise[1](block.depthwise[0](y)))
    y = block.narrow[1](block.narrow[0](block.excite(y)))
    torch.testing.assert_close(block(x), x + y)


def test_timm_sees_a_network_of_its_own():
    network: Any = timm.create_model("eeea_net_c2", num_classes=14, in_chans=1).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        maps = network.forward_features(x)
        pooled = network.forward_head(maps, pre_logits=True)
        assert maps.shape == (2, 960, 2, 2)
        assert pooled.shape == (2, network.num_features) == (2, 1280)
        assert torch.equal(network(x), network.classifier(pooled))
        assert [(level["num_chs"], level["reduction"]) for level in network.feature_info] == [
            (16, 2), (24, 4), (40, 8), (112, 16), (160, 32),
        ]  # fmt: skip
        final, actual = network.forward_intermediates(x, indices=[1, 4])
        assert torch.equal(final, maps)
        assert [tuple(one.shape) for one in actual] == [(2, 24, 16, 16), (2, 160, 2, 2)]

        body = copy.deepcopy(network)
        body.reset_classifier(0)
        assert torch.equal(body(x), pooled)
        pyramid: Any = timm.create_model("eeea_net_c2", in_chans=1, features_only=True).eval()
        pyramid.load_state_dict({f"body.{name}": one for name, one in body.state_dict().items()})
        assert torch.equal(pyramid(x)[4], actual[1])
        assert pyramid.feature_info.channels() == [16, 24, 40, 112, 160]
    with pytest.raises(ValueError, match="pools by 'avg'"):
        network.reset_classifier(3, global_pool="max")


def test_published_weights_are_not_promised():
    assert timm.list_pretrained("eeea_net*") == []


def test_stochastic_depth_keeps_the_expectation_in_eval():
    torch.manual_seed(0)
    plain = timm.create_model("eeea_net_c2", num_classes=2)
    dropped = timm.create_model("eeea_net_c2", num_classes=2, drop_path_rate=0.5)
    dropped.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), dropped.eval()(x))
        assert not torch.equal(plain.train()(x), dropped.train()(x))
