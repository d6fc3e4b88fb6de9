"""Which network a file or repository stands for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cxr_common.checkpoint import Header, Input, save
from cxr_common.models import encoders
from cxr_common.models.encoders import architecture_of, find_encoder, size_of
from cxr_common.models.zoo import build
from cxr_data.errors import BadInput

RAD_DINO = {
    "model_type": "dinov2",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 14,
}
VIT = {"model_type": "vit", "hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "patch_size": 16}
SIGLIP = {
    "model_type": "siglip",
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
        "image_size": 224,
    },
}
CLIP = {
    "model_cfg": {"quick_gelu": True, "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}}
}
BIOMED = {"model_cfg": {"vision_cfg": {"timm_model_name": "vit_base_patch16_224", "image_size": 224}}}


@pytest.mark.parametrize(
    ("about", "name", "size"),
    [
        ({"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 224, 224]}}, "resnet50", 224),
        ({**RAD_DINO, "size": {"shortest_edge": 518}}, "vit_base_patch14_dinov2", 518),
        ({**RAD_DINO, "model_type": "dinov2_with_registers", "num_register_tokens": 4, "crop_size": 224},
         "vit_base_patch14_reg4_dinov2", 224),
        ({**VIT, "image_size": 224}, "vit_tiny_patch16_224", 224),
        (SIGLIP, "vit_base_patch16_siglip_224", 224),
        (CLIP, "vit_base_patch32_clip_quickgelu_224", 224),
        (BIOMED, "vit_base_patch16_224", 224),
        ({"model_type": "resnet"}, "", None),
        ({}, "", None),
    ],
)  # fmt: skip
def test_configurations(about: dict[str, Any], name: str, size: int | None) -> None:
    assert architecture_of(about, Path("model.safetensors")) == name
    assert size_of(about) == size


@pytest.mark.parametrize("change", [{"num_attention_heads": 6}, {"num_hidden_layers": 11}, {"hidden_size": 200}])
def test_a_transformer_of_another_shape_is_not_taken_for_timms(change: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="ARCHITECTURE=FILE"):
        architecture_of({**VIT, **change}, Path("model.safetensors"))


def resnet18(folder: Path, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(build("resnet18", 10, channels=3).state_dict(), folder / name)
    return folder / name


def test_a_folder_laid_out_like_a_repository(tmp_path) -> None:
    path = resnet18(tmp_path / "repo")
    about = {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 160, 160], "mean": [0.4], "std": [0.2]}}
    (path.parent / "config.json").write_text(json.dumps(about))
    encoder = find_encoder(str(path.parent))
    assert (encoder.architecture, encoder.weights.path, encoder.size) == ("resnet18", path, 160)


def test_a_file_alone(tmp_path, monkeypatch) -> None:
    path = resnet18(tmp_path)
    monkeypatch.setattr("cxr_common.models.foreign.OFFERED", ("resnet18", "resnet34"))
    assert find_encoder(str(path)).architecture == "resnet18"
    assert find_encoder(f"resnet18={path}") == encoders.Encoder("resnet18", find_encoder(str(path)).weights)
    save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="ARCHITECTURE=FILE"):
        find_encoder(str(tmp_path / "other.safetensors"))
    with pytest.raises(BadInput, match="nothing there"):
        find_encoder(str(tmp_path / "missing.safetensors"))


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ('{"model_type": "bert"}', "a bert, of which no features of images are known"),
        ('{"vision_config": {"model_type": "blip_vision_model"}}', "a blip, of which no features"),
        ("{ not json", "a file beside a config.json that cannot be read"),
        (None, "a file that no configuration describes"),
    ],
)
def test_what_is_no_encoder_of_images_is_named(config, found, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cxr_common.models.foreign.OFFERED", ("test_resnet",))
    save_file({"encoder.layer.0.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(BadInput, match=found):
        find_encoder(str(tmp_path))


def test_a_pointer_of_git_lfs_is_no_damaged_file(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n")
    with pytest.raises(BadInput, match=r"a pointer of Git LFS(.|\n)*git lfs pull"):
        find_encoder(str(tmp_path))


def test_ours_say_it_themselves(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    header = Header("model", "test_resnet", Input(48, 0.4, 0.2), task="multilabel", labels=("a", "b"))
    save(path, build("test_resnet", 2, size=48), header)
    for word in (path, f"{path}#features", tmp_path):
        encoder = find_encoder(str(word))
        assert (encoder.architecture, encoder.size) == ("test_resnet", 48)
