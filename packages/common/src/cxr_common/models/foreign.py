"""Weights that leave the house for torchvision, and weights of others that enter it."""

import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from torch import Tensor, nn

from cxr_common.models.foreign_names import RENAMINGS, to_timm
from cxr_common.models.structure import classifier_name
from cxr_common.models.zoo import OFFERED, build
from cxr_data.errors import BadInput

_TORCHVISION_RESNET = re.compile(
    r"(conv1|bn1|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01]))\.(weight|bias|running_mean|running_var"
    r"|num_batches_tracked)"
)
_WRAPPERS = ("state_dict", "model", "model_state_dict", "network", "teacher", "student", "backbone")
_DERIVED = ("relative_position_index", "attn_mask")  # computed tables that some libraries save all the same
_SHOWN = 3  # names shown in a message


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


def from_foreign(
    path: str | Path, architecture: str, *, channels: int = 1, size: int | None = None, num_outputs: int = 0
) -> dict[str, Tensor]:
    """Read somebody else's weights as a state dict of a network in the zoo.

    Names may be timm's, torchvision's, lightly's or those of published SwAV files, under any wrapper
    (``module.``, ``backbone.``, ``module.encoder_q.``...). Projection heads, prototypes and whatever else is
    beside the network are left out, and so is the classifier unless it has ``num_outputs`` outputs. A stem
    for 3 channels is summed to 1, which gives the same features as the gray image on 3 channels. Position
    embeddings are resampled to ``size``.

    Args:
        path: ``.safetensors``, or a PyTorch file (``.pth``, ``.pt``, ``.tar``); nothing in it is executed.
        architecture: Name for :func:`cxr_common.models.zoo.build`.
        channels: Channels of the image that the network shall take.
        size: Edge of the square input, pixels, as for ``build``.
        num_outputs: Outputs of a classifier worth keeping.

    Returns:
        Float32 state dict on the CPU that ``build(architecture, 0, channels=..., size=...)`` loads strictly,
        with the classifier's weights besides where the file has them for ``num_outputs``.

    Raises:
        BadInput: The file is missing, damaged, holds code, holds no weights, or those of another network.
    """
    path = Path(path)
    with torch.device("meta"):
        network = build(architecture, num_outputs, channels=channels, size=size)
    found = _tensors(_read(path), path)
    namings = _namings(found)
    match = _match(namings, network)
    if not match.complete:
        expected, seen = _difference(match, architecture, found)
        raise BadInput(expected, seen, where=path, do=_advice(namings))

    state = dict(match.state)
    for name in match.body:  # files from before PyTorch 0.4.1 have no counters of batches
        state.setdefault(name, torch.zeros((), dtype=torch.int64))
    if all(name in match.beside and match.beside[name].shape == like.shape for name, like in match.head.items()):
        state |= {name: match.beside[name] for name in match.head}
    return {name: (one.float() if one.is_floating_point() else one).contiguous().clone() for name, one in state.items()}


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
    """

    state: dict[str, Tensor]
    beside: dict[str, Tensor]
    body: dict[str, Tensor]
    head: dict[str, Tensor]
    wrong: list[str]
    missing: list[str]
    surplus: list[str]

    @property
    def complete(self) -> bool:
        return not (self.wrong or self.missing or self.surplus)


def _match(namings: Sequence[Mapping[str, Tensor]], network: nn.Module) -> _Match:
    classifier = classifier_name(network) + "."
    own = network.state_dict()
    body = {name: tensor for name, tensor in own.items() if not name.startswith(classifier)}
    renamed = max(namings, key=lambda names: len(body.keys() & names.keys()))
    state = {name: _fitted(name, renamed[name], like, network) for name, like in body.items() if name in renamed}
    beside = {name: tensor for name, tensor in renamed.items() if name not in body}
    parts = {name.split(".")[0] for name in body}
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
            if name.split(".")[0] in parts and not name.startswith(classifier) and not name.endswith(_DERIVED)
        ],
    )


def _read(path: Path) -> Any:
    do = "give a .safetensors file, or a .pth of tensors alone: torch.save(model.state_dict(), path)"
    if not path.is_file():
        raise BadInput("a weights file", "a folder" if path.is_dir() else "nothing there", where=path, do=do)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needs = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"a pickle that would run code ({needs[1]})" if needs else "no file of plain tensors"
        raise BadInput("a file of plain tensors", found, where=path, do=do) from error
    except (
        RuntimeError,
        ValueError,
        OSError,
        EOFError,
        LookupError,
        AttributeError,
        SafetensorError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput("a readable weights file", f"a damaged one ({reason})", where=path, do=do) from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in a file's content: itself, or what one of the usual keys holds."""
    if isinstance(content, Mapping):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if inner:
            return _tensors(inner[0], path)
        tensors = {str(name): one for name, one in content.items() if isinstance(one, Tensor)}
        if tensors:
            return tensors
    found = f"keys {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else type(content).__name__
    raise BadInput("a state dict (names to tensors)", found, where=path, do="save the network's state_dict() alone")


def _namings(found: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The same tensors under every name that they may have in timm: each wrapper off, each library's renamed."""
    namings = []
    for prefix in _prefixes(found):
        inside = {name[len(prefix) :]: one for name, one in found.items() if name.startswith(prefix)}
        for renamings in RENAMINGS.values():
            namings.append({to_timm(name, renamings): one for name, one in inside.items()})
    return namings


def _prefixes(names: Iterable[str]) -> list[str]:
    """What wrappers may have put before the names: "", "module.", "module.encoder_q."..., the common ones."""
    parts = [name.split(".") for name in names]
    heads = Counter(".".join(one[:depth]) + "." for one in parts for depth in range(1, min(4, len(one))))
    # A wrapper holds much of the file. Of two alike, the first in the file wins (MoCo's encoder_q).
    return sorted(["", *(head for head, count in heads.items() if 5 * count >= len(parts))], key=len)


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
        grid = list(network.patch_embed.grid_size)
        return resample_abs_pos_embed(tensor, grid, num_prefix_tokens=network.num_prefix_tokens)
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


def _difference(match: _Match, architecture: str, found: Mapping[str, Tensor]) -> tuple[str, str]:
    """What was expected and what was found, of the first difference that says most."""
    if not match.state:
        return f"weights of {architecture}", _listing(found)
    if match.wrong:
        name, more = match.wrong[0], len(match.wrong) - 1
        seen = f"shape {tuple(match.state[name].shape)}" + (f" ({more} more differ)" if more else "")
        return f"{architecture} with {name} of shape {tuple(match.body[name].shape)}", seen
    if match.missing:
        seen = f"{len(match.state)} of its {len(match.body)} tensors; missing {_shown(match.missing)}"
        return f"all weights of {architecture}", seen
    return f"weights of {architecture}", f"a network with more in it: {_shown(match.surplus)}"


def _advice(namings: Sequence[Mapping[str, Tensor]]) -> str:
    fits = []
    for architecture in OFFERED:
        with torch.device("meta"):
            network = build(architecture, 0)
        if _match(namings, network).complete:
            fits.append(architecture)
    return f"it looks like {' or '.join(fits)}" if fits else "check the file and the name of the architecture"


def _listing(tensors: Mapping[str, Tensor]) -> str:
    shown = [f"{name} {tuple(one.shape)}" for name, one in list(tensors.items())[:_SHOWN]]
    return f"{len(tensors)} tensors such as {', '.join(shown)}" if tensors else "none at all"


def _shown(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
