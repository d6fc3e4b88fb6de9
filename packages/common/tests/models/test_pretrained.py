import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from cxr_common.checkpoint import Header, Input, load, metadata, save
from cxr_common.models.pretrained import (
    Pretrained,
    build_pretrained,
    imagenet_weights,
    parents_of,
    resolve,
    timm_config,
)
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_data.images.read import read_image
from cxr_data.models.header import identities
from cxr_data.synthetic.phantom import phantom


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
    assert resolve("random", "resnet18") == resolve("random", "a+b") == resolve("random+random", "a+b") == ()
    assert resolve("x.pth", "resnet18") == resolve("x.pth", "a+b") == (Pretrained(Path("x.pth")),)
    assert resolve("x.pth+random", "a+b") == (Pretrained(Path("x.pth")), None)
    assert resolve("x.pth+y.pth#teacher", "a+b") == (Pretrained(Path("x.pth")), Pretrained(Path("y.pth"), "teacher"))
    for name in ("a+b.pth", "c#d.pth"):
        (tmp_path / name).touch()
        assert resolve(str(tmp_path / name), "a+b") == (Pretrained(tmp_path / name),)
    assert resolve("x+y.pth", "resnet18") == (Pretrained(Path("x+y.pth")),)
    with pytest.raises(BadInput, match=r"one start for a\+b, or 2 joined by \+"):
        resolve("x.pth+y.pth+z.pth", "a+b")
    both = resolve("imagenet", "resnet18+mobilenetv2_100")
    files = [one.path for one in both if one]
    assert files == [tmp_path / "resnet18.safetensors", tmp_path / "mobilenetv2_100.safetensors"]
    assert both[0] is not None
    assert both[0].mean == timm_config("resnet18").mean
    assert [name for _, name in hub] == ["model.safetensors"] * 2
    assert resolve("x.pth", "resnet18", [0.5], [0.25]) == (Pretrained(Path("x.pth"), "", (0.5,), (0.25,)),)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [], "1 and 0 numbers"),
        ([0.5, 0.5], [0.2, 0.2], "2 and 2 numbers"),
        ([123.0], [58.0], "divide those of 0..255 by 255"),
        ([0.5], [0.0], "standard deviation"),
        ([float("nan")], [0.2], "standard deviation"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(mean, std, message) -> None:
    with pytest.raises(BadInput, match=message):
        resolve("x.pth", "resnet18", mean, std)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def radiographs(size: int) -> torch.Tensor:
    """(4, 1, size, size) uint8 with bright and dark borders."""
    made = phantom(4, size=size, seed=3)["pixels"]
    return torch.from_numpy(np.ascontiguousarray(made)).unsqueeze(1)


def answers(network: Any, pixels: torch.Tensor, mean, std) -> torch.Tensor:
    """Features of a three-channel network whose input is normalised as its library does."""
    shape = (-1, 1, 1)
    colour = pixels.expand(-1, 3, -1, -1) / 255
    return network((colour - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))


@pytest.mark.parametrize(
    ("architecture", "mean", "std", "channels"),
    [
        ("resnet18", MEAN, STD, 3),  # padding with 0 stands for another gray value in each channel
        ("resnet18", (0.5,) * 3, (0.5,) * 3, 1),
        ("resnet18", (0.5,) * 3, (0.2, 0.3, 0.4), 1),
        pytest.param("mobilenetv2_100", MEAN, STD, 3, marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_lite0", (0.5,) * 3, (0.5,) * 3, 1, marks=pytest.mark.slow),
        pytest.param("densenet121", MEAN, STD, 3, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", MEAN, STD, 1, marks=pytest.mark.slow),  # no padding, and a bias
        ("test_vit", MEAN, STD, 1),
        pytest.param("swin_tiny_patch4_window7_224", MEAN, STD, 1, marks=pytest.mark.slow),
    ],
)
def test_weights_give_the_answers_of_their_three_channel_network(architecture, mean, std, channels, tmp_path) -> None:
    torch.manual_seed(0)
    theirs: Any = timm.create_model(architecture, num_classes=0)
    size = 224 if "swin" in architecture else theirs.pretrained_cfg["input_size"][1] if "vit" in architecture else 64
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(0, 0.2)
            module.get_buffer("running_var").uniform_(0.5, 1.5)
    about = {"mean": json.dumps(mean), "std": json.dumps(std)}
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors", metadata=about)
    ours = build_pretrained(
        architecture, 0, size, resolve(str(tmp_path / "theirs.safetensors"), architecture), 0.4, 0.3
    )
    pixels = radiographs(size)
    with torch.inference_mode():
        expected = answers(theirs.eval(), pixels, mean, std)
        torch.testing.assert_close(ours.eval()(pixels), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01
    said = ours.describe_input(size, {})
    assert said.channels == channels
    assert np.mean(said.mean) == pytest.approx(np.mean(mean))
    # The file that is written says it, and gives the same answers again.
    save(tmp_path / "ours.safetensors", ours, Header("backbone", architecture, said))
    again, header = load(tmp_path / "ours.safetensors")
    assert header.input == said
    with torch.inference_mode():
        torch.testing.assert_close(again(pixels), ours(pixels), atol=0, rtol=0)
    started = build_pretrained(
        architecture, 2, size, resolve(str(tmp_path / "ours.safetensors"), architecture), 0.4, 0.3
    )
    assert started.describe_input(size, {}) == said


def test_imagenet_weights_come_with_timms_normalisation(hub, theirs) -> None:
    ours = build_pretrained("resnet18", 0, 64, resolve("imagenet", "resnet18"), 0.3, 0.2)
    colour, pixels = theirs["resnet18"].eval(), radiographs(64)
    colour.reset_classifier(0)
    config = timm_config("resnet18")
    with torch.inference_mode():
        expected = answers(colour, pixels, config.mean, config.std)
        torch.testing.assert_close(ours.eval()(pixels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_each_part_of_a_concatenated_network_has_its_own_file_and_normalisation(hub, theirs, tmp_path) -> None:
    torch.manual_seed(1)
    part = build("resnet18", 0, size=64)
    save(tmp_path / "ours.safetensors", part, Header("backbone", "resnet18", Input(64, 0.5, 0.2)))
    name = "resnet18+mobilenetv2_100"
    start = resolve(f"{tmp_path / 'ours.safetensors'}+imagenet", name)
    joined = build_pretrained(name, 0, 64, start, 0.3, 0.1)
    pixels = radiographs(64)
    colour = theirs["mobilenetv2_100"].eval()
    colour.reset_classifier(0)
    config = timm_config("mobilenetv2_100")
    with torch.inference_mode():
        own = GrayNetwork(part, 0.5, 0.2).eval()(pixels)
        expected = torch.cat([own, answers(colour, pixels, config.mean, config.std)], 1)
        torch.testing.assert_close(joined.eval()(pixels), expected, atol=1e-4, rtol=1e-4)
    said = joined.describe_input(64, {})
    assert said.mean == (0.5,) * 3 + config.mean
    save(tmp_path / "joined.safetensors", joined, Header("backbone", name, said))
    with torch.inference_mode():
        torch.testing.assert_close(load(tmp_path / "joined.safetensors")[0](pixels), joined(pixels), atol=0, rtol=0)
    assert [(p["role"], p["sha256"]) for p in parents_of(start)] == [
        ("start", sha256(tmp_path / "ours.safetensors")),
        ("start-2", sha256(tmp_path / "mobilenetv2_100.safetensors")),
    ]
    assert parents_of(()) == ()
    assert [p["role"] for p in parents_of((None, start[1]))] == ["start-2"]
    half = build_pretrained(name, 2, 64, (None, start[1]), 0.3, 0.1).describe_input(64, {})
    assert half.mean == (0.3,) * 3 + config.mean
    with pytest.raises(BadInput, match="change the architecture to resnet18"):
        build_pretrained(name, 2, 64, (None, start[0]), 0.3, 0.1)


def test_weights_that_say_no_normalisation_get_the_cohorts_and_a_note(theirs, tmp_path, capsys) -> None:
    file = tmp_path / "resnet18.safetensors"
    ours = build_pretrained("resnet18", 0, 64, resolve(str(file), "resnet18"), 0.4, 0.3)
    assert "does not say the normalisation" in capsys.readouterr().out
    assert ours.describe_input(64, {}) == Input(64, 0.4, 0.3)
    pixels, colour = radiographs(64), theirs["resnet18"].eval()
    colour.reset_classifier(0)
    with torch.inference_mode():
        expected = answers(colour, pixels, (0.4,) * 3, (0.3,) * 3)
        torch.testing.assert_close(ours.eval()(pixels), expected, atol=1e-4, rtol=1e-4)
    build_pretrained("resnet18", 0, 64, resolve(str(file), "resnet18"), 0.4, 0.3, show=False)
    given = build_pretrained("resnet18", 0, 64, resolve(str(file), "resnet18", MEAN, STD), 0.4, 0.3)
    assert capsys.readouterr().out == ""
    assert given.describe_input(64, {}) == Input(64, MEAN, STD, channels=3)


def test_a_configuration_beside_the_file_says_the_normalisation(theirs, tmp_path) -> None:
    start = resolve(str(tmp_path / "resnet18.safetensors"), "resnet18")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": MEAN, "std": STD}}))
    assert build_pretrained("resnet18", 0, 64, start, 0.4, 0.3).describe_input(64, {}).std == STD
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    assert build_pretrained("resnet18", 0, 64, start, 0.4, 0.3).describe_input(64, {}) == Input(64, 0.5, 0.25)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3},
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "image_mean": [0.1] * 3},
    ],
)
def test_an_image_processor_of_transformers_is_followed_in_all_that_it_does(theirs, tmp_path, settings) -> None:
    about = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, **settings}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    pixels = torch.arange(256.0)
    expected = pixels * about.get("rescale_factor", 1 / 255) if about.get("do_rescale", True) else pixels
    expected = expected - 1 if about.get("rescale_offset") else expected
    if about.get("do_normalize", True):
        expected = (expected - about["image_mean"][0]) / about["image_std"][0]
    start = resolve(str(tmp_path / "resnet18.safetensors"), "resnet18")
    said = build_pretrained("resnet18", 0, 64, start, 0.4, 0.3).describe_input(64, {})
    assert isinstance(said.mean, float)
    assert isinstance(said.std, float)
    torch.testing.assert_close((pixels / 255 - said.mean) / said.std, expected, atol=1e-5, rtol=1e-5)


def test_a_configuration_beside_the_file_belongs_to_what_it_is_made_from(theirs, tmp_path) -> None:
    file = tmp_path / "resnet18.safetensors"
    seen = []
    for mean in (None, [0.5] * 3, [0.4] * 3):
        if mean:
            (tmp_path / "preprocessor_config.json").write_text(
                json.dumps({"image_mean": mean, "image_std": [0.25] * 3})
            )
        seen.append(identities(parents_of(resolve(str(file), "resnet18")))["start"])
        # A normalisation that is given is in the config already.
        assert identities(parents_of(resolve(str(file), "resnet18", MEAN, STD))) == {"start": sha256(file)}
    assert seen[0] == sha256(file)
    assert len(set(seen)) == 3
    save(tmp_path / "ours.safetensors", build("resnet18", 0), Header("backbone", "resnet18", Input(64, 0.5, 0.2)))
    (own,) = parents_of(resolve(str(tmp_path / "ours.safetensors"), "resnet18"))
    assert "normalisation" not in own


@pytest.mark.parametrize(("mean", "channels"), [(None, 3), ((0.45,) * 3, 1)])
def test_real_radiographs_get_the_answers_of_the_three_channel_network(shared_data, mean, channels) -> None:
    """Weights of natural images; zero padding stands for one gray value where the means are equal."""
    file = shared_data.parent / "weights" / "resnet18_imagenet.safetensors"
    if not file.exists():
        pytest.skip(f"no weights at {file}")
    about = metadata(file)
    means, std = tuple(mean or json.loads(about["mean"])), tuple(json.loads(about["std"]))
    start = resolve(str(file), "resnet18", mean or (), std if mean else ())
    ours = build_pretrained("resnet18", 0, 128, start, 0.4, 0.3)
    assert ours.describe_input(128, {}).channels == channels
    theirs: Any = timm.create_model("resnet18", num_classes=0)
    assert not theirs.load_state_dict(load_file(file), strict=False).unexpected_keys
    images = sorted((shared_data / "kermany_pneumonia").rglob("*.jp*g"))
    pixels = torch.from_numpy(np.stack([read_image(image, 128) for image in images[:: len(images) // 8][:8]])[:, None])
    with torch.inference_mode():
        expected = answers(theirs.eval(), pixels, means, std)
        torch.testing.assert_close(ours.eval()(pixels), expected, atol=1e-4 * float(expected.max()), rtol=0)
    assert expected.std() > 0.1


def test_a_file_of_ours_says_all_itself(tmp_path) -> None:
    save(tmp_path / "o.safetensors", build("resnet18", 0), Header("backbone", "resnet18", Input(64, 0.5, 0.2)))
    for start in (
        resolve(str(tmp_path / "o.safetensors"), "resnet18", [0.5], [0.5]),
        resolve(f"{tmp_path}/o.safetensors#a", "resnet18"),
    ):
        with pytest.raises(BadInput, match="says all itself"):
            build_pretrained("resnet18", 0, 64, start, 0.4, 0.3)


def test_one_channel_weights_take_one_mean(tmp_path) -> None:
    save_file(build("resnet18", 0).state_dict(), tmp_path / "gray.safetensors")
    start = resolve(str(tmp_path / "gray.safetensors"), "resnet18", MEAN, STD)
    with pytest.raises(BadInput, match="one mean and one std"):
        build_pretrained("resnet18", 0, 64, start, 0.4, 0.3)


@pytest.mark.parametrize("ours", [True, False])
def test_weights_that_are_not_finite_are_refused(ours, tmp_path) -> None:
    network = build("resnet18", 0)
    network.get_buffer("bn1.running_var").fill_(70000)
    state = {name: one.half() if one.is_floating_point() else one for name, one in network.state_dict().items()}
    if ours:
        state = {name: one.float() if one.is_floating_point() else one for name, one in state.items()}
        save(tmp_path / "w.safetensors", state, Header("backbone", "resnet18", Input(64, 0.5, 0.2)))
    else:
        save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match=r"64 of the 64 numbers in bn1.running_var that are not"):
        build_pretrained("resnet18", 0, 64, resolve(str(tmp_path / "w.safetensors"), "resnet18"), 0.4, 0.3)


@pytest.mark.slow
def test_of_several_networks_in_a_file_the_choice_is_named(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    a, b = build("resnet18", 0), build("resnet18", 0)
    file = tmp_path / "dino.pth"
    torch.save(
        {
            "student": {"module.backbone." + n: t for n, t in a.state_dict().items()},
            "teacher": {"backbone." + n: t for n, t in b.state_dict().items()},
            "epoch": 3,
        },
        file,
    )
    for word, chosen in ((f"{file}", b), (f"{file}#teacher", b), (f"{file}#student", a)):
        start = resolve(word, "resnet18", [0.5], [0.25])
        made = build_pretrained("resnet18", 0, 64, start, 0.4, 0.3)
        assert parents_of(start)[0]["role"] == "start" + word.removeprefix(str(file))
        assert torch.equal(made.network.conv1.weight, chosen.get_parameter("conv1.weight"))
        said = capsys.readouterr().out
        assert f"{'student.module.backbone' if chosen is a else 'teacher.backbone'}.* is taken" in said
    with pytest.raises(BadInput, match="a network called online"):
        build_pretrained("resnet18", 0, 64, resolve(f"{file}#online", "resnet18"), 0.4, 0.3)


def test_position_embeddings_of_others_fit_the_size(tmp_path) -> None:
    theirs: Any = timm.create_model("test_vit")
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    network = build_pretrained("test_vit", 2, 64, (Pretrained(tmp_path / "vit.safetensors"),), 0.5, 0.2).network
    given = theirs.state_dict()["pos_embed"]
    edge = 64 // theirs.patch_embed.patch_size[0]
    expected = resample_abs_pos_embed(given, [edge, edge], num_prefix_tokens=theirs.num_prefix_tokens)
    assert expected.shape != given.shape
    torch.testing.assert_close(network.state_dict()["pos_embed"], expected)


def test_networks_without_imagenet_weights_say_so(hub) -> None:
    for name in ("eeea_net_c2", "baseline_cnn"):
        with pytest.raises(BadInput, match="ImageNet weights in timm"):
            imagenet_weights(name)
    with pytest.raises(BadInput, match=r"did you mean .*vit_tiny_patch16_224"):
        imagenet_weights("vit_tny_patch16_224")
    assert hub == []


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch) -> None:
    def fails(repository: str, name: str) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand much more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(BadInput, match="no network") as caught:
        imagenet_weights("resnet18")
    assert "huggingface.co/timm/resnet18" in str(caught.value)
    assert "and much more" not in str(caught.value)
