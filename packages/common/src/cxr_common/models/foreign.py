"""Weights for torchvision, and weights of other libraries read under timm's names."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from torch import Tensor, nn

from cxr_common.models.foreign_names import RENAMINGS, fused, to_timm
from cxr_common.models.reading import refuse_unusable, shown, tensors_of
from cxr_common.models.structure import classifier_name, first_convolution, input_channels
from cxr_common.models.zoo import OFFERED, build
from cxr_data.errors import BadInput

_TORCHVISION_RESNET = re.compile(
    r"(conv1|bn1|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01]))\.(weight|bias|running_mean|running_var"
    r"|num_batches_tracked)"
)
_FIRST = {"teacher", "target", "ema", "averaged", "average", "swa"}
_LAST = {"student", "online", "key", "k", "momentum"}
"""Words in the name of a network by which, of several in one file, it is taken first or last."""
_SAME = 0.9
"""Share of the tensors found in the best of several networks in a file from which another one is a choice too."""
_DERIVED = ("relative_position_index", "attn_mask")  # computed tables that some libraries save all the same
_TOKENS = ("reg_token", "register_tokens", "storage_tokens", "dist_token", "distillation_token")
"""Tokens besides the class token: a network that lacks them gives other features."""


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet's weights under torchvision's own names, for images of 3 channels.

    ``torchvision.models.resnet50().load_state_dict(..., strict=False)`` then misses ``fc`` alone. The weights
    of a one-channel stem are divided by 3 and repeated, so that a gray image repeated on 3 channels gives the
    same features. Normalise it as (gray / 255 - mean) / std with the mean and std of the file's header, not
    ImageNet's.

    Args:
        state: State dict of a zoo ResNet (``resnet18``, ``resnet34``, ``resnet50``...), classifier or none.

    Returns:
        New state dict without the classifier; all tensors but the stem are shared with ``state``.

    Raises:
        BadInput: The weights are not those of a ResNet as torchvision builds it.
    """
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    stem = kept.get("conv1.weight")
    strange = [name for name in kept if not _TORCHVISION_RESNET.fullmatch(name)]
    if stem is None or strange or stem.shape[1] not in (1, 3):
        raise BadInput(
            "the weights of a ResNet that torchvision has too, with 1 or 3 input channels",
            _listing(state) if strange or stem is None else f"{stem.shape[1]} input channels",
            do="keep weights of other networks in their safetensors file",
        )
    return {**kept, "conv1.weight": _with_channels(stem, 3)}


@dataclass(frozen=True)
class Foreign:
    """The weights of a network in somebody else's file.

    Attributes:
        state: Float32 state dict on the CPU that ``build(architecture, 0, channels=..., size=...)`` loads strictly,
            with the classifier's weights besides where the file has them for ``num_outputs``.
        channels: Channels of the image that these weights are for.
        names: Names of the tensors in the file.
        part: Name of the network that was taken, where there are several; else "".
        others: Names of the others.
    """

    state: dict[str, Tensor]
    channels: int
    names: frozenset[str]
    part: str = ""
    others: tuple[str, ...] = ()


def read_foreign(
    path: str | Path,
    architecture: str,
    *,
    channels: int | None = None,
    size: int | None = None,
    num_outputs: int = 0,
    part: str = "",
) -> Foreign:
    """Read somebody else's weights as a state dict of a network in the zoo, with what there is to know about them.

    Names may be timm's, torchvision's, lightly's or those of published SwAV files, under any wrapper
    (``module.``, ``backbone.``, ``module.encoder_q.``...). Projection heads, prototypes and whatever else is
    beside the network are left out, and so is the classifier unless it has ``num_outputs`` outputs. A stem
    for 3 channels is summed to 1, which gives the same features as the gray image on 3 channels that are normalised
    alike (:func:`cxr_common.models.pretrained.build_pretrained` keeps what normalisation the weights were trained
    with). Position embeddings are resampled to ``size``. Of several networks in one file the teacher (DINO), target
    (BYOL) or average is taken, then the query encoder (MoCo), unless ``part`` names another.

    Args:
        path: ``.safetensors``, or a PyTorch file (``.pth``, ``.pt``, ``.tar``); nothing in it is executed.
        architecture: Name for :func:`cxr_common.models.zoo.build`.
        channels: Channels of the image that the network shall take; None keeps those of the file.
        size: Edge of the square input, pixels, as for ``build``.
        num_outputs: Outputs of a classifier worth keeping.
        part: Name of one of several networks in the file, such as "student".

    Raises:
        BadInput: The file is missing, damaged, holds code, holds no weights or weights that are not finite, those of
            another network, or no network called ``part``.
    """
    path = Path(path)
    state = tensors_of(path)
    with torch.device("meta"):
        network = build(architecture, num_outputs, channels=channels or 3, size=size)
    namings = _namings(state, network)
    match = _match(namings, network, part, path)
    if channels is None and match.channels == 1:
        with torch.device("meta"):
            network = build(architecture, num_outputs, channels=1, size=size)
        match = _match(namings, network, part, path)
    if not match.complete:
        expected, seen = _difference(match, architecture, state)
        raise BadInput(expected, seen, where=path, do=_advice(state))
    fitted = _ready(match)
    refuse_unusable(fitted, match.body, path)
    several = len(match.parts) > 1
    return Foreign(
        fitted, input_channels(network), frozenset(state), match.parts[0] if several else "", match.parts[1:]
    )


def _ready(match: "_Match") -> dict[str, Tensor]:
    """A complete match as a state dict of float32."""
    state = dict(match.state)
    for name in match.body:  # files from before PyTorch 0.4.1 have no counters of batches
        state.setdefault(name, torch.zeros((), dtype=torch.int64))
    if all(name in match.beside and match.beside[name].shape == like.shape for name, like in match.head.items()):
        state |= {name: match.beside[name] for name in match.head}
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in state.items()
    }


@dataclass(frozen=True)
class _Match:
    """A foreign state dict held against a network.

    Attributes:
        state: Tensors of the network's body that were found, fitted to its shapes where they can be.
        beside: All other tensors, under timm's names.
        body: The network's own tensors without the classifier's.
        head: The network's own tensors of the classifier.
        wrong: Names in ``state`` whose shapes differ from those in ``body``.
        missing: Names in ``body`` that the file lacks.
        surplus: Names in ``beside`` that belong inside a network like this one, but a larger one.
        channels: Input channels of the file's stem, where it has one.
        parts: Names of the networks in the file that match as well as this one, itself first.
    """

    state: dict[str, Tensor]
    beside: dict[str, Tensor]
    body: dict[str, Tensor]
    head: dict[str, Tensor]
    wrong: list[str]
    missing: list[str]
    surplus: list[str]
    channels: int | None
    parts: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.wrong or self.missing or self.surplus)


def _match(namings: "Sequence[_Naming]", network: nn.Module, part: str = "", path: Path | None = None) -> _Match:
    classifier = classifier_name(network) + "."
    own = network.state_dict()
    body = {name: tensor for name, tensor in own.items() if not name.startswith(classifier)}
    stem = f"{first_convolution(network)[0]}.weight"
    ranked: dict[str, tuple[int, Mapping[str, Tensor]]] = {}
    for naming in namings:
        score = len(body.keys() & naming.tensors.keys())
        if naming.part not in ranked or score > ranked[naming.part][0]:
            ranked[naming.part] = (score, naming.tensors)
    best = max(score for score, _ in ranked.values())
    # A teacher that lacks a little is not passed over for its student: what it lacks will be said. A text tower, whose
    # blocks are those of the vision tower beside it, is.
    near = (name for name, (score, _) in ranked.items() if score >= _SAME * best)
    parts = sorted(near, key=lambda name: (_turn(name), -ranked[name][0]))
    if part and best:
        chosen = [name for name in parts if part == name]
        chosen = chosen or [name for name in parts if part in re.split(r"[._]", name) or part in name.split(".")]
        if not chosen:
            there = ", ".join(name or "(without a name)" for name in parts)
            raise BadInput(f"a network called {part}", there, where=path, do="give one of these behind #, or none")
        parts = [chosen[0], *(name for name in parts if name != chosen[0])]
    renamed = ranked[parts[0]][1]
    parts = _distinct(
        parts, {name: [id(tensors[own]) for own in body if own in tensors] for name, (_, tensors) in ranked.items()}
    )
    state = {name: _fitted(name, renamed[name], like, network) for name, like in body.items() if name in renamed}
    beside = {name: tensor for name, tensor in renamed.items() if name not in body}
    inner = {name.split(".")[0] for name in body}
    return _Match(
        state=state,
        beside=beside,
        body=body,
        head={name: tensor for name, tensor in own.items() if name.startswith(classifier)},
        wrong=[name for name, tensor in state.items() if tensor.shape != body[name].shape],
        missing=[name for name in body if name not in state and not name.endswith("num_batches_tracked")],
        surplus=[
            name
            for name in beside
            if name in _TOKENS
            or (name.split(".")[0] in inner and not name.startswith(classifier) and not name.endswith(_DERIVED))
        ],
        channels=renamed[stem].shape[1] if stem in renamed and renamed[stem].ndim == 4 else None,
        parts=tuple(parts),
    )


def _distinct(parts: Sequence[str], tensors: Mapping[str, Sequence[int]]) -> list[str]:
    """Networks in a file without those that are an earlier one again, with one more wrapper off."""
    kept: list[str] = []
    taken: set[int] = set()
    for part in parts:
        if taken.isdisjoint(tensors[part]):
            kept.append(part)
            taken.update(tensors[part])
    return kept


class _Naming(NamedTuple):
    """The tensors of one network in a file, under names that they may have in timm."""

    part: str
    tensors: dict[str, Tensor]


def _namings(state: Mapping[str, Tensor], network: nn.Module) -> list[_Naming]:
    """The same tensors under every name that they may have in timm: each wrapper off, each library's renamed."""
    namings = []
    for prefix in _prefixes(state):
        inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        part = prefix.rstrip(".")
        for renamings in RENAMINGS.values():
            renamed = {to_timm(name, renamings): tensor for name, tensor in inside.items()}
            namings.append(_Naming(part, fused(renamed, network)))
        if "_conv_stem.weight" in inside:
            namings.append(_Naming(part, _in_order(inside, network)))
    return namings


def _in_order(inside: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """EfficientNets as TensorFlow's port names them: timm's have the same tensors in the same order."""
    classifier = classifier_name(network)
    body = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(f"{classifier}.")}
    names = [*body, f"{classifier}.weight", f"{classifier}.bias"]
    if len(names) != len(inside):
        return {}
    pairs = zip(names, inside.values(), strict=True)
    if any(
        name in body and tensor.shape[:1] + tensor.shape[2:] != body[name].shape[:1] + body[name].shape[2:]
        for name, tensor in pairs
    ):
        return {}
    return dict(zip(names, inside.values(), strict=True))


def _prefixes(names: Iterable[str]) -> list[str]:
    """What wrappers may have put before the names: "", "module.", "module.encoder_q."..., the common ones."""
    parts = [name.split(".") for name in names]
    heads = Counter(".".join(words[:depth]) + "." for words in parts for depth in range(1, min(6, len(words))))
    # A wrapper holds much of the file, also where there are several networks in it.
    return sorted(["", *(head for head, count in heads.items() if 6 * count >= len(parts))], key=len)


def _turn(part: str) -> int:
    """Which of several networks in a file is taken: the lowest."""
    words = set(re.split(r"[._]", part))
    return 0 if words & _FIRST else 2 if words & _LAST else 1


def at_size(state: Mapping[str, Tensor], architecture: str, *, channels: int, size: int) -> dict[str, Tensor]:
    """Weights of a network with its position embeddings resampled for another size of the input.

    Args:
        state: Its state dict, under timm's names.
        architecture: Name in the zoo.
        channels: Channels of its image.
        size: Edge of the square input, pixels.
    """
    with torch.device("meta"):
        network = build(architecture, 0, channels=channels, size=size)
    like = network.state_dict()
    return {
        name: _fitted(name, tensor, like[name], network) if name in like else tensor for name, tensor in state.items()
    }


def _fitted(name: str, tensor: Tensor, like: Tensor, network: Any) -> Tensor:
    """A tensor in the shape of ours where both say the same, else as it is."""
    if tensor.shape == like.shape:
        return tensor
    if tensor.ndim == like.ndim == 4 and tensor.shape[2:] == like.shape[2:] and tensor.shape[0] == like.shape[0]:
        return _with_channels(tensor, like.shape[1])
    if name.endswith("relative_position_bias_table") and tensor.shape[1:] == like.shape[1:]:
        window = network.get_submodule(name.rpartition(".")[0]).window_size
        return resize_rel_pos_bias_table_simple(tensor, new_window_size=window, new_bias_shape=tuple(like.shape))
    if "pos_embed" in name and tensor.ndim == like.ndim == 3 and tensor.shape[2] == like.shape[2]:
        grid, prefix = list(network.patch_embed.grid_size), like.shape[1] - network.patch_embed.num_patches
        patches = tensor.shape[1] - prefix
        if patches < 1 or patches != math.isqrt(patches) ** 2:
            return tensor  # not the patches of a square image and our tokens
        return resample_abs_pos_embed(tensor, grid, num_prefix_tokens=prefix)
    if "pos_embed" in name and tensor.ndim == like.ndim == 4 and tensor.shape[1] == like.shape[1]:
        size = like.shape[-2:]
        return nn.functional.interpolate(tensor, size, mode="bicubic", antialias=True, align_corners=False)
    # The same numbers, kept as a 1x1 or full-size convolution by one library and as a matrix by the other.
    if tensor.numel() == like.numel() and tensor.shape[0] == like.shape[0] and tensor.ndim != like.ndim:
        return tensor.reshape(like.shape)
    return tensor


def _with_channels(stem: Tensor, channels: int) -> Tensor:
    """A stem (O, I, k, k) for ``channels`` equal channels: the sum over them stays."""
    if stem.shape[1] == channels:
        return stem
    if stem.shape[1] == 3 and channels == 1:
        return stem.sum(1, keepdim=True)
    if stem.shape[1] == 1 and channels == 3:
        return (stem / 3).repeat(1, 3, 1, 1)
    return stem


def _difference(match: _Match, architecture: str, state: Mapping[str, Tensor]) -> tuple[str, str]:
    """What was expected and what was found, of the first difference that says most."""
    if not match.state:
        return f"weights of {architecture}", _listing(state)
    if match.wrong:
        name, more = match.wrong[0], len(match.wrong) - 1
        seen = f"shape {tuple(match.state[name].shape)}" + (f" ({more} more differ)" if more else "")
        return f"{architecture} with {name} of shape {tuple(match.body[name].shape)}", seen
    if match.missing:
        seen = f"{len(match.state)} of its {len(match.body)} tensors; missing {shown(match.missing)}"
        return f"all weights of {architecture}", seen
    return f"weights of {architecture}", f"a network with more in it: {shown(match.surplus)}"


def fitting(path: Path) -> list[str]:
    """Architectures in `OFFERED` whose weights a file holds.

    Raises:
        BadInput: It cannot be read.
    """
    return _fitting(tensors_of(path))


def _fitting(state: Mapping[str, Tensor]) -> list[str]:
    fits = []
    for architecture in OFFERED:
        with torch.device("meta"):
            network = build(architecture, 0)
        if _match(_namings(state, network), network).complete:
            fits.append(architecture)
    return fits


def _advice(state: Mapping[str, Tensor]) -> str:
    fits = _fitting(state)
    return f"it looks like {' or '.join(fits)}" if fits else "check the file and the name of the architecture"


def _listing(tensors: Mapping[str, Tensor]) -> str:
    shown = [f"{name} {tuple(tensor.shape)}" for name, tensor in list(tensors.items())[:3]]
    return f"{len(tensors)} tensors such as {', '.join(shown)}" if tensors else "none at all"
