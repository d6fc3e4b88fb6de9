import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from cxr_common.models import foreign
from cxr_common.models.foreign import read_foreign, to_torchvision
from cxr_common.models.zoo import build
from cxr_data.errors import BadInput


def from_foreign(path: str | Path, architecture: str, *, channels: int = 1, **options: Any) -> dict[str, torch.Tensor]:
    return read_foreign(path, architecture, channels=channels, **options).state


def worn(network: Any, seed=0) -> Any:
    """A network whose statistics are not the fresh ones, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(0, 0.1, generator=generator)
            module.get_buffer("running_var").uniform_(0.5, 1.5, generator=generator)
            module.get_buffer("num_batches_tracked").fill_(7)
    return network.eval()


def save(state, path):
    torch.save(state, path)
    return path


def loaded(path, architecture, **options):
    network = build(architecture, options.get("num_outputs", 0), channels=options.get("channels", 1))
    network.load_state_dict(from_foreign(path, architecture, **options))
    return network.eval()


def assert_same(ours, theirs, size=64, tolerance=1e-5):
    gray = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(gray.repeat(1, 3, 1, 1))
        torch.testing.assert_close(ours(gray), expected, rtol=tolerance, atol=tolerance)
    assert expected.std() > 10 * tolerance


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return worn(torchvision.models.resnet18(num_classes=5))


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_torchvision_takes_a_backbone(architecture):
    torch.manual_seed(0)
    ours = worn(build(architecture, 3))
    theirs = getattr(torchvision.models, architecture)(weights=None).eval()
    result = theirs.load_state_dict(to_torchvision(ours.state_dict()), strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"]
    assert result.unexpected_keys == []
    ours.reset_classifier(0)
    theirs.fc = nn.Identity()
    assert_same(ours, theirs)


def test_a_color_backbone_leaves_as_it_is():
    state = build("resnet18", 0, channels=3).state_dict()
    assert all(torch.equal(one, state[name]) for name, one in to_torchvision(state).items())


@pytest.mark.parametrize("architecture", ["vgg19_bn", "eeea_net_c2", "resnet50d", "resnetv2_50", "seresnet18"])
def test_networks_that_are_not_torchvisions_stay(architecture):
    with torch.device("meta"):
        state = build(architecture, 0).state_dict()
    with pytest.raises(BadInput, match="a ResNet that torchvision has"):
        to_torchvision(state)


@pytest.mark.parametrize(
    ("architecture", "peer", "size"),
    [
        ("resnet18", "resnet18", 64),
        ("mobilenetv2_100", "mobilenet_v2", 64),
        pytest.param("densenet121", "densenet121", 64, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", "convnext_tiny", 64, marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", "swin_t", 224, marks=pytest.mark.slow),
        pytest.param("resnet50", "resnet50", 64, marks=pytest.mark.nightly),
        pytest.param("densenet161", "densenet161", 64, marks=pytest.mark.nightly),
        pytest.param("vgg19_bn", "vgg19_bn", 224, marks=pytest.mark.nightly),
    ],
)
def test_torchvisions_weights_enter(architecture, peer, size, tmp_path):
    torch.manual_seed(0)
    theirs = worn(getattr(torchvision.models, peer)(num_classes=5))
    path = save(theirs.state_dict(), tmp_path / "weights.pth")
    assert_same(loaded(path, architecture, num_outputs=5), theirs, size, 5e-5)


@pytest.mark.parametrize("architecture", ["resnet18", "eeea_net_c2"])
def test_timms_weights_enter(architecture, tmp_path):
    torch.manual_seed(0)
    theirs = worn(timm.create_model(architecture, num_classes=5))
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), path)
    assert_same(loaded(path, architecture, num_outputs=5), theirs, tolerance=5e-5)


def test_vgg_names_become_timms():
    """The rest of the VGG case without its 500 MB: names and shapes."""
    from cxr_common.models.foreign_names import RENAMINGS, to_timm

    with torch.device("meta"):
        theirs = torchvision.models.vgg19_bn().state_dict()
        ours = build("vgg19_bn", 1000, channels=3).state_dict()
    renamed = {to_timm(name, RENAMINGS["torchvision VGG"]): one.numel() for name, one in theirs.items()}
    assert renamed == {name: one.numel() for name, one in ours.items()}


def wrappers(state):
    body = {name: one for name, one in state.items() if not name.startswith("fc.")}
    children = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    heads = {
        "projection_head.0.weight": torch.rand(8, 512),
        "projection_head.1.num_batches_tracked": torch.tensor(3),
        "prototypes.weight": torch.rand(30, 8),
    }

    def under(prefix, tensors):
        return {prefix + name: one for name, one in tensors.items()}

    zeros = {name: torch.zeros_like(one) for name, one in body.items()}
    lightly = {f"{children[name.split('.')[0]]}.{name.partition('.')[2]}": one for name, one in body.items()}
    return {
        "published SwAV": under("module.", {**body, **heads}),
        "SwAV checkpoint": {"epoch": 3, "state_dict": under("module.", {**body, **heads}), "optimizer": {"state": {}}},
        "MoCo": {"state_dict": {**under("module.encoder_q.", body), **under("module.encoder_k.", zeros)}},
        "lightly": {"state_dict": {**under("backbone.", lightly), **under("projection_head.layers.", heads)}},
        "torchxrayvision": under("model.", state),
        "first PyTorch": {name: one for name, one in body.items() if not name.endswith("num_batches_tracked")},
        "half precision": {name: one.half() if one.is_floating_point() else one for name, one in body.items()},
        "model and epoch": {"model": body, "epoch": torch.tensor(3)},
    }


@pytest.mark.parametrize("kind", sorted(wrappers({"conv1.weight": torch.zeros(1)})))
def test_wrappers_are_taken_off(kind, resnet18, tmp_path):
    state = resnet18.state_dict()
    path = save(wrappers(state)[kind], tmp_path / "weights.pth.tar")
    found = from_foreign(path, "resnet18")
    assert set(found) == set(build("resnet18", 0).state_dict())
    close = 1e-3 if kind == "half precision" else 0
    for name, one in found.items():
        expected = state[name].sum(1, keepdim=True) if name == "conv1.weight" else state[name]
        if name.endswith("num_batches_tracked"):
            assert one.dtype == torch.int64
            assert int(one) == (0 if kind == "first PyTorch" else 7)
        else:
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, expected, rtol=close, atol=close)


def test_a_classifier_comes_along_only_where_it_fits(resnet18, tmp_path):
    path = save(resnet18.state_dict(), tmp_path / "weights.pt")
    kept = from_foreign(path, "resnet18", num_outputs=5)
    assert torch.equal(kept["fc.weight"], resnet18.fc.weight)
    assert "fc.weight" not in from_foreign(path, "resnet18", num_outputs=14)
    assert "fc.weight" not in from_foreign(path, "resnet18")


def test_channels_go_both_ways(resnet18, tmp_path):
    path = save(resnet18.state_dict(), tmp_path / "color.pth")
    color = from_foreign(path, "resnet18", channels=3)
    assert torch.equal(color["conv1.weight"], resnet18.conv1.weight)
    gray = save(from_foreign(path, "resnet18"), tmp_path / "gray.pth")
    again = from_foreign(gray, "resnet18", channels=3)
    torch.testing.assert_close(again["conv1.weight"].sum(1), resnet18.conv1.weight.sum(1))


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("vit_small_patch16_224", "pos_embed"),
        pytest.param(
            "swin_tiny_patch4_window7_224",
            "layers.3.blocks.0.attn.relative_position_bias_table",
            marks=pytest.mark.slow,
        ),
        pytest.param("visformer_small", "pos_embed1", marks=pytest.mark.slow),
    ],
)
def test_positions_are_resampled_to_the_size(architecture, name, tmp_path):
    with torch.device("meta"):
        theirs = timm.create_model(architecture, num_classes=0).state_dict()
        ours = build(architecture, 0, size=64).state_dict()
    state = {each: torch.ones(one.shape, dtype=one.dtype) for each, one in theirs.items()}
    state[name].fill_(0.25)
    found = from_foreign(save(state, tmp_path / "weights.pth"), architecture, size=64)
    assert {each: one.shape for each, one in found.items()} == {each: one.shape for each, one in ours.items()}
    assert found[name].shape != state[name].shape
    torch.testing.assert_close(found[name], torch.full_like(found[name], 0.25))


class Bomb:
    """Makes a folder when it is unpickled by a careless reader."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    path = save({"state_dict": Bomb(tmp_path / "burst")}, tmp_path / "weights.pth")
    with pytest.raises(BadInput, match=r"a pickle that would run code \(\w+.mkdir\)"):
        from_foreign(path, "resnet18")
    assert not (tmp_path / "burst").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.tar", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all\n", b"PK\x03\x04 half a zip", b"\x80\x02}q\x00"])
def test_files_of_something_else_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=r"a (file of plain tensors|readable weights file)"):
        from_foreign(tmp_path / name, "resnet18")


def test_half_a_file_is_refused(resnet18, tmp_path):
    whole = save(resnet18.state_dict(), tmp_path / "weights.pth").read_bytes()
    (tmp_path / "weights.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="a damaged one"):
        from_foreign(tmp_path / "weights.pth", "resnet18")


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="found nothing there"):
        from_foreign(tmp_path / "none.pth", "resnet18")
    with pytest.raises(BadInput, match="found a folder"):
        from_foreign(tmp_path, "resnet18")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "optimizer": {"lr": 0.1}}, "found keys epoch, optimizer"),
        ([torch.zeros(2)], "found list"),
        ({}, "found keys"),
        ({"state_dict": {}}, "found keys"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(content, found, tmp_path):
    with pytest.raises(BadInput, match=found):
        from_foreign(save(content, tmp_path / "weights.pth"), "resnet18")


def test_a_file_that_matches_nothing_says_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "OFFERED", ("resnet18", "resnet34"))
    path = save({"words.weight": torch.zeros(9, 4), "gain": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(BadInput, match=r"2 tensors such as words.weight \(9, 4\), gain \(3,\)"):
        from_foreign(path, "resnet18")


@pytest.mark.parametrize(
    ("holds", "asked", "message"),
    [
        ("resnet18", "resnet50", r"layer1.0.conv1.weight of shape \(64, 64, 1, 1\), found shape \(64, 64, 3, 3\)"),
        ("resnet18", "resnet34", "found 120 of its 216 tensors; missing layer1.2.conv1.weight"),
        ("resnet34", "resnet18", "a network with more in it: layer1.2.conv1.weight"),
        ("resnet18", "baseline_cnn", "weights of baseline_cnn, found 120 tensors such as conv1.weight"),
        pytest.param("mobilenetv2_100", "eeea_net_c2", "weights of eeea_net_c2", marks=pytest.mark.slow),
    ],
)
def test_the_wrong_architecture_is_named(holds, asked, message, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "OFFERED", ("eeea_net_c2", "mobilenetv2_100", "resnet18", "resnet34"))
    path = save(build(holds, 0).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(BadInput, match=message) as caught:
        from_foreign(path, asked)
    assert f"it looks like {holds}" in str(caught.value)
