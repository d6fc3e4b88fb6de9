from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed

from cxr_common.checkpoint import Header, Input, save
from cxr_common.models.pretrained import files_of, imagenet_weights, load_start, parents_of
from cxr_common.models.zoo import build
from cxr_data.errors import BadInput
from cxr_data.files import sha256


@pytest.fixture
def theirs(tmp_path: Path) -> dict[str, Any]:
    """Networks of timm's for colour images, each saved as its hub has it."""
    torch.manual_seed(0)
    networks = {name: timm.create_model(name, num_classes=10) for name in ("resnet18", "mobilenetv2_100")}
    for name, network in networks.items():
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
    return networks


@pytest.fixture
def hub(theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A hub that has these networks; what was asked of it."""
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(tmp_path / f"{repository.removeprefix('timm/').split('.')[0]}.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_words_become_files(hub, tmp_path) -> None:
    assert files_of("random", "resnet18") == files_of("random", "a+b") == files_of("random+random", "a+b") == ()
    assert files_of("x.pth", "resnet18") == files_of("x.pth", "a+b") == (Path("x.pth"),)
    assert files_of("x.pth+random", "a+b") == (Path("x.pth"), None)
    assert files_of("x.pth+y.pth", "a+b") == (Path("x.pth"), Path("y.pth"))
    (tmp_path / "a+b.pth").touch()
    assert files_of(str(tmp_path / "a+b.pth"), "a+b") == (tmp_path / "a+b.pth",)
    assert files_of("x+y.pth", "resnet18") == (Path("x+y.pth"),)
    with pytest.raises(BadInput, match=r"one start for a\+b, or 2 joined by \+"):
        files_of("x.pth+y.pth+z.pth", "a+b")
    both = files_of("imagenet", "resnet18+mobilenetv2_100")
    assert both == (tmp_path / "resnet18.safetensors", tmp_path / "mobilenetv2_100.safetensors")
    assert [name for _, name in hub] == ["model.safetensors"] * 2


def test_imagenet_weights_give_the_features_of_the_colour_network(hub, theirs, tmp_path) -> None:
    network: Any = build("resnet18", 3, size=64)
    load_start(network, "resnet18", files_of("imagenet", "resnet18"), 64)
    gray = torch.rand(2, 1, 64, 64)
    ours, colour = network.eval(), theirs["resnet18"].eval()
    with torch.inference_mode():
        expected = colour.forward_features(gray.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours.forward_features(gray), expected, atol=1e-4, rtol=1e-4)


def test_each_part_of_a_concatenated_network_has_its_own_file(hub, theirs, tmp_path) -> None:
    torch.manual_seed(1)
    part = build("resnet18", 0, size=64)
    save(tmp_path / "ours.safetensors", part, Header("backbone", "resnet18", Input(64, 0.5, 0.2)))
    name = "resnet18+mobilenetv2_100"
    start = files_of(f"{tmp_path / 'ours.safetensors'}+imagenet", name)
    joined = build(name, 4, size=64)
    load_start(joined, name, start, 64)
    state = joined.state_dict()
    assert torch.equal(state["parts.0.conv1.weight"], part.state_dict()["conv1.weight"])
    colours = theirs["mobilenetv2_100"].state_dict()["conv_stem.weight"]
    torch.testing.assert_close(state["parts.1.conv_stem.weight"], colours.sum(1, keepdim=True))
    assert [(p["role"], p["sha256"]) for p in parents_of(start)] == [
        ("start", sha256(tmp_path / "ours.safetensors")),
        ("start-2", sha256(tmp_path / "mobilenetv2_100.safetensors")),
    ]
    only_second = build(name, 4, size=64)
    before = only_second.state_dict()["parts.0.conv1.weight"].clone()
    load_start(only_second, name, (None, start[1]), 64)
    assert torch.equal(only_second.state_dict()["parts.0.conv1.weight"], before)
    assert parents_of(()) == ()
    assert [p["role"] for p in parents_of((None, start[1]))] == ["start-2"]
    with pytest.raises(BadInput, match="change the architecture to resnet18"):
        load_start(only_second, name, (None, start[0]), 64)


def test_position_embeddings_of_others_fit_the_size(tmp_path) -> None:
    theirs: Any = timm.create_model("test_vit")
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    network = build("test_vit", 2, size=64)
    load_start(network, "test_vit", (tmp_path / "vit.safetensors",), 64)
    given = theirs.state_dict()["pos_embed"]
    edge = 64 // theirs.patch_embed.patch_size[0]
    expected = resample_abs_pos_embed(given, [edge, edge], num_prefix_tokens=theirs.num_prefix_tokens)
    assert expected.shape != given.shape
    torch.testing.assert_close(network.state_dict()["pos_embed"], expected)


def test_networks_without_imagenet_weights_say_so(hub) -> None:
    for name in ("eeea_net_c2", "baseline_cnn", "no_such_net"):
        with pytest.raises(BadInput, match="ImageNet weights in timm"):
            imagenet_weights(name)
    assert hub == []


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch) -> None:
    def fails(repository: str, name: str) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand much more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(BadInput, match="no network") as caught:
        imagenet_weights("resnet18")
    assert "huggingface.co/timm/resnet18" in str(caught.value)
    assert "and much more" not in str(caught.value)
