"""Encoders in the layouts of transformers, open_clip and torchxrayvision give the features of those libraries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cxr_common.models.encoders import build_encoder, find_encoder
from cxr_common.models.pretrained import build_pretrained, resolve
from cxr_data.errors import BadInput
from cxr_data.synthetic.phantom import phantom


def radiographs(size: int, count: int = 2) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(phantom(count, size=size, seed=2)["pixels"])).unsqueeze(1)


def shaken(network: Any) -> Any:
    """Fresh networks have zeros and ones where a mix-up would pass unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def assert_same(file: Path, architecture: str, expected: Any, mean: float, size: int = 224) -> None:
    start = resolve(str(file), architecture, [mean], [0.25])
    ours: Any = build_pretrained(architecture, 0, size, start, 0.3, 0.2).eval()
    pixels = radiographs(size)
    with torch.inference_mode():
        theirs = expected((pixels / 255 - mean).expand(-1, 3, -1, -1) / 0.25)
        torch.testing.assert_close(ours(pixels), theirs, atol=1e-4, rtol=1e-4)
    assert theirs.std() > 0.01


def vit(transformers: Any) -> tuple[Any, str, Any]:
    config = transformers.ViTConfig(**{**WIDE, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768})
    theirs = shaken(transformers.ViTForImageClassification(config))
    with torch.no_grad():  # tokens as large as trained ones: transformers divides by √(variance + 1e-12), timm + 1e-6
        for parameter in theirs.vit.embeddings.parameters():
            parameter *= 20
    return theirs, "vit_tiny_patch16_224", lambda x: theirs.vit(x).last_hidden_state[:, 0]


def dinov2(transformers: Any) -> tuple[Any, str, Any]:
    narrow = {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
    theirs = shaken(transformers.Dinov2Model(transformers.Dinov2Config(**narrow)))
    return theirs, "vit_small_patch14_dinov2", lambda x: theirs(x).last_hidden_state[:, 0]


def dinov2_with_registers(transformers: Any) -> tuple[Any, str, Any]:
    narrow = {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
    theirs = shaken(transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**narrow)))
    return theirs, "vit_small_patch14_reg4_dinov2", lambda x: theirs(x).last_hidden_state[:, 0]


def siglip(transformers: Any) -> tuple[Any, str, Any]:
    theirs = shaken(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**WIDE, hidden_act="gelu")))
    return theirs, "vit_base_patch16_siglip_224", lambda x: theirs(x).pooler_output


def clip(transformers: Any) -> tuple[Any, str, Any]:
    theirs = shaken(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**WIDE, hidden_act="gelu")))
    return theirs, "vit_base_patch16_clip_224", lambda x: theirs(x).pooler_output


WIDE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
}


@pytest.mark.parametrize(
    "made",
    [*(pytest.param(one, marks=pytest.mark.nightly) for one in (vit, dinov2, dinov2_with_registers, siglip, clip))],
)
@pytest.mark.filterwarnings("default")
def test_encoders_of_transformers(made: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs, architecture, expected = made(transformers)
    theirs.save_pretrained(tmp_path)
    size = theirs.config.image_size
    assert_same(tmp_path / "model.safetensors", architecture, expected, 0.45, size)
    # As a repository, which says all itself.
    about = {"image_mean": [0.45] * 3, "image_std": [0.25] * 3, "size": {"height": size, "width": size}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    found = find_encoder(str(tmp_path))
    assert (found.architecture, found.size) == (architecture, size)
    ours: Any = build_pretrained(architecture, 0, size, (found.weights,), 0.3, 0.2).eval()
    said = ours.describe_input(size, {})
    assert (said.mean, said.std) == (0.45, 0.25)


def whole_siglip(transformers: Any) -> Any:
    """With its usual tanh, beside a text tower of the same width and depth."""
    words = {"hidden_size": 768, "intermediate_size": 3072, "vocab_size": 50, "num_attention_heads": 12}
    theirs = transformers.SiglipModel(transformers.SiglipConfig(text_config=words, vision_config={}))
    return theirs, theirs.vision_model, lambda x: theirs.vision_model(x).pooler_output


def whole_clip(transformers: Any) -> Any:
    words = {"hidden_size": 768, "intermediate_size": 3072, "vocab_size": 50, "num_attention_heads": 12}
    theirs = transformers.CLIPModel(transformers.CLIPConfig(text_config=words, vision_config={}))
    return theirs, theirs.vision_model, lambda x: theirs.vision_model(x).pooler_output


def plain_vit(transformers: Any) -> Any:
    """With tokens so small that what layer normalisation adds to variances is seen."""
    narrow = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    theirs = transformers.ViTModel(transformers.ViTConfig(**narrow))
    return theirs, theirs, lambda x: theirs(x).last_hidden_state[:, 0]


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("made", [whole_siglip, whole_clip, plain_vit])
def test_repositories_of_transformers_with_the_settings_of_published_ones(made: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs, tower, expected = made(transformers)
    if made is not plain_vit:
        shaken(theirs)
    theirs.eval().save_pretrained(tmp_path)
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    ours = build_encoder(find_encoder(str(tmp_path)), None, 0.3, 0.2)
    pixels = radiographs(tower.config.image_size)
    with torch.inference_mode():
        features = expected((pixels / 255 - 0.5).expand(-1, 3, -1, -1) / 0.5)
        torch.testing.assert_close(ours(pixels), features, atol=1e-4, rtol=1e-4)
    assert features.std() > 0.01


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_the_vision_tower_of_open_clip_itself(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    tower = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
    words = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    theirs = shaken(open_clip.model.CLIP(16, tower, words))
    save_file({name: x.clone() for name, x in theirs.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    about = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": tower, "text_cfg": words},
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(about))
    theirs.visual.proj = None
    found = find_encoder(str(tmp_path))
    assert (found.architecture, found.size) == ("vit_base_patch32_clip_224", 224)
    ours: Any = build_pretrained(found.architecture, 0, 224, (found.weights,), 0.3, 0.2).eval()
    pixels = radiographs(224)
    mean, std = (torch.tensor(about["preprocess_cfg"][name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        expected = theirs.visual((pixels / 255 - mean) / std)
        torch.testing.assert_close(ours(pixels), expected, atol=1e-4, rtol=1e-4)


class OpenClipBlock(nn.Module):
    """A residual block as open_clip names its parts (Radford et al. 2021)."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class OpenClipVision(nn.Module):
    """The vision tower of a CLIP model as open_clip lays it out, without the final projection."""

    def __init__(self, width: int = 768, heads: int = 12, patch: int = 32, *, pre: bool = True) -> None:
        super().__init__()
        eps = 1e-5 if pre else 1e-6  # CLIP's, and that of the first vision transformers
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=not pre)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + (224 // patch) ** 2, width))
        self.ln_pre = nn.LayerNorm(width, eps) if pre else nn.Identity()
        self.ln_post = nn.LayerNorm(width, eps)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(OpenClipBlock(width, heads, eps) for _ in range(12))
        self.proj = nn.Parameter(torch.zeros(width, 512))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.ln_pre(x)
        blocks: Any = self.transformer.resblocks
        for block in blocks:
            x = block(x)
        return self.ln_post(x[:, 0])


def published(theirs: OpenClipVision, prefix: str) -> dict[str, Tensor]:
    """The weights of a plain vision transformer under the names of Google's files for transformers."""
    state, renamed = theirs.state_dict(), {}
    for number in range(12):
        block, layer = f"transformer.resblocks.{number}.", f"encoder.layer.{number}."
        parts = {
            "ln_1": "layernorm_before",
            "ln_2": "layernorm_after",
            "attn.out_proj": "attention.output.dense",
            "mlp.c_fc": "intermediate.dense",
            "mlp.c_proj": "output.dense",
        }
        for kind in ("weight", "bias"):
            renamed |= {f"{layer}{new}.{kind}": state[f"{block}{old}.{kind}"] for old, new in parts.items()}
            apart = state[f"{block}attn.in_proj_{kind}"].chunk(3)
            names = [f"{layer}attention.attention.{name}.{kind}" for name in ("query", "key", "value")]
            renamed |= dict(zip(names, apart, strict=True))
    for kind in ("weight", "bias"):
        renamed[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"conv1.{kind}"]
        renamed[f"layernorm.{kind}"] = state[f"ln_post.{kind}"]
    renamed["embeddings.cls_token"] = state["class_embedding"][None, None]
    renamed["embeddings.position_embeddings"] = state["positional_embedding"][None]
    return {prefix + name: tensor.clone() for name, tensor in renamed.items()}


def test_vision_transformers_under_the_names_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = shaken(OpenClipVision(192, 3, 16, pre=False))
    head = {"classifier.weight": torch.rand(1000, 192), "classifier.bias": torch.rand(1000)}
    save_file({**published(theirs, "vit."), **head}, tmp_path / "model.safetensors")
    assert_same(tmp_path / "model.safetensors", "vit_tiny_patch16_224", theirs, 0.5)


def test_a_vision_tower_beside_a_text_tower_with_the_arithmetic_of_its_configuration(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = shaken(OpenClipVision(192, 3, 16, pre=False))
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.05
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"
    words = {name: 2 * one for name, one in published(theirs, "text_model.").items() if ".patch_" not in name}
    save_file({**words, **published(theirs, "vision_model.")}, tmp_path / "model.safetensors")
    kind = {"model_type": "vit", "hidden_size": 192, "num_attention_heads": 3, "image_size": 224}
    about = {"vision_config": {**kind, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 0.05}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    normalised = {"image_mean": 3 * [0.4], "image_std": 3 * [0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(normalised))
    ours = build_encoder(find_encoder(str(tmp_path)), None, 0.3, 0.2)
    pixels = radiographs(224)
    with torch.inference_mode():
        expected = theirs((pixels / 255 - 0.4).expand(-1, 3, -1, -1) / 0.25)
        torch.testing.assert_close(ours(pixels), expected, atol=1e-4, rtol=1e-4)
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {**kind, "hidden_act": "relu"}}))
    find_encoder.cache_clear()
    with pytest.raises(BadInput, match="hidden_act relu"):
        find_encoder(str(tmp_path))


@pytest.mark.nightly
def test_vision_towers_of_open_clip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = shaken(OpenClipVision())
    text = {"token_embedding.weight": torch.rand(50, 8), "transformer.resblocks.0.ln_1.weight": torch.rand(8)}
    state = {**text, **{f"visual.{name}": tensor for name, tensor in theirs.state_dict().items()}}
    save_file(state, tmp_path / "open_clip.safetensors")
    assert_same(tmp_path / "open_clip.safetensors", "vit_base_patch32_clip_224", theirs, 0.48)


@pytest.mark.slow
def test_densenets_of_torchxrayvision_come_with_their_range(tmp_path: Path) -> None:
    xrv = pytest.importorskip("torchxrayvision")
    torch.manual_seed(0)
    theirs = shaken(xrv.models.DenseNet(weights=None, num_classes=18))
    state = {**theirs.state_dict(), "op_threshs": torch.rand(18)}
    torch.save(state, tmp_path / "densenet.pt")
    ours = build_pretrained("densenet121", 0, 224, resolve(str(tmp_path / "densenet.pt"), "densenet121"), 0.3, 0.2)
    pixels = radiographs(224)
    with torch.inference_mode():
        images = xrv.datasets.normalize(pixels.numpy().astype(np.float32), 255)
        expected = theirs.features2(torch.from_numpy(images))
        torch.testing.assert_close(ours.eval()(pixels), expected, atol=1e-4 * float(expected.std()), rtol=1e-4)
    assert ours.describe_input(224, {}).std == 1 / 2048
