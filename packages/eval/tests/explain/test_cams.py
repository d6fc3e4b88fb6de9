from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction
from torch import nn

from cxr_common.models.zoo import GrayNetwork, build
from cxr_eval.explain import cams
from cxr_eval.explain.methods import METHODS

ORACLES = {
    "gradcam": oracle.GradCAM,
    "gradcam++": oracle.GradCAMPlusPlus,
    "layercam": oracle.LayerCAM,
    "eigencam": oracle.EigenCAM,
    "scorecam": oracle.ScoreCAM,
}


def _tokens(x):
    """(B, 1 + N, C) to (B, C, h, w), the class token left out."""
    x = x[:, 1:]
    edge = int(x.shape[1] ** 0.5)
    return x.transpose(1, 2).reshape(len(x), -1, edge, edge)


# How the oracle is told where to look: the layer by hand, and how its output becomes a map.
NETWORKS = {
    "resnet18": ("level3", lambda network: network.layer3, None),
    "densenet121": ("level4", lambda network: network.features.norm5, None),
    "vit_tiny_patch16_224": ("level4", lambda network: network.blocks[-1].norm1, _tokens),
    "swin_tiny_patch4_window7_224": ("level4", lambda network: network.norm, lambda x: x.permute(0, 3, 1, 2)),
}
SIZE = 64


@pytest.fixture(scope="module")
def networks():
    made = {}

    def make(architecture):
        if architecture not in made:
            torch.manual_seed(1)
            network: Any = build(architecture, 3, size=SIZE)
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    # The oracle adds 1e-6 to a sum of squared gradients: large ones show the formula.
                    if parameter is network.get_classifier().weight:
                        parameter.normal_(0, 1e5)
                    elif "norm" in name or "bn" in name:
                        parameter.add_(0.3 * torch.randn_like(parameter))
            # Float64: what remains is the oracle's rounding of its results to float32.
            made[architecture] = GrayNetwork(network, 0.5, 0.25).eval().double()
        return made[architecture]

    return make


def wanted(label) -> Any:
    return ClassifierOutputTarget(label)


def images(n, size=SIZE):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 1, size, size), dtype=np.uint8))


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "eigencam"])
def test_maps_equal_those_of_an_independent_implementation(networks, monkeypatch, method, architecture):
    network, pixels = networks(architecture), images(3)
    level, layer, reshape = NETWORKS[architecture]
    # The oracle leaves the sign of a principal component to chance, but has the same rule in another function.
    monkeypatch.setattr("pytorch_grad_cam.eigen_cam.get_2d_projection", get_2d_projection_with_sign_correction)
    label = [2, 0, 1]
    with ORACLES[method](network, [layer(network.network)], reshape_transform=reshape) as peer:
        expected = peer(pixels.double(), [wanted(one) for one in label])
    actual = METHODS[method](network, pixels, torch.tensor(label), level)
    assert actual.shape == (3, SIZE, SIZE)
    assert actual.dtype == torch.float32
    assert expected.max() > 0.99
    np.testing.assert_allclose(actual.numpy(), expected, atol=2e-5)


def test_score_cam_equals_an_independent_implementation(networks, monkeypatch):
    network, pixels = networks("resnet10t"), images(2, 32)
    inner: Any = network.network
    monkeypatch.setattr("tqdm.tqdm", lambda rows: rows)

    # The oracle enlarges masks with aligned corners, the authors' code without.
    def enlarge(size):
        return nn.Upsample(size=tuple(size), mode="bilinear", align_corners=False)

    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", enlarge)
    with torch.no_grad():
        inner.get_classifier().weight.div_(1000)  # a softmax of large logits would be one channel
        normalised = network.normalise(pixels)
    with oracle.ScoreCAM(inner, [inner.layer1]) as peer:
        expected = peer(normalised, [wanted(1), wanted(2)])
    actual = cams.score_cam(network, pixels, torch.tensor([1, 2]), "level1", batch_size=24)
    assert expected.max() > 0.99
    np.testing.assert_allclose(actual.numpy(), expected, atol=2e-5)


class Toy(nn.Module):
    """One linear layer of three maps, pooled: its class activation map is known by hand."""

    def __init__(self, weights):
        super().__init__()
        self.maps = nn.Conv2d(1, 3, 4, stride=4, bias=False)
        self.classifier = nn.Linear(3, len(weights), bias=False)
        self.classifier.weight.data = torch.tensor(weights, dtype=torch.float32)
        self.feature_info = [{"num_chs": 3, "reduction": 4, "module": "maps"}]

    def forward(self, x):
        return self.classifier(self.maps(x).mean(dim=(2, 3)))


def toy(weights):
    torch.manual_seed(0)
    return GrayNetwork(Toy(weights), 0.5, 0.25)


def test_grad_cam_of_a_pooled_linear_network_is_its_class_activation_map():
    """Zhou et al., CVPR 2016: with global average pooling the weights are those of the classifier."""
    network, pixels = toy([[1.0, -2.0, 0.5], [0.0, 1.0, 0.0]]), images(2, 16)
    with torch.no_grad():
        maps = network.network.get_submodule("maps")(network.normalise(pixels))
    expected = cams.finished((maps * torch.tensor([1.0, -2.0, 0.5])[:, None, None]).sum(dim=1), 16)
    torch.testing.assert_close(cams.grad_cam(network, pixels, 0), expected)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam"])
def test_a_label_that_nothing_leads_to_has_an_empty_map(method):
    network, pixels = toy([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]), images(2, 16)
    maps = METHODS[method](network, pixels, torch.tensor([0, 1]), "level4")
    assert cams.is_empty(maps).tolist() == [False, True]
    assert torch.isfinite(maps).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_blank_image_gives_no_nan(method):
    network = toy([[1.0, -2.0, 0.5]])
    blank = torch.full((2, 1, 16, 16), 77, dtype=torch.uint8)
    maps = METHODS[method](network, blank, 0, "level4")
    assert cams.is_empty(maps).all()  # the same everywhere says nothing about where


@given(
    st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 5), st.integers(5, 20), st.sampled_from([1e-30, 1.0, 1e30])
)
@settings(deadline=None, max_examples=30)
def test_finished_maps_lie_in_0_1_and_do_not_depend_on_scale(seed, batch, edge, size, scale):
    raw = torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, edge, edge))).float()
    maps = cams.finished(raw, size)
    assert maps.shape == (batch, size, size)
    assert torch.isfinite(maps).all()
    empty = cams.is_empty(maps)
    peaks, floors = maps.amax(dim=(1, 2)), maps.amin(dim=(1, 2))
    assert torch.equal(peaks, (~empty).float())
    assert not floors.any()
    torch.testing.assert_close(cams.finished(raw * scale, size), maps, rtol=0, atol=1e-5)


def test_what_is_not_finite_is_empty():
    raw = torch.ones(3, 2, 2)
    raw[0, 0, 0], raw[1, 0, 0], raw[2, 0, 0] = torch.nan, torch.inf, 2
    maps = cams.finished(raw, 8)
    assert cams.is_empty(maps).tolist() == [True, True, False]
    assert torch.isfinite(maps).all()
