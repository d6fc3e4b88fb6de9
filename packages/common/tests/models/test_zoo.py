import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from architectures import BIG, QUICK, each_offered

from cxr_common.models.zoo import OFFERED, GrayNetwork, build, check_size
from cxr_data.errors import BadInput

FEATURES = {
    "baseline_cnn": 128,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "densenet161": 2208,
    "eeea_net_c2": 1280,
    "mobilenetv2_100": 1280,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnetv2_50": 2048,
    "resnetv2_50+vgg19_bn": 6144,
    "swin_tiny_patch4_window7_224": 768,
    "vgg19_bn": 4096,
    "visformer_small": 768,
    "vit_small_patch16_224": 384,
    "vit_tiny_patch16_224": 192,
}


def cases():
    for name in OFFERED:
        for size in (64, 224):
            by_night = name in BIG or (size == 224 and name not in QUICK)
            marks = [pytest.mark.nightly] if by_night else [] if name in QUICK else [pytest.mark.slow]
            yield pytest.param(name, size, marks=marks, id=f"{name}-{size}")


@pytest.mark.parametrize(("architecture", "size"), list(cases()))
def test_gray_bytes_in_logits_out_gradients_back(architecture, size, gray_network, pixels):
    network = gray_network(architecture, size).train()
    logits = network(pixels(size))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()
    (logits * torch.tensor([1.0, -1.0, 0.5])).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    # The signal arrives at the first layer (of each part).
    first = next(name for name in gradients if gradients[name].ndim == 4)
    assert gradients[first].abs().max() > 0


@pytest.mark.parametrize("architecture", each_offered())
def test_no_outputs_gives_the_pooled_features(architecture):
    with torch.device("meta"):
        network: Any = build(architecture, 0, size=64)
        features = network(torch.rand(2, 1, 64, 64))
    assert features.shape == (2, FEATURES[architecture])
    assert network.num_features == FEATURES[architecture]


def test_offered_names_are_all_tested():
    assert set(FEATURES) == set(OFFERED)


@pytest.mark.parametrize(
    "architecture", ["resnetv2_50", "vit_tiny_patch16_224", "baseline_cnn", "resnet18+baseline_cnn"]
)
def test_a_fresh_classifier_can_be_put_on_top(architecture):
    with torch.device("meta"):
        network: Any = build(architecture, 3, size=64)
        network.reset_classifier(5)
        assert network(torch.rand(2, 1, 64, 64)).shape == (2, 5)
        network.reset_classifier(0)
        assert network(torch.rand(2, 1, 64, 64)).shape == (2, network.num_features)


def drop_rates(network: Any) -> list[float]:
    return [module.drop_prob for module in network.modules() if type(module).__name__ == "DropPath"]


def test_channels_and_stochastic_depth_reach_the_network():
    with torch.device("meta"):
        assert build("resnet18", 2, channels=3).get_parameter("conv1.weight").shape[1] == 3
        deep = build("convnext_tiny", 2, drop_path=0.3)
        blocks = drop_rates(deep)
        eeea = build("eeea_net_c2", 2, drop_path=0.2)
        searched = drop_rates(eeea)
    assert max(blocks) == pytest.approx(0.3)
    assert searched == sorted(searched)
    assert searched[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("architecture", each_offered())
def test_there_is_no_stochastic_depth_unless_asked_for(architecture):
    with torch.device("meta"):
        assert max(drop_rates(build(architecture, 2, size=64)), default=0) == 0


def test_same_seed_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build("resnet18", 2).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    "architecture",
    [
        "vit_tiny_patch16_224",
        pytest.param("vit_small_patch16_224", marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
    ],
)
def test_transformers_take_other_sizes_as_multi_crop_needs(architecture):
    with torch.device("meta"):
        network: Any = build(architecture, 0, size=64)
        assert network(torch.rand(2, 1, 32, 32)).shape == (2, network.num_features)
    check_size(network, architecture, 32)
    assert network(torch.rand(1, 1, 64, 64, device="meta")).shape == (1, network.num_features)


@pytest.mark.parametrize("architecture", ["visformer_small", "baseline_cnn"])
def test_a_second_size_is_refused_where_weights_depend_on_the_first(architecture):
    with torch.device("meta"):
        network = build(architecture, 0, size=64)
    with pytest.raises(BadInput, match=f"an input size that {architecture} takes, found 32 px"):
        check_size(network, architecture, 32)


def test_nothing_is_downloaded(monkeypatch):
    seen = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: seen.append(k.get("pretrained")) or create(*a, **k))
    with torch.device("meta"):
        build("resnet18", 2)
    assert seen == [None]
    with pytest.raises(BadInput, match="known architecture"):
        build("hf_hub:timm/resnet18.a1_in1k", 2)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("resnet5O", "did you mean resnet50"),
        ("ResNet18", "resnet18"),
        ("eea_net_c2", "eeea_net_c2"),
        ("baseline", "baseline_cnn"),
        ("resnet18+vgg19bn", "vgg19_bn"),
        ("resnet18+", "choose one of baseline_cnn"),
        ("my-net-of-1999", "choose one of baseline_cnn"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, suggestion):
    with pytest.raises(BadInput, match="known architecture") as caught:
        build(name, 2)
    assert suggestion in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "size", "reason"),
    [
        ("vit_small_patch16_224", 100, "100 px (not a multiple of its 16 px patch)"),
        ("swin_tiny_patch4_window7_224", 98, "98 px (not a multiple of its 4 px patch)"),
        ("visformer_small", 90, "not a multiple of its 8 px patch"),
        ("densenet121", 16, "16 px"),
        ("resnet18+vit_small_patch16_224", 100, "vit_small_patch16_224"),
        ("baseline_cnn", 3, "fewer than 4"),
        ("vit_small_patch16_224", 0, "fewer than 4"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(architecture, size, reason):
    with pytest.raises(BadInput, match="an input size that") as caught, torch.device("meta"):
        build(architecture, 2, size=size)
    assert reason in str(caught.value)


@pytest.mark.parametrize("architecture", ["densenet121", "baseline_cnn"])
def test_stochastic_depth_is_refused_where_there_is_none(architecture):
    with pytest.raises(BadInput, match="stochastic depth"), torch.device("meta"):
        build(architecture, 2, drop_path=0.1)


class Same(torch.nn.Module):
    """Gives back what it is given."""

    def forward(self, x):
        return x


def test_gray_network_normalises_bytes_and_floats_alike():
    everything = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    network = GrayNetwork(Same(), 0.485, 0.229)
    expected = ((everything.double() / 255 - 0.485) / 0.229).float()
    assert network(everything).dtype == torch.float32
    torch.testing.assert_close(network(everything), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(network(everything), network(everything.float()))


def test_gray_network_passes_gradients_to_float_pixels():
    pixels = torch.full((1, 1, 2, 2), 100.0, requires_grad=True)
    GrayNetwork(Same(), 0.5, 0.25)(pixels).sum().backward()
    torch.testing.assert_close(pixels.grad, torch.full((1, 1, 2, 2), 1 / (255 * 0.25)))


def test_gray_network_keeps_the_memory_format(pixels):
    network = GrayNetwork(torch.nn.Conv2d(1, 8, 3), 0.5, 0.25).to(memory_format=torch.channels_last)
    last = pixels(16).to(memory_format=torch.channels_last)
    assert network.normalise(last).stride() == (256, 1, 16, 1)
    assert network.normalise(pixels(16)).stride() == (256, 256, 16, 1)
    assert network(pixels(16)).is_contiguous(memory_format=torch.channels_last)


def test_gray_network_shows_three_channels_the_same_image(pixels):
    network = GrayNetwork(torch.nn.Conv2d(3, 2, 1), 0.5, 0.25)
    x = network.normalise(pixels(8))
    assert x.shape == (2, 3, 8, 8)
    assert torch.equal(x[:, 0], x[:, 2])
    assert network(pixels(8)).shape == (2, 2, 8, 8)


def test_gray_network_saves_its_network_alone_and_follows_its_dtype(pixels):
    network = GrayNetwork(build("baseline_cnn", 2, size=16), 0.5, 0.25)
    assert set(network.state_dict()) == {f"network.{name}" for name in network.network.state_dict()}
    assert (float(network.mean), float(network.std)) == (0.5, 0.25)
    assert network.to(torch.bfloat16)(pixels(16)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gray_network_refuses_floats_of_the_wrong_range(dtype):
    gray = GrayNetwork(build("test_resnet", 2, size=32), 0.5, 0.25).to(dtype).eval()
    pixels = torch.full((2, 1, 32, 32), 0.7, dtype=dtype)
    with pytest.raises(BadInput, match="multiply by 255"):
        gray(pixels)
    assert gray(pixels * 255).isfinite().all()
    assert gray(torch.zeros_like(pixels)).isfinite().all()  # a black image


def test_gray_network_refuses_blank_images():
    with pytest.raises(BadInput, match="standard deviation above 0"):
        GrayNetwork(Same(), 0.5, 0.0)


def test_the_package_imports_without_torch():
    code = "import sys, cxr_common, cxr_common.models; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (3, 32, 32), (1, 32, 32), (32, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_gray_network_refuses_other_shapes(shape, channels):
    gray = GrayNetwork(build("test_resnet", 2, channels=channels, size=32), 0.5, 0.25).eval()
    with pytest.raises(BadInput, match=r"pixels \(B, 1, H, W\)"):
        gray(torch.zeros(shape, dtype=torch.uint8))
