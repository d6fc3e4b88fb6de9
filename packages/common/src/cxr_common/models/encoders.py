"""Encoders of others: which network a file, a name of timm's or a Hub repository stands for, and at what size."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cxr_common import checkpoint
from cxr_common.models.foreign import fitting
from cxr_common.models.pretrained import Pretrained, resolve, timm_config
from cxr_data.errors import BadInput
from cxr_data.files import read_json
from cxr_data.models import hub

_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1152: "so400m", 1536: "giant"}


class Encoder(NamedTuple):
    """An encoder that can be built.

    Attributes:
        architecture: Name in the zoo.
        weights: Its file, with what is known of its normalisation.
        size: Edge of the images its weights were trained with, pixels; None where nothing says it.
    """

    architecture: str
    weights: Pretrained
    size: int | None = None


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
    name = architecture or architecture_of(about, path) or _guess(path)
    return Encoder(name, Pretrained(path), size_of(about))


def architecture_of(about: Mapping[str, Any], where: Path) -> str:
    """Name in the zoo of the network that the configuration of a repository describes; "" where it does not.

    Args:
        about: Content of its ``config.json`` or ``open_clip_config.json``.
        where: The weights file, for messages.

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
    vision = about.get("vision_config", about)  # transformers
    kind = str(vision.get("model_type", "")).removesuffix("_vision_model").replace("-", "_")
    if kind not in ("vit", "dinov2", "dinov2_with_registers", "siglip", "clip"):
        return ""
    width, depth = vision.get("hidden_size", 768), vision.get("num_hidden_layers", 12)
    patch = vision.get("patch_size", 14 if kind.startswith("dinov2") else 16)
    quick = "_quickgelu" if kind == "clip" and vision.get("hidden_act", "quick_gelu") == "quick_gelu" else ""
    ending = {"vit": "224", "dinov2": "dinov2", "siglip": "siglip_224", "clip": f"clip{quick}_224"}.get(kind)
    if ending is None:
        patch, ending = f"{patch}_reg{vision.get('num_register_tokens', 4)}", "dinov2"
    return _named(width, depth, patch, ending, where, heads=vision.get("num_attention_heads"))


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
    found: dict[str, Any] = {}
    for name in ("config.json", "open_clip_config.json", "preprocessor_config.json"):
        found |= read_json(path.parent / name)
    return found


def _guess(path: Path) -> str:
    """The architecture of which a file's tensors are."""
    names = fitting(path)
    if len(names) == 1:
        return names[0]
    found = " or ".join(names) if names else "a file that no configuration describes"
    do = "name timm's network that it is: --teacher ARCHITECTURE=FILE"
    raise BadInput("an encoder of a known architecture", found, where=path, do=do)
