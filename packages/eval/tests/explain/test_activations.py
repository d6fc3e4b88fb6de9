import numpy as np
import pytest
import torch
from torch import nn

from cxr_common.models import features
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.errors import BadInput
from cxr_eval.explain.activations import activations, activations_and_gradients, default_level, grid

CONVOLUTIONAL = ["baseline_cnn", "densenet121", "eeea_net_c2", "mobilenetv2_100", "resnet18", "resnetv2_50"]


def gray(architecture, size=64, outputs=3):
    torch.manual_seed(0)
    return GrayNetwork(build(architecture, outputs, size=size), 0.5, 0.25).eval()


def images(n, size=64):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 1, size, size), dtype=np.uint8))


@pytest.mark.parametrize("architecture", [*CONVOLUTIONAL, "resnet18+mobilenetv2_100"])
def test_convolutional_levels_are_those_that_distillation_reads(architecture):
    network, pixels = gray(architecture), images(2)
    levels = [level for level in features.feature_names(network) if level != features.POOLED]
    with torch.no_grad():
        _, expected = features.features(network, pixels, levels)
    for level in levels:
        torch.testing.assert_close(activations(network, pixels, level), expected[level], rtol=1e-5, atol=1e-6)
        assert grid(network, 64, level) == expected[level].shape[-1]


@pytest.mark.parametrize("architecture", ["resnet18", "densenet121", "convnext_atto"])
def test_gradients_are_those_of_the_logit(architecture):
    """Against a finite difference: add a small map to the level and watch the logit, in float64."""
    network, pixels = gray(architecture).double(), images(2)
    label = torch.tensor([2, 0])
    a, g = activations_and_gradients(network, pixels, label, "level3")
    direction = torch.randn(a.shape, dtype=a.dtype, generator=torch.Generator().manual_seed(1))
    module = network.network.get_submodule(
        {"resnet18": "layer3", "densenet121": "features.denseblock3", "convnext_atto": "stages.2"}[architecture]
    )

    def logits(step):
        handle = module.register_forward_hook(lambda _m, _i, output: output + step * direction)
        with torch.no_grad():
            actual = network(pixels).gather(1, label[:, None])[:, 0]
        handle.remove()
        return actual

    slope = (logits(1e-5) - logits(-1e-5)) / 2e-5
    torch.testing.assert_close((g * direction).sum(dim=(1, 2, 3)), slope, rtol=1e-4, atol=1e-7)


def test_the_network_stays_as_it_was():
    network = gray("resnet18").train()
    norm = network.network.get_submodule("bn1").eval()
    before = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    activations_and_gradients(network, images(2), 1, "level4")
    assert network.training
    assert not norm.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_batch_is_its_images_one_by_one():
    network, pixels = gray("densenet121"), images(3)
    label = torch.tensor([0, 2, 1])
    together = activations_and_gradients(network, pixels, label, "level4")
    for i in range(3):
        alone = activations_and_gradients(network, pixels[i : i + 1], int(label[i]), "level4")
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_[i], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_products_do_not_cancel_before_a_layer_norm(architecture):
    """Where a LayerNorm follows, <activation, gradient> is 0 at every position: the map must not be taken there."""
    network, pixels = gray(architecture, size=64), images(1)
    a, g = activations_and_gradients(network.double(), pixels, 0, "level4")
    product = (a * g).sum(dim=1).abs().mean()
    assert product > 1e-3 * (a.square().sum(dim=1).sqrt() * g.square().sum(dim=1).sqrt()).mean()


def test_default_level_is_the_deepest_that_can_point():
    network = gray("resnet18")
    assert default_level(network, 224) == "level4"
    assert default_level(network, 112) == "level3"
    assert default_level(network, 64) == "level2"
    assert default_level(network, 32) == "level1"
    assert default_level(network, 16) == "level1"  # 4 cells are the finest there are
    assert default_level(gray("vit_tiny_patch16_224", size=32), 32) == "level4"  # 2 cells everywhere: the deepest


def test_a_network_or_a_level_that_cannot_be_explained_is_refused():
    with pytest.raises(BadInput, match="level2"):
        activations(gray("baseline_cnn"), images(1), "level2")
    with pytest.raises(BadInput, match="inner features"):
        activations(GrayNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), 0.5, 0.25), images(1, 8), "level4")
