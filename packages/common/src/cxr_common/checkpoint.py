"""Weights files: safetensors that carry a header and can be rebuilt into the exact network from themselves alone."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.cohorts.digests import image_keys
from cxr_data.errors import BadInput
from cxr_data.files import sha256, whole_file
from cxr_data.models import licences
from cxr_data.models.header import (
    KEY,
    LIKENESS,
    TRAINING_IMAGES,
    Header,
    Input,
    describe,
    header_text,
    is_ours,
    metadata,
    parent,
    places_of,
    provenance,
    weights_of_onnx,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cxr_common.models.zoo import GrayNetwork
    from cxr_data.cohorts.cohort import Cohort

__all__ = [
    "Header",
    "Input",
    "TrainingImages",
    "describe",
    "is_ours",
    "load",
    "metadata",
    "parent",
    "provenance",
    "save",
    "to_bytes",
    "trained_on",
    "training_images",
]


class TrainingImages(NamedTuple):
    """Keys of the training and validation images of weights, of their teachers and of their start.

    Attributes:
        identical: Stored edge -> :func:`cxr_data.cohorts.digests.image_keys`; keys of one edge say nothing about images
            of another.
        likeness: (N, 16) :func:`cxr_data.cohorts.likeness.likeness_keys`, of all stored edges together; none where
            there are more than ``MOST_KEPT``.
    """

    identical: dict[int, NDArray[np.int64]]
    likeness: NDArray[np.int64]


def save(
    path: str | Path,
    weights: "nn.Module | dict[str, torch.Tensor]",
    header: Header,
    *,
    training_images: TrainingImages | None = None,
) -> str:
    """Write weights and header as one safetensors file, whole or not at all.

    Args:
        path: Target file.
        weights: A network, or its state dict (a :class:`GrayNetwork`'s inner network is what is saved).
        header: What the file says of itself; JSON types only. Its ancestors and their licences are found here, by its
            parents.
        training_images: :func:`trained_on`, so that an evaluation can tell whether it meets these images again.

    Returns:
        SHA-256 of the file.
    """
    import torch
    from torch import nn

    header = dataclasses.replace(header, ancestors=licences.ancestors(header.parents))
    state = getattr(weights, "network", weights)
    tensors = state.state_dict() if isinstance(state, nn.Module) else state
    tensors = dict(tensors)
    if training_images:
        for size, keys in training_images.identical.items():
            tensors[f"{TRAINING_IMAGES}.{size}"] = torch.from_numpy(np.unique(keys))
        if len(training_images.likeness):
            tensors[LIKENESS] = torch.from_numpy(np.unique(training_images.likeness, axis=0))
    with whole_file(path) as file:
        file.write(to_bytes(tensors, {KEY: header_text(header)}))
    return sha256(path)


def trained_on(cohort: "Cohort", parents: Iterable[Mapping[str, str]]) -> TrainingImages:
    """Keys of the images that weights were made with: trained on, or chosen by on validation images.

    Args:
        cohort: Whose training and validation images are seen now.
        parents: Provenance of the files the weights are made from (start, teachers): what these were made with counts.
    """
    from cxr_data.cohorts.likeness import MOST_KEPT, likeness_keys

    rows = np.concatenate([cohort.rows("train"), cohort.rows("val")])
    identical = {cohort.pixel_size: image_keys(cohort.pixels, rows)}
    complete = len(rows) <= MOST_KEPT
    likeness = [likeness_keys(cohort.pixels, rows if complete else rows[:0])]
    for place in places_of(parents):
        file = weights_of_onnx(place) if place.suffix == ".onnx" else place
        if file and is_ours(file):
            theirs = training_images(file)
            likeness.append(theirs.likeness)
            complete &= bool(len(theirs.likeness)) or not theirs.identical
            for size, keys in theirs.identical.items():
                identical[size] = np.union1d(identical[size], keys) if size in identical else keys
    looks = np.unique(np.concatenate(likeness), axis=0)
    # Keys of some of the images alone would look as if none of the others came back.
    return TrainingImages(dict(sorted(identical.items())), looks if complete and len(looks) <= MOST_KEPT else looks[:0])


def training_images(path: str | Path) -> TrainingImages:
    """What :func:`trained_on` said of a file's weights; nothing where the file does not hold it."""
    from safetensors import safe_open

    from cxr_data.cohorts.likeness import WORDS

    with safe_open(str(path), framework="np") as file:
        names = [name for name in file.keys() if name.startswith(TRAINING_IMAGES)]  # noqa: SIM118 - no mapping
        likeness = file.get_tensor(LIKENESS) if LIKENESS in names else np.zeros((0, WORDS), np.int64)
        identical = {int(name.rpartition(".")[2]): file.get_tensor(name) for name in names if name != LIKENESS}
    return TrainingImages(identical, likeness)


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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from cxr_common.models.reading import refuse_unusable
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
        weights = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(TRAINING_IMAGES)}
        refuse_unusable(weights, network.network.state_dict(), path)
        network.network.load_state_dict(weights)
    except (RuntimeError, SafetensorError) as error:
        raise BadInput(
            f"the weights of {header.architecture}", str(error).splitlines()[-1].strip()[:200], where=path
        ) from error
    return network, header
