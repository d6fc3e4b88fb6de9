"""The weights a network begins with: whose they are, and how they get in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cxr_common import checkpoint
from cxr_common.models.foreign import from_foreign
from cxr_common.models.structure import classifier_name
from cxr_data.errors import BadInput

Start = tuple[Path | None, ...]
"""Files a network begins with: none (random), one for the whole, or one for each part of "A+B" (None: random)."""


def files_of(start: str, architecture: str) -> Start:
    """The files that a word on the command line stands for.

    Args:
        start: "random", "imagenet" (timm's weights, fetched once) or a file; for an architecture "A+B" also one of
            these for each part, joined by "+".
        architecture: Name in the zoo.

    Raises:
        BadInput: A number of files that fits neither the network nor its parts, or ImageNet weights that are not to
            be had.
    """
    parts = architecture.split("+")
    words = start.split("+") if len(parts) > 1 and not Path(start).is_file() else [start]
    if words == ["imagenet"]:
        words *= len(parts)
    if len(words) not in (1, len(parts)):
        raise BadInput(f"one start for {architecture}, or {len(parts)} joined by +", start, where="--start")
    files = tuple(_file_of(word, part) for word, part in zip(words, parts, strict=False))
    return files if any(files) else ()


def parents_of(start: Start) -> tuple[dict[str, str], ...]:
    """Provenance of the files a network begins with: roles "start", "start-2", ..."""
    return tuple(
        checkpoint.parent(f"start-{number}" if number > 1 else "start", path)
        for number, path in enumerate(start, 1)
        if path
    )


def load_start(network: nn.Module, architecture: str, start: Start, size: int) -> None:
    """Give a network its starting weights, except what they have of a classifier of another width.

    Args:
        network: ``build(architecture, any number of outputs, size=size)``.
        architecture: Its name.
        start: Files of ours or of others.
        size: Edge of its input, pixels, to which position embeddings are resampled.

    Raises:
        BadInput: Weights of another network, or a file that cannot be read.
    """
    if len(start) > 1:
        joined: Any = network
        for number, (part, path) in enumerate(zip(architecture.split("+"), start, strict=True)):
            if path:
                joined.load_part(number, _weights(path, part, size))
    elif start and start[0]:
        _load(network, architecture, _weights(start[0], architecture, size), start[0])


def imagenet_weights(architecture: str) -> Path:
    """Timm's ImageNet weights of a network, downloaded on first use into the cache of huggingface_hub.

    Args:
        architecture: A name of timm's; the tag it stands for is timm's choice.

    Returns:
        The file.

    Raises:
        BadInput: timm has none, or they can neither be found nor fetched.
    """
    import huggingface_hub
    import timm

    config = timm.get_pretrained_cfg(architecture) if timm.is_model_pretrained(architecture) else None
    if config is None or not config.hf_hub_id:
        raise BadInput("a network with ImageNet weights in timm", architecture, do="--start random, or a file")
    hub, name = config.hf_hub_id, config.hf_hub_filename or "model.safetensors"
    try:
        return Path(huggingface_hub.hf_hub_download(hub, name))
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise BadInput(
            f"ImageNet weights of {architecture} ({hub})",
            "neither in the cache nor to be fetched: " + str(error).splitlines()[0],
            do=f"run it once with a network, or bring {name} of huggingface.co/{hub} and give --start FILE",
        ) from error


def _file_of(word: str, architecture: str) -> Path | None:
    if word == "random":
        return None
    return imagenet_weights(architecture) if word == "imagenet" else Path(word)


def _weights(path: Path, architecture: str, size: int) -> Mapping[str, Tensor]:
    if not checkpoint.is_ours(path):
        return from_foreign(path, architecture, size=size)
    header = checkpoint.describe(path)
    if header.architecture != architecture:
        raise BadInput(
            f"weights of {architecture}",
            f"weights of {header.architecture} (a {header.kind})",
            where=path,
            do=f"change the architecture to {header.architecture}, or give another start",
        )
    return checkpoint.load(path)[0].network.state_dict()


def _load(network: nn.Module, architecture: str, weights: Mapping[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    # What only the classifier has may be missing or of another width: a new task gets a new head.
    head = {name for name in own if name.startswith(classifier_name(network) + ".")}
    fitting = {name: tensor for name, tensor in weights.items() if name in own and tensor.shape == own[name].shape}
    absent = own.keys() - fitting.keys() - head
    if absent:
        raise BadInput(
            f"the weights of {architecture}",
            f"{len(absent)} of {len(own)} tensors missing or of another shape, such as {sorted(absent)[0]}",
            where=path,
            do="give a file of this architecture, or change the architecture",
        )
    network.load_state_dict(fitting, strict=False)
