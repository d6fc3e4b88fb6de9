"""Augmented views rendered by torch on the device that trains: the pixels of `cxr_data.augment.render`.

What was drawn for a view becomes a warp, a table, a kernel and a piece of noise on the CPU, a few hundred bytes; the
device does what takes time. Nothing here waits for the device.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_common.training.accelerator import pinned
from cxr_data.augment import NOISE_STEPS, Views, ViewSpec, exposures, noise_place, noise_tile, render, warps

MOST_SAMPLES = 2**25
"""Samples of views that are rendered together: what they take is some 30 bytes each."""


@dataclass(frozen=True)
class Unrendered:
    """Images and what is to be shown of them, V views of B images; view v of image b is number v B + b.

    Attributes:
        pixels: (B, P, P) uint8.
        matrices: (V B, 2, 3) float32, from sampled pixels of the view to those of its level of the image pyramid.
        tables: (V B, 256) uint8, gray levels after the change of exposure.
        kernels: (V B, K) int32, blurs in 256ths, 256 in the middle for none; K is odd.
        noise: (V B) float32, weight of the noise tile.
        places: (V B, 2) int64, row and column where the noise begins on its tile.
        groups: Level, samples along each axis and numbers of the views that share them.
        shape: V, B and the edge of a view.
    """

    pixels: Tensor
    matrices: Tensor
    tables: Tensor
    kernels: Tensor
    noise: Tensor | None
    places: Tensor | None
    groups: tuple[tuple[int, int, Tensor], ...]
    shape: tuple[int, int, int]

    def to(self, device: torch.device) -> Self:
        """The same on the device; returns before the copies have ended where memory is pinned."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: x.to(device, non_blocking=True) for name, x in held.items() if isinstance(x, Tensor)}
        groups = tuple((level, n, chosen.to(device, non_blocking=True)) for level, n, chosen in self.groups)
        return replace(self, **moved, groups=groups)


def unrendered(pixels: NDArray[np.uint8], views: Views, spec: ViewSpec, device: torch.device) -> Unrendered:
    """What `rendered` needs, in pinned memory where the device is a GPU.

    Args:
        pixels: (B, P, P) gray images.
        views: The rows of `cxr_data.augment.draw` that belong to them, name -> (B, V).
        spec: The spec the views were drawn from.
        device: Where they will be rendered.
    """
    levels, samples, matrices = warps(views, pixels.shape[1], spec.size)

    def ready(values: NDArray[Any]) -> Tensor:
        """(B, V, ...) to (V B, ...)."""
        return pinned(
            torch.from_numpy(np.ascontiguousarray(np.swapaxes(values, 0, 1)).reshape(-1, *values.shape[2:])), device
        )

    kinds = np.stack([levels.T.ravel(), samples.T.ravel()], 1)
    groups = tuple(
        (int(level), int(n), pinned(torch.from_numpy(np.flatnonzero((kinds == (level, n)).all(1))), device))
        for level, n in np.unique(kinds, axis=0)
    )
    noise = places = None
    if "noise" in views:
        noise = ready(views["noise"] * np.float32(255 / NOISE_STEPS))
        places = ready(noise_place(np.stack([views["noise_y"], views["noise_x"]], -1), spec.size))
    return Unrendered(
        pinned(torch.from_numpy(np.ascontiguousarray(pixels)), device),
        ready(matrices.astype(np.float32)),
        ready(exposures(views)),
        ready(blurs(views["sigma"].astype(np.float64) * spec.size)),
        noise,
        places,
        groups,
        (views["x"].shape[1], len(pixels), spec.size),
    )


def prepared(
    pixels: NDArray[np.uint8], views: Views, spec: ViewSpec, device: torch.device, *, on_device: bool
) -> Tensor | Unrendered:
    """Views as `shown` takes them: those of `cxr_data.augment.render`, or what they are rendered from on the device."""
    if on_device:
        return unrendered(pixels, views, spec, device)
    return pinned(torch.from_numpy(render(pixels, views, spec)), device)


def shown(views: Tensor | Unrendered, device: torch.device) -> Tensor:
    """Views (V, B, size, size) uint8 on the device, rendered there where they are not yet."""
    if isinstance(views, Unrendered):
        return rendered(views.to(device))
    return views.to(device, non_blocking=True)


def blurs(sigmas: NDArray[np.float64]) -> NDArray[np.int32]:
    """Kernels of OpenCV's blur of bytes, which are whole 256ths.

    Args:
        sigmas: (...) standard deviations, pixels; 0 for no blur.

    Returns:
        (..., K), K odd and as large as the widest needs; each sums to 256.
    """
    radii = [(round(6 * sigma + 1) | 1) // 2 if sigma > 0 else 0 for sigma in sigmas.ravel()]
    widest = max(radii, default=0)
    kernels = np.zeros((len(radii), 2 * widest + 1), np.int32)
    for kernel, sigma, radius in zip(kernels, sigmas.ravel(), radii, strict=True):
        exact = np.exp(-0.5 * (np.arange(-radius, 1) / (sigma or 1)) ** 2)
        exact *= 256 / (2 * exact[:-1].sum() + 1)
        error = 0.0
        for place in range(radius):  # from the rim inwards, each value takes on the rounding of the last
            value = round(exact[place] + error)
            error += exact[place] - value
            kernel[widest - radius + place] = kernel[widest + radius - place] = value
        kernel[widest] = 256 - kernel.sum()
    return kernels.reshape(*sigmas.shape, -1)


def rendered(views: Unrendered) -> Tensor:
    """Render views on the device they are on.

    Returns:
        (V, B, size, size) uint8: OpenCV's pixels, but for ties of rounding.
    """
    count, images, size = views.shape
    warped = torch.empty(count * images, size, size, dtype=torch.uint8, device=views.pixels.device)
    pyramid = [views.pixels]
    for level, samples, chosen in views.groups:
        while len(pyramid) <= level:
            pyramid.append(_halved(pyramid[-1]))
        for part in chosen.split(max(1, MOST_SAMPLES // (size * samples) ** 2)):
            sources = pyramid[level][part % images]
            warped[part] = _warped(sources, views.matrices[part], size, samples)
    shown = _blurred(warped, views.kernels)
    shown = views.tables.gather(1, shown.flatten(1).long()).view_as(shown)
    if views.noise is not None and views.places is not None:
        shown = _noisy(shown, views.noise, views.places)
    return shown.view(count, images, size, size)


def _halved(images: Tensor) -> Tensor:
    """(B, E, E) to (B, E // 2, E // 2), by areas."""
    small = images.shape[-1] // 2
    if images.shape[-1] % 2 == 0:
        return ((images.view(-1, small, 2, small, 2).sum((2, 4), dtype=torch.int32) + 2) >> 2).to(torch.uint8)
    edge = images.shape[-1]
    starts = torch.arange(small, device=images.device, dtype=torch.float64)[:, None] * (edge / small)
    pixels = torch.arange(edge, device=images.device, dtype=torch.float64)
    covered = torch.minimum(starts + edge / small, pixels + 1) - torch.maximum(starts, pixels)
    shares = (covered * (covered > 1e-3) * (small / edge)).float()  # OpenCV leaves out slivers
    return (shares @ images.float() @ shares.t()).round_().to(torch.uint8)


def _warped(sources: Tensor, matrices: Tensor, size: int, samples: int) -> Tensor:
    """(N, E, E) uint8 through (N, 2, 3) maps to (N, size, size) uint8; the border pixels continue."""
    edge, finer = sources.shape[-1], size * samples
    # Rounded where OpenCV rounds: the part of a row in float32, the rest in one fused product and sum.
    along = torch.arange(finer, device=sources.device, dtype=torch.float32)
    a, b, c = matrices[..., None, None].unbind(2)
    x, y = (a.double() * along + (b * along[:, None] + c)).float().unbind(1)
    flat = sources.flatten(1)

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        places = rows.clamp(0, edge - 1) * edge + columns.clamp(0, edge - 1)
        return flat.gather(1, places.flatten(1)).view(places.shape)

    if samples > 1:
        pixels_of_block = at(y.round().long(), x.round().long()).view(-1, size, samples, size, samples)
        total = pixels_of_block.sum((2, 4), dtype=torch.int32)
        return ((total + 2) >> 2 if samples == 2 else (total / samples**2).round()).to(torch.uint8)
    left, top = x.floor(), y.floor()
    right, below = x - left, y - top
    columns, rows = left.long(), top.long()
    upper, lower = (_between(at(row, columns), at(row, columns + 1), right) for row in (rows, rows + 1))
    return _between(upper, lower, below).round_().to(torch.uint8)


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """First + share (second - first), a fused product and sum in float32."""
    return (first.double() + share.double() * (second.float() - first.float())).float()


def _blurred(images: Tensor, kernels: Tensor) -> Tensor:
    """(N, S, S) uint8 blurred with (N, K) kernels along both axes; the border is mirrored about its pixels."""
    taps, size = kernels.shape[1], images.shape[-1]
    if taps == 1:
        return images
    reach = taps // 2
    places = torch.arange(-reach, size + reach, device=images.device)
    period = 2 * (size - 1)
    places = (places % period).where(places % period < size, period - places % period)
    sums = images.int()
    for axis in (2, 1):
        padded = sums.index_select(axis, places)
        sums = torch.zeros_like(sums)
        for tap in range(taps):
            sums += padded.narrow(axis, tap, size) * kernels[:, tap, None, None]
    return ((sums + 2**15) >> 16).to(torch.uint8)


def _noisy(images: Tensor, weights: Tensor, places: Tensor) -> Tensor:
    """(N, S, S) uint8 with its piece of the noise tile added."""
    size = images.shape[-1]
    tile = torch.from_numpy(noise_tile(size)).to(images.device, non_blocking=True)
    along = torch.arange(size, device=images.device)
    piece = tile[places[:, 0, None, None] + along[:, None], places[:, 1, None, None] + along]
    added = images + weights[:, None, None] * (piece.float() - 128)
    return added.round_().clamp_(0, 255).to(torch.uint8)
