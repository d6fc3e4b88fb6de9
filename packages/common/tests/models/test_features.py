from typing import Any

import pytest
import torch
from architectures import each_offered

from cxr_common.models.features import feature_channels, feature_names, features
from cxr_common.models.structure import feature_levels
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.errors import BadInput

ALL = each_offered()
CHANNELS = {
    "baseline_cnn": {"level3": 32, "level4": 64, "pooled": 128},
    "convnext_tiny": {"level1": 96, "level2": 192, "level3": 384, "level4": 768, "pooled": 768},
    "densenet121": {"level1": 256, "level2": 512, "level3": 1024, "level4": 1024, "pooled": 1024},
    "densenet161": {"level1": 384, "level2": 768, "level3": 2112, "level4": 2208, "pooled": 2208},
    "eeea_net_c2": {"level1": 24, "level2": 40, "level3": 112, "level4": 160, "pooled": 1280},
    "mobilenetv2_100": {"level1": 24, "level2": 32, "level3": 96, "level4": 320, "pooled": 1280},
    "resnet18": {"level1": 64, "level2": 128, "level3": 256, "level4": 512, "pooled": 512},
    "resnet34": {"level1": 64, "level2": 128, "level3": 256, "level4": 512, "pooled": 512},
    "resnet50": {"level1": 256, "level2": 512, "level3": 1024, "level4": 2048, "pooled": 2048},
    "resnetv2_50": {"level1": 256, "level2": 512, "level3": 1024, "level4": 2048, "pooled": 2048},
    "resnetv2_50+vgg19_bn": {"level1": 512, "level2": 1024, "level3": 1536, "level4": 2560, "pooled": 6144},
    "swin_tiny_patch4_window7_224": {
        "level1": 96,
        "level2": 192,
        "level3": 384,
        "level4": 768,
        "pooled": 768,
    },
    "vgg19_bn": {"level1": 256, "level2": 512, "level3": 512, "level4": 512, "pooled": 4096},
    "visformer_small": {"level2": 192, "level3": 384, "level4": 768, "pooled": 768},
    "vit_small_patch16_224": {"level1": 384, "level2": 384, "level3": 384, "level4": 384, "pooled": 384},
    "vit_tiny_patch16_224": {"level1": 192, "level2": 192, "level3": 192, "level4": 192, "pooled": 192},
}
STRIDES = {"level1": 4, "level2": 8, "level3": 16, "level4": 32}


@pytest.mark.parametrize("architecture", ALL)
def test_every_network_shows_its_features(architecture, gray_network, pixels):
    network, images = gray_network(architecture), pixels(64)
    names = feature_names(network)
    modes = [module.training for module in network.modules()]
    with torch.no_grad():
        plain = network(images)
        logits, found = features(network, images, names)
    assert torch.equal(logits, plain)
    assert {name: one.shape[1] for name, one in found.items()} == CHANNELS[architecture]
    assert feature_channels(network, names, 64) == CHANNELS[architecture]
    assert found["pooled"].shape == (2, network.network.num_features)
    if architecture.startswith("vit_"):
        strides = dict.fromkeys(STRIDES, 16)
    elif architecture == "baseline_cnn":
        strides = {"level3": 2, "level4": 4}
    else:
        strides = STRIDES
    for name in names[:-1]:
        edge = 64 // strides[name]
        assert found[name].shape[2:] == (edge, edge)
    assert [module.training for module in network.modules()] == modes


def as_map(output, channels):
    """A hooked output as (B, C, H, W), written independently of the code under test."""
    if output.ndim == 3:  # tokens, the class token first
        output = output[:, 1:]
        edge = int(output.shape[1] ** 0.5)
        return output.transpose(1, 2).reshape(len(output), channels, edge, edge)
    return output if output.shape[1] == channels else output.permute(0, 3, 1, 2)


@pytest.mark.parametrize("architecture", [case for case in ALL if case.values[0] != "resnetv2_50+vgg19_bn"])
def test_levels_are_the_outputs_of_the_layers_they_name(architecture, gray_network, pixels):
    network, images = gray_network(architecture), pixels(64)
    levels = feature_levels(network.network)
    seen, handles = {}, []
    for name, level in levels.items():
        module = network.network.get_submodule(network.network.feature_info[level]["module"])
        handles.append(
            module.register_forward_hook(lambda _module, _inputs, out, name=name: seen.update({name: out.clone()}))
        )
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        _, found = features(network, images, list(levels))
    for name in levels:
        assert torch.equal(found[name], as_map(seen[name], CHANNELS[architecture][name])), name


def test_a_plain_transformer_ends_its_levels_at_quarters_of_its_depth(gray_network):
    assert feature_levels(gray_network("vit_small_patch16_224").network) == {
        "level1": 2, "level2": 5, "level3": 8, "level4": 11,
    }  # fmt: skip


def test_parts_of_a_concatenation_are_concatenated(pixels):
    torch.manual_seed(0)
    concatenated: Any = build("resnet18+baseline_cnn", 2, size=64)
    network = GrayNetwork(concatenated, 0.5, 0.25).eval()
    assert feature_names(network) == ("level3", "level4", "pooled")
    first, second = (GrayNetwork(part, 0.5, 0.25).eval() for part in concatenated.parts)
    with torch.no_grad():
        _, found = features(network, pixels(64), ["level3", "pooled"])
        _, left = features(first, pixels(64), ["level3", "pooled"])
        _, right = features(second, pixels(64), ["level3", "pooled"])
    assert torch.equal(found["pooled"], torch.cat([left["pooled"], right["pooled"]], 1))
    assert torch.equal(found["level3"][:, :256], left["level3"])
    coarse = torch.nn.functional.avg_pool2d(right["level3"], 8)
    torch.testing.assert_close(found["level3"][:, 256:], coarse)


@pytest.mark.parametrize("architecture", ["resnet18", "eeea_net_c2", "baseline_cnn"])
def test_training_sees_one_pass(architecture, gray_network, pixels):
    network, images = gray_network(architecture).train(), pixels(64)
    passes = []
    handle = network.network.get_classifier().register_forward_hook(lambda *_: passes.append(1))
    torch.manual_seed(3)
    logits, found = features(network, images, ["level4", "pooled"])
    handle.remove()
    assert passes == [1]
    torch.manual_seed(3)
    torch.testing.assert_close(logits, network(images))  # the same dropout
    found["level4"].square().mean().backward()
    first = next(parameter for parameter in network.network.parameters() if parameter.ndim == 4)
    assert first.grad is not None
    assert first.grad.abs().max() > 0


def test_nothing_is_left_on_the_network(gray_network, pixels):
    network = gray_network("resnet18")
    before = network.network.conv1.weight.clone()
    features(network, pixels(64), ["level1"])
    feature_channels(network, ["level1", "pooled"], 64)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(network.network.conv1.weight, before)
    assert network.network.conv1.weight.device.type == "cpu"


def test_only_what_is_asked_comes_back_in_the_order_asked(gray_network, pixels):
    network = gray_network("resnet18")
    with torch.no_grad():
        _, found = features(network, pixels(64), ["pooled", "level4", "level2"])
        assert list(found) == ["pooled", "level4", "level2"]
        assert found["level2"].shape[1] == 128
        logits, nothing = features(network, pixels(64), [])
        assert nothing == {}
        assert torch.equal(logits, network(pixels(64)))


@pytest.mark.parametrize(
    ("architecture", "name", "message"),
    [
        ("resnet18", "level5", "did you mean level"),
        ("resnet18", "pooling", "did you mean pooled"),
        ("resnet18", "logits", "choose one of level1, level2"),
        ("baseline_cnn", "level1", "choose among level3, level4, pooled"),
    ],
)
def test_an_unknown_feature_is_refused(architecture, name, message, gray_network, pixels):
    network = gray_network(architecture)
    with pytest.raises(BadInput, match=message):
        features(network, pixels(64), [name])
    with pytest.raises(BadInput, match=message):
        feature_channels(network, [name], 64)


def test_a_network_without_levels_is_refused(pixels):
    with pytest.raises(BadInput, match="shows its inner features"):
        features(GrayNetwork(torch.nn.Conv2d(1, 1, 1), 0.5, 0.25), pixels(8), ["pooled"])
