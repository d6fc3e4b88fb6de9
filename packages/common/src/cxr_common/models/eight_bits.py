"""Networks in 8 bits: PyTorch computes on the grid of whole numbers that an exported file then computes with.

A value x is put onto a grid of scale s and zero point z (Jacob et al. 2018, arXiv 1712.05877, eq. 1 and 12),

    x ↦ s (clip(round(x / s) + z, 0, 255) - z),

and its gradient is passed on where it was not clipped (Bengio et al. 2013). Activations have one grid per tensor, which
spans a running mean of the ranges seen; weights have one symmetric grid per output channel (z = 0). The fake-quantised
network *is* what ``export-model`` traces: PyTorch's operators become QuantizeLinear and DequantizeLinear with these
very scales, and no calibration image is needed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cxr_common.models.folding import folded
from cxr_common.models.zoo import GrayNetwork

WEIGHT_BITS = (7, 8)
"""With 7 bits a product of two bytes, added to its neighbour, fits 16 bits: processors with AVX2 but no VNNI add there,
and clip what does not fit."""
MOMENTUM = 0.01
"""Share of a training batch in the running mean of a range."""
LEAST = 2.0**-14
"""Least range of an output channel's weights beside the largest: a bias must fit 32 bits on the product's grid."""

_CONVOLUTIONS = {torch.conv2d, F.conv2d}
_LINEAR = {F.linear}
_RECTIFIERS = {F.relu, F.relu_, torch.relu, torch.relu_, F.relu6, F.hardtanh, F.hardtanh_, torch.clamp, Tensor.clamp}
_SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__}
_ON_SAME_GRID = {torch.max_pool2d, F.max_pool2d, torch.flatten, Tensor.flatten}
_WITHOUT_VALUES = {"__get__", "size", "dim", "numel", "stride", "is_contiguous", "is_floating_point", "__len__"}


def in_eight_bits(network: GrayNetwork, size: int, weight_bits: int = 7) -> GrayNetwork:
    """A copy of a network that computes on 8-bit grids, with ranges still to be seen (:func:`observing`).

    Args:
        network: Any network; left as it is. Its batch normalisation is folded into the convolutions.
        size: Edge of its square input, pixels.
        weight_bits: One of :data:`WEIGHT_BITS`.
    """
    copied = folded(network, size)
    copied.network = EightBits(copied.network, weight_bits)
    quantised: EightBits = copied.network
    with torch.no_grad():
        pixels = torch.zeros(1, 1, size, size, dtype=torch.uint8, device=network.mean.device)
        quantised.find_places(copied.normalise(pixels))
    return copied.requires_grad_().train(network.training)


@contextmanager
def observing(network: GrayNetwork) -> Iterator[None]:
    """Within the block, forward passes widen the ranges of a network of :func:`in_eight_bits` to all they meet."""
    quantised: EightBits = network.network
    quantised.observe = True
    try:
        yield
    finally:
        quantised.observe = False


class EightBits(nn.Module):
    """A network of timm's interface whose layers see values and weights on 8-bit grids.

    On grids are the inputs and weights of all convolutions and linear layers but the classifier, the outputs of
    convolutions (after a ReLU that follows), and the terms and sums of residual connections between maps; all else is
    float32, also under autocast, whose bfloat16 has fewer digits than the grid. Batch normalisation that could not be
    folded keeps its statistics.

    Args:
        network: In eval mode, batch normalisation folded; becomes part of this.
        weight_bits: One of :data:`WEIGHT_BITS`.

    Attributes:
        bits: What a header says of it.
        ranges: (P, 2) lowest and highest value of each place, which is spanned by 255 steps.
        weight_scale_N: (C,) scales of the N-th layer's weights.
    """

    ranges: Tensor
    network: Any

    def __init__(self, network: nn.Module, weight_bits: int):
        super().__init__()
        self.network = network
        self.bits = {"activations": 8, "weights": weight_bits}
        self.observe = False
        self.places: dict[str, int] = {}
        self._finding = False
        self.register_buffer("ranges", torch.zeros(0, 2))

    def __getattr__(self, name: str) -> Any:
        """Attributes that this module lacks are those of the network."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def train(self, mode: bool = True) -> "EightBits":
        """Train or evaluate; batch normalisation stays as evaluated."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def find_places(self, x: Tensor) -> None:
        """Run once to see where the grids are; x (1, C, H, W)."""
        self._finding = True
        self(x)
        self._finding = False
        self.ranges = torch.zeros(len(self.places), 2, device=x.device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) normalised to logits (B, L)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Any:
        """As timm's."""
        return self._run("features", self.network.forward_features, x)

    def forward_intermediates(self, x: Tensor, **options: Any) -> Any:
        """As timm's."""
        return self._run("features", self.network.forward_intermediates, x, **options)

    def forward_head(self, x: Any, **options: Any) -> Tensor:
        """As timm's."""
        return self._run("head", self.network.forward_head, x, **options)

    def _run(self, part: str, function: Callable[..., Any], x: Any, **options: Any) -> Any:
        device = self.ranges.device.type
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            grids = _Grids(self, part)
            with grids:
                answer = function(x, **options)
            return grids.resolved(answer)

    def on_grid(self, value: Tensor, place: str) -> Tensor:
        """A value on the grid of its place."""
        if self._finding:
            self.places.setdefault(place, len(self.places))
            return value
        if place not in self.places:  # stochastic depth multiplies between a convolution and a sum, in training alone
            assert self.training, place
            return value
        if value.is_meta:
            return value
        index = self.places[place]
        value = value if value.dtype == torch.float32 else value.float()  # a trace would hold the step
        if self.training or self.observe:
            self._see(value, index)
        low, high = self.ranges[index].unbind()
        scale = ((high - low) / 255).clamp(min=1e-8)
        zero = (-low / scale).round().clamp(0, 255).int()
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage] - its only name
            return torch.fake_quantize_per_tensor_affine(value, scale.item(), int(zero.item()), 0, 255)
        return torch.fake_quantize_per_tensor_affine(value, scale, zero, 0, 255)

    def weight_on_grid(self, weight: Tensor, place: str) -> Tensor:
        """A weight (C, ...) with each output channel on its grid."""
        name = f"weight_scale_{place.replace('/', '_')}"
        if self._finding:
            self.register_buffer(name, torch.ones(len(weight), device=weight.device))
            return weight
        scale = getattr(self, name)
        if weight.is_meta:
            return weight
        if self.training or self.observe:
            with torch.no_grad():
                largest = weight.detach().flatten(1).abs().amax(1)
                largest = torch.maximum(largest, largest.max() * LEAST + 1e-12)  # a number would wait for the device
                scale.copy_(largest / (2 ** (self.bits["weights"] - 1) - 1))
        zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -128, 127)

    @torch.no_grad()
    def _see(self, value: Tensor, index: int) -> None:
        low, high = value.detach().aminmax()
        seen, known = torch.stack([low.clamp(max=0), high.clamp(min=0)]), self.ranges[index]
        if self.observe:
            known.copy_(torch.stack([torch.minimum(known[0], seen[0]), torch.maximum(known[1], seen[1])]))
        else:
            known.lerp_(seen, MOMENTUM)


@dataclass
class _Value:
    """A tensor with a grid of its own: as computed, the place whose grid it is, and itself on that grid once asked."""

    computed: Tensor
    place: str
    on_grid: Tensor | None = None


class _Grids(TorchFunctionMode):
    """Puts values onto grids while a network runs; places are numbered in the order of the operations."""

    def __init__(self, owner: EightBits, part: str):
        super().__init__()
        self.owner, self.part = owner, part
        self.counts = {"layer": 0, "sum": 0}
        self.values: dict[int, _Value] = {}
        self.classifier = getattr(owner.network.get_classifier(), "weight", None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _WITHOUT_VALUES:
            return func(*args, **kwargs)
        if func in _CONVOLUTIONS or func in _LINEAR:
            return self._layer(func, args, kwargs)
        if func in _RECTIFIERS and id(args[0]) in self.values and self.values[id(args[0])].on_grid is None:
            place = self.values[id(args[0])].place
            return self._written(func(*args, **kwargs), place)
        if func in _SUMS and _are_maps(args):
            name = self._next("sum")
            terms = [self._on_grid(a, f"{name}.{side}") for a, side in zip(args, ("left", "right"), strict=True)]
            return self._written(func(*terms, **kwargs), f"{name}.out")
        if func in _ON_SAME_GRID and id(args[0]) in self.values:
            place = self.values[id(args[0])].place
            return self._written(func(self._on_grid(args[0], place), *args[1:], **kwargs), place)
        return func(*self.resolved(args), **self.resolved(kwargs))

    def resolved(self, tree: Any) -> Any:
        """The same tuples, lists and dicts with tensors that have a grid put onto it."""
        if isinstance(tree, Tensor):
            return self._on_grid(tree, self.values[id(tree)].place) if id(tree) in self.values else tree
        if isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
            return type(tree)(self.resolved(value) for value in tree)
        return {key: self.resolved(value) for key, value in tree.items()} if type(tree) is dict else tree

    def _layer(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        value, weight = args[0], args[1]
        if weight is self.classifier:
            return func(*self.resolved(args), **kwargs)
        name = self._next("layer")
        inputs = self._on_grid(value, f"{name}.in"), self.owner.weight_on_grid(weight, name)
        result = func(*inputs, *args[2:], **kwargs)
        return self._written(result, f"{name}.out") if func in _CONVOLUTIONS else result

    def _next(self, kind: str) -> str:
        self.counts[kind] += 1
        return f"{self.part}/{kind}{self.counts[kind]}"

    def _written(self, value: Tensor, place: str) -> Tensor:
        self.values[id(value)] = _Value(value, place)
        return value

    def _on_grid(self, value: Tensor, place: str) -> Tensor:
        known = self.values.setdefault(id(value), _Value(value, place))
        if known.on_grid is None:
            known.on_grid = self.owner.on_grid(known.computed, known.place)
            self.values[id(known.on_grid)] = _Value(known.on_grid, known.place, known.on_grid)
        return known.on_grid


def _are_maps(terms: Any) -> bool:
    """Whether these are two maps (B, C, H, W) of one shape."""
    return (
        len(terms) == 2
        and all(isinstance(term, Tensor) and term.ndim == 4 for term in terms)
        and (terms[0].shape == terms[1].shape)
    )
