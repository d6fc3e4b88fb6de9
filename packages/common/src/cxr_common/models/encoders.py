"""Encoders of others: which network a file, a name of timm's or a Hub repository stands for, and at what size."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from timm.layers.activations import GELU, GELUTanh
from torch import nn

from cxr_common import checkpoint
from cxr_common.models.foreign import fitting
from cxr_common.models.pretrained import Pretrained, build_pretrained, resolve, timm_config
from cxr_common.models.zoo import DEFAULT_SIZE, GrayNetwork
from cxr_data.errors import BadInput
from cxr_data.files import read_json
from cxr_data.models import hub


class _Kind(NamedTuple):
    """Vision transformers of transformers: how timm's names of them end, and their settings where none is said."""

    ending: str
    patch: int
    activation: str
    eps: float


_KINDS = {
    "vit": _Kind("224", 16, "gelu", 1e-12),
    "dinov2": _Kind("dinov2", 14, "gelu", 1e-6),
    "dinov2_with_registers": _Kind("dinov2", 14, "gelu", 1e-6),
    "siglip": _Kind("siglip_224", 16, "gelu_pytorch_tanh", 1e-6),
    "clip": _Kind("clip_224", 32, "quick_gelu", 1e-5),
}
_GELU = {"gelu": "none", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh"}
"""Activations by the names of transformers -> ``approximate`` of torch's GELU."""
_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1152: "so400m", 1536: "giant"}


class Encoder(NamedTuple):
    """An encoder that can be built.

    Attributes:
        architecture: Name in the zoo.
        weights: Its file, with what is known of its normalisation.
        size: Edge of the images its weights were trained with, pixels; None where nothing says it.
        gelu: How its GELUs are approximated, "none" or "tanh"; None as timm's network has it.
        eps: What its layer normalisation adds to variances; None as timm's network has it.
    """

    architecture: str
    weights: Pretrained
    size: int | None = None
    gelu: str | None = None
    eps: float | None = None


@functools.lru_cache(maxsize=16)  # to tell what a file holds by its tensors takes seconds
def find_encoder(word: str) -> Encoder:
    """Find an encoder.

    Args:
        word: A file or folder of weights, ours or foreign, or "hf:OWNER/NAME"; "ARCHITECTURE=FILE" where foreign
            weights leave open what they are; "timm:NAME" for timm's weights of a network. "FILE#features" takes the
            encoder of a classifier of ours.

    Raises:
        BadInput: Nothing there, or a network that nothing tells.
    """
    if word.startswith("timm:"):
        name = word.removeprefix("timm:")
        (source,) = resolve("imagenet", name)
        assert source is not None
        return Encoder(name, source, timm_config(name).input_size[-1])
    architecture, _, place = ("", "", word) if Path(word).exists() else word.rpartition("=")
    path = hub.weights(place.removesuffix("#features"))
    if checkpoint.is_ours(path):
        header = checkpoint.describe(path)
        return Encoder(header.architecture, Pretrained(path), header.input.size)
    about = _configs(path)
    name = architecture or architecture_of(about, path) or _guess(path, about)
    return Encoder(name, Pretrained(path), size_of(about), *_arithmetic(about, path))


def build_encoder(encoder: Encoder, size: int | None, mean: float, std: float) -> GrayNetwork:
    """An encoder with its weights, in eval mode; it gives the features that its own library gives.

    Args:
        encoder: What `find_encoder` returned.
        size: Edge of its input, pixels; None is what its weights say.
        mean: Mean of the cohort's pixels / 255, for weights that come with none.
        std: Their standard deviation.

    Raises:
        BadInput: Weights that cannot be read, or a size that the network cannot take.
    """
    size = size or encoder.size or DEFAULT_SIZE
    network = build_pretrained(encoder.architecture, 0, size, (encoder.weights,), mean, std)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm) and encoder.eps is not None:
            module.eps = encoder.eps
        for name, child in module.named_children():
            if isinstance(child, nn.GELU | GELU | GELUTanh) and encoder.gelu is not None:
                setattr(module, name, nn.GELU(encoder.gelu))
    return network.eval()


def architecture_of(about: Mapping[str, Any], where: Path) -> str:
    """Name in the zoo of the network that the configuration of a repository describes; "" where it does not.

    Raises:
        BadInput: A vision transformer of a shape that timm has no name for.
    """
    if isinstance(about.get("architecture"), str):  # timm
        return about["architecture"]
    tower = about.get("model_cfg", {}).get("vision_cfg", {})  # open_clip
    if "timm_model_name" in tower:
        return tower["timm_model_name"]
    if "patch_size" in tower:
        quick = "_quickgelu" if about["model_cfg"].get("quick_gelu") else ""
        return _named(tower["width"], tower["layers"], tower["patch_size"], f"clip{quick}_224", where)
    vision, kind = _transformer(about)
    if kind not in _KINDS:
        return ""
    width, depth = vision.get("hidden_size", 768), vision.get("num_hidden_layers", 12)
    patch, ending = vision.get("patch_size", _KINDS[kind].patch), _KINDS[kind].ending
    if kind == "dinov2_with_registers":
        patch = f"{patch}_reg{vision.get('num_register_tokens', 4)}"
    if kind == "clip" and vision.get("hidden_act", _KINDS[kind].activation) == "quick_gelu":
        ending = "clip_quickgelu_224"
    return _named(width, depth, patch, ending, where, heads=vision.get("num_attention_heads"))


def _transformer(about: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The part of a configuration of transformers that is about vision, and the kind of network it describes."""
    vision = about.get("vision_config", about)
    return vision, str(vision.get("model_type", "")).removesuffix("_vision_model").replace("-", "_")


def _arithmetic(about: Mapping[str, Any], where: Path) -> tuple[str | None, float | None]:
    """`gelu` and `eps` of `Encoder`, where a configuration of transformers says them.

    Raises:
        BadInput: An activation with which timm does not build the network.
    """
    vision, kind = _transformer(about)
    if kind not in _KINDS:
        return None, None
    activation = vision.get("hidden_act", _KINDS[kind].activation)
    if activation not in _GELU and (kind, activation) != ("clip", "quick_gelu"):
        do = "take another encoder"
        raise BadInput("a vision transformer with GELU", f"hidden_act {activation}", where=where, do=do)
    return _GELU.get(activation), float(vision.get("layer_norm_eps", _KINDS[kind].eps))


def size_of(about: Mapping[str, Any]) -> int | None:
    """Edge of the images that the configuration of a repository speaks of, pixels."""
    timm = about.get("pretrained_cfg", about).get("input_size")
    tower = about.get("model_cfg", {}).get("vision_cfg", {}).get("image_size")
    plain = about.get("vision_config", about).get("image_size")
    crop = about.get("crop_size") or about.get("size") or {}
    crop = crop.get("height", crop.get("shortest_edge")) if isinstance(crop, dict) else crop
    for value in (crop, timm, tower, plain):
        edge = value[-1] if isinstance(value, list | tuple) and value else value
        if isinstance(edge, int):
            return edge
    return None


def _named(width: int, depth: int, patch: Any, ending: str, where: Path, heads: int | None = None) -> str:
    """The vision transformer of timm's that has this shape."""
    import timm

    name = f"vit_{_WIDTHS.get(width, width)}_patch{patch}_{ending}"
    shape = f"width {width}, {depth} blocks, {heads or 'unknown'} heads, patch {patch}"
    if timm.is_model(name):
        import torch

        with torch.device("meta"):
            network: Any = timm.create_model(name, num_classes=0)
        own = (network.embed_dim, len(network.blocks), network.blocks[0].attn.num_heads)
        if own == (width, depth, heads or own[2]):
            return name
    do = "name timm's network that it is: --teacher ARCHITECTURE=FILE"
    raise BadInput("a vision transformer that timm has too", f"{shape} ({ending})", where=where, do=do)


def _configs(path: Path) -> dict[str, Any]:
    """The configurations beside a weights file, one dict; empty where there are none."""
    entries: dict[str, Any] = {}
    for name in ("config.json", "open_clip_config.json", "preprocessor_config.json"):
        entries |= read_json(path.parent / name)
    return entries


def _guess(path: Path, about: Mapping[str, Any]) -> str:
    """The architecture of which a file's tensors are, where its configurations do not say it."""
    names = fitting(path)
    if len(names) == 1:
        return names[0]
    found = " or ".join(names) or "a file that no configuration describes"
    if kind := _transformer(about)[1]:
        found = f"a {kind}, of which no features of images are known (of {', '.join(_KINDS)} they are)"
    elif not about and (path.parent / "config.json").exists():
        found = "a file beside a config.json that cannot be read"
    do = "name timm's network that it is: --teacher ARCHITECTURE=FILE"
    raise BadInput("an encoder of a known architecture", found, where=path, do=do)
