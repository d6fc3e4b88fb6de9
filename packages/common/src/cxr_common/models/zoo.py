"""Every network by its name, and the normalisation that goes before it."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cxr_common.models import baseline_cnn, eeea_net  # noqa: F401 - they register themselves with timm
from cxr_common.models.concatenated import Concatenated
from cxr_common.models.heads import start_small
from cxr_common.models.structure import dry_run, input_channels
from cxr_data.errors import BadInput, unknown_name
from cxr_data.models.header import Input

DEFAULT_SIZE = 224
"""Input edge of a network whose weights depend on it, where none is given."""

_SMALLEST = 4  # pixels; below, the baseline CNN pools its map away

OFFERED = (
    "baseline_cnn",
    "convnext_tiny",
    "densenet121",
    "densenet161",
    "eeea_net_c2",
    "mobilenetv2_100",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnetv2_50",
    "resnetv2_50+vgg19_bn",
    "swin_tiny_patch4_window7_224",
    "vgg19_bn",
    "visformer_small",
    "vit_small_patch16_224",
    "vit_tiny_patch16_224",
)
"""The architectures that are tested end to end. Any other name of timm's, and any "a+b", builds as well."""

SIZE_OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "baseline_cnn": lambda size: {"img_size": size},
    "swin_tiny_patch4_window7_224": lambda _: {"strict_img_size": False},
    "vit_small_patch16_224": lambda _: {"dynamic_img_size": True},
    "vit_tiny_patch16_224": lambda _: {"dynamic_img_size": True},
}
"""What constructors are told beside timm's usual options, by the size of the input: some transformers that they
shall take other sizes too (multi-crop; the weights are the same)."""


def build(
    architecture: str, num_outputs: int, *, channels: int = 1, size: int | None = None, drop_path: float = 0.0
) -> nn.Module:
    """A network with fresh weights, by name. Nothing is ever downloaded.

    All have timm's interface: ``forward``, ``forward_features``, ``forward_head``, ``forward_intermediates``,
    ``feature_info``, ``get_classifier``, ``reset_classifier``, and ``num_features``, the width of what
    ``forward_head(..., pre_logits=True)`` gives.

    Args:
        architecture: A name in :data:`OFFERED`, any name in timm's registry, or several joined by "+"
            (their features concatenated).
        num_outputs: Logits; 0 for pooled features (B, num_features).
        channels: Channels of the image.
        size: Edge of the square input, pixels. It shapes the weights of transformers and of the baseline CNN
            (224 where not given); for all others it is only checked.
        drop_path: Stochastic depth rate of the last block.

    Returns:
        The network; its classifier begins small (:func:`cxr_common.models.heads.start_small`).

    Raises:
        BadInput: No such architecture, or one that cannot take this size or has no stochastic depth.
    """
    if size is not None and size < _SMALLEST:
        raise _cannot_take(architecture, size, f"fewer than {_SMALLEST}")
    if "+" in architecture:
        names = architecture.split("+")
        options: dict[str, Any] = {"channels": channels, "size": size, "drop_path": drop_path}
        network = Concatenated([build(name, 0, **options) for name in names], num_outputs)
    else:
        network = _build_timm(architecture, num_outputs, channels, size, drop_path)
    if num_outputs:
        start_small(network)
    if size is not None:
        check_size(network, architecture, size)
    return network


def _build_timm(architecture: str, num_outputs: int, channels: int, size: int | None, drop_path: float) -> nn.Module:
    known = set(timm.list_models())
    if architecture not in known:
        close = difflib.get_close_matches(architecture, known, n=1)
        raise unknown_name("architecture", architecture, known if close else OFFERED)
    options: dict[str, Any] = {"num_classes": num_outputs, "in_chans": channels}
    cfg = timm.models.get_pretrained_cfg(architecture)
    if size is not None and cfg is not None and cfg.fixed_input_size:
        options["img_size"] = size
    fixed = "img_size" in options
    if architecture in SIZE_OPTIONS:
        options |= SIZE_OPTIONS[architecture](size or DEFAULT_SIZE)
    try:
        try:  # 0 is said too: some constructors would take a rate of their own
            network: Any = timm.create_model(architecture, **options, drop_path_rate=drop_path)
        except TypeError as error:
            if "drop_path_rate" not in str(error):
                raise
            do = f"leave drop_path at 0, not {drop_path}"
            if drop_path:
                raise BadInput("an architecture with stochastic depth", architecture, do=do) from error
            network = timm.create_model(architecture, **options)
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise _cannot_take(architecture, size or DEFAULT_SIZE, str(error)) from error
    # timm's num_features is the width before a hidden layer of the head, where there is one (VGG).
    network.num_features = getattr(network, "head_hidden_size", None) or network.num_features
    if fixed:
        patch = network.feature_info[0]["reduction"] if hasattr(network, "feature_info") else 1
        if options["img_size"] % patch:  # timm would silently leave the last pixels out
            raise _cannot_take(architecture, options["img_size"], f"not a multiple of its {patch} px patch")
    return network


def check_size(network: nn.Module, architecture: str, size: int) -> None:
    """Make sure that a network takes images of this size, by a pass without arithmetic.

    Args:
        network: What :func:`build` gave, perhaps for another size (multi-crop shows a network several).
        architecture: Its name, for the message.
        size: Edge of the square input, pixels.

    Raises:
        BadInput: It cannot.
    """
    try:
        dry_run(network, torch.empty(1, input_channels(network), size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise _cannot_take(architecture, size, str(error).partition("\n")[0]) from error


def _cannot_take(architecture: str, size: int, reason: str) -> BadInput:
    return BadInput(
        f"an input size that {architecture} takes",
        f"{size} px ({reason})" if reason else f"{size} px",
        do="choose another size, such as 224",
    )


class GrayNetwork(nn.Module):
    """A network with its normalisation before it: gray pixels in, logits out.

    x = (pixels / 255 - mean) / std, as one multiply-add on the pixels' device: a pixel travels as one byte.
    Mean and std are buffers that move with the module but are not in its state dict: what is saved is
    ``network``, and the numbers are in the file's header.

    Args:
        network: Any network of the zoo. One of 3 input channels sees the gray image three times.
        mean: Mean of pixels / 255, one number or one for each channel.
        std: Standard deviation of pixels / 255, likewise.

    Raises:
        BadInput: A std is not above 0, or a number of them that the network has no channels for.
    """

    network: Any  # timm's interface, which no class declares
    _in_range = False
    mean: Tensor
    std: Tensor
    _scale: Tensor
    _shift: Tensor

    def __init__(self, network: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]):
        super().__init__()
        means, stds = (torch.atleast_1d(torch.as_tensor(number, dtype=torch.float64)) for number in (mean, std))
        if not (stds > 0).all():
            raise BadInput("a standard deviation above 0", str(std), do="check that the images are not blank")
        self.network = network
        channels = input_channels(network)
        # The parts of a concatenated network may each read channels of their own.
        allowed = {1, channels, channels * len(getattr(network, "parts", ()))}
        if len(means) != len(stds) or len(means) not in allowed:
            raise BadInput(f"a mean and a std for {channels} channels", f"{len(means)} and {len(stds)}")
        # More than one channel in the factors repeats the gray image by broadcasting.
        count = max(channels, len(means))
        numbers = {
            "mean": means.float() if len(means) > 1 else means[0].float(),
            "std": stds.float() if len(stds) > 1 else stds[0].float(),
            "_scale": (1 / (255 * stds)).expand(count)[:, None, None].float(),
            "_shift": (-means / stds).expand(count)[:, None, None].float(),
        }
        self._mean_std = [tuple(values.tolist()) if len(values) > 1 else float(values) for values in (means, stds)]
        for name, number in numbers.items():
            self.register_buffer(name, number, persistent=False)

    def describe_input(self, size: int, pixels: Mapping[str, Any]) -> Input:
        """What a header says of the images this network takes.

        Args:
            size: Edge of the square input, pixels.
            pixels: How files became pixels (the cohort's ``pixel_mapping``).
        """
        return Input(size, *self._mean_std, channels=input_channels(self.network), pixels=dict(pixels))

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 1, H, W) uint8 or float in 0..255 to (B, channels, H, W) float, in the same memory format."""
        return torch.addcmul(self._shift, pixels, self._scale)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 1, H, W) uint8 or float in 0..255 to logits (B, num_outputs).

        Raises:
            BadInput: Another shape, or floats in 0..1, which would be read as black images without any warning.
        """
        if pixels.dim() != 4 or pixels.shape[1] != 1:
            do = "give gray images as (B, 1, H, W); a network of 3 channels repeats them itself"
            raise BadInput("pixels (B, 1, H, W)", f"a tensor of shape {tuple(pixels.shape)}", do=do)
        asked = pixels.device.type == "cpu" or not self._in_range  # reading a value makes a GPU's step wait: once
        if asked and pixels.is_floating_point() and not (pixels.is_meta or torch.compiler.is_compiling()):
            highest = float(pixels.detach().amax()) if pixels.numel() else 0.0
            self._in_range = highest > 1
            if 0 < highest <= 1:
                do = "give uint8, or multiply by 255; mean and std are applied here"
                raise BadInput("gray pixels in 0..255, uint8 or float", f"floats up to {highest:.3g}", do=do)
        return self.network(self.normalise(pixels))
