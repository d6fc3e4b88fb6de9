"""Weights files: safetensors that carry a header and can be rebuilt into the exact network from themselves alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_data.errors import BadInput
from cxr_data.files import sha256, whole_file
from cxr_data.header import (
    KEY,
    TRAINING_IMAGES,
    Header,
    Input,
    describe,
    header_text,
    is_ours,
    metadata,
    parent,
    provenance,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cxr_common.models.zoo import GrayNetwork

__all__ = [
    "Header",
    "Input",
    "describe",
    "is_ours",
    "load",
    "metadata",
    "parent",
    "provenance",
    "save",
    "to_bytes",
    "training_images",
]


def save(
    path: str | Path,
    weights: "nn.Module | dict[str, torch.Tensor]",
    header: Header,
    *,
    training_images: NDArray[np.int64] | None = None,
) -> str:
    """Write weights and header as one safetensors file, whole or not at all.

    Args:
        path: Target file.
        weights: A network, or its state dict (a :class:`GrayNetwork`'s inner network is what is saved).
        header: What the file says of itself; JSON types only.
        training_images: :func:`cxr_data.cohort.image_keys` of the images trained on, so that an evaluation can tell
            whether it meets them again.

    Returns:
        SHA-256 of the file.
    """
    import torch
    from torch import nn

    state = getattr(weights, "network", weights)
    tensors = state.state_dict() if isinstance(state, nn.Module) else state
    tensors = dict(tensors)
    if training_images is not None:
        tensors[TRAINING_IMAGES] = torch.from_numpy(np.unique(training_images))
    with whole_file(path) as file:
        file.write(to_bytes(tensors, {KEY: header_text(header)}))
    return sha256(path)


def training_images(path: str | Path) -> NDArray[np.int64] | None:
    """Keys of the images that a file's weights were trained on, ascending; None where the file does not hold them."""
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        return file.get_tensor(TRAINING_IMAGES) if TRAINING_IMAGES in file.keys() else None  # noqa: SIM118 - no mapping


def to_bytes(tensors: "Mapping[str, torch.Tensor]", notes: Mapping[str, str]) -> bytes:
    """A safetensors file, the same bytes for the same content.

    Args:
        tensors: By name; on any device.
        notes: Its metadata. safetensors itself writes several of them in an order that changes from run to run.
    """
    from safetensors.torch import save

    made = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata=dict(notes))
    end = 8 + int.from_bytes(made[:8], "little")
    table = json.loads(made[8:end])
    header = json.dumps(table | {"__metadata__": dict(sorted(notes.items()))}, sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + made[end:]


def load(path: str | Path, kind: str | None = None) -> "tuple[GrayNetwork, Header]":
    """Rebuild the exact network from its file alone.

    Args:
        path: A file written by :func:`save`.
        kind: "backbone" or "model" when only that will do.

    Returns:
        The network in eval mode, on the CPU, and its header.

    Raises:
        BadInput: The file is missing, damaged, of another origin, of another kind, or does not fit its
            own architecture.
    """
    from safetensors.torch import load_file

    from cxr_common.models.zoo import GrayNetwork, build

    header = describe(path)
    if kind is not None and header.kind != kind:
        do = {
            "model": "fit a classifier on it first: finetune --start FILE, or distill",
            "backbone": "give the backbone.safetensors that ssl-pretrain wrote",
        }[kind]
        raise BadInput(f"a file of kind {kind}", f"kind {header.kind} ({header.architecture})", where=path, do=do)
    inner = build(header.architecture, len(header.labels), channels=header.input.channels, size=header.input.size)
    network = GrayNetwork(inner, header.input.mean, header.input.std).eval()
    if header.bits:
        from cxr_common.models.eight_bits import in_eight_bits

        network = in_eight_bits(network, header.input.size, header.bits["weights"])
    try:
        weights = load_file(path)
        weights.pop(TRAINING_IMAGES, None)
        network.network.load_state_dict(weights)
    except RuntimeError as error:
        raise BadInput(
            f"the weights of {header.architecture}", str(error).splitlines()[-1].strip()[:200], where=path
        ) from error
    return network, header
