"""Whether two maps say the same: of student and teacher, or of a network before and after its weights are lost."""

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from cxr_common.models.concatenated import Concatenated
from cxr_common.models.structure import feature_levels
from cxr_common.models.zoo import GrayNetwork

Floats = NDArray[np.float64]
HEAD = "head"


def spearman(first: Tensor, second: Tensor) -> Floats:
    """Spearman's rank correlation of two maps over their pixels, ties at their mean rank.

    Args:
        first: (B, S, S).
        second: (B, S, S).

    Returns:
        (B,) in [-1, 1]; NaN where a map is the same everywhere (an empty one is).
    """
    a, b = (rankdata(maps.flatten(1).cpu().numpy(), axis=1) for maps in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.where(scale > 0, (a * b).sum(axis=1) / np.where(scale > 0, scale, 1), np.nan)


def ssim(first: Tensor, second: Tensor) -> Floats:
    """Structural similarity of two maps in [0, 1] (Wang et al., IEEE TIP 13, 2004): Gaussian window of sigma 1.5 px.

    ``(2 m1 m2 + c1)(2 s12 + c2) / ((m1^2 + m2^2 + c1)(s1^2 + s2^2 + c2))`` with means m, variances s^2 and
    covariance s12 under the window, c1 = 0.01^2, c2 = 0.03^2, averaged over the positions at which the window
    of 11 x 11 (7 sigma) lies inside; over all positions of maps smaller than that.

    Args:
        first: (B, S, S) in [0, 1].
        second: (B, S, S) in [0, 1].

    Returns:
        (B,) in [-1, 1]; NaN where a map is the same everywhere.
    """
    window = torch.from_numpy(cv2.getGaussianKernel(11, 1.5)).to(first.device)
    kernel = (window @ window.T)[None, None]
    x, y = (maps.double()[:, None] for maps in (first, second))
    padding = 0 if x.shape[-1] >= 11 else 5

    def mean(image: Tensor) -> Tensor:
        padded = nn.functional.pad(image, (padding,) * 4, mode="replicate") if padding else image
        return nn.functional.conv2d(padded, kernel)

    m1, m2 = mean(x), mean(y)
    s1, s2, s12 = mean(x * x) - m1 * m1, mean(y * y) - m2 * m2, mean(x * y) - m1 * m2
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * m1 * m2 + c1) * (2 * s12 + c2) / ((m1 * m1 + m2 * m2 + c1) * (s1 + s2 + c2))
    even = (x.amax(dim=(1, 2, 3)) == x.amin(dim=(1, 2, 3))) | (y.amax(dim=(1, 2, 3)) == y.amin(dim=(1, 2, 3)))
    return torch.where(even, torch.nan, index.mean(dim=(1, 2, 3))).cpu().numpy()


def cascade(network: GrayNetwork, fresh: nn.Module) -> Iterator[tuple[str, GrayNetwork]]:
    """Lose what was learnt, from the classifier down to the first layer (Adebayo et al., NeurIPS 2018, section 3).

    A map that stays the same shows edges of the image, not what the network knows.

    Args:
        network: The trained network; it stays as it is.
        fresh: One of the same architecture with weights drawn anew.

    Yields:
        What was lost last ("head", "level4", ..., "level1") and the network so far. It is one network that goes
        on changing: use it before the next.
    """
    lost = deepcopy(network)
    place = level_of_weights(lost.network)
    replacement = fresh.state_dict()
    for level in (HEAD, *sorted({*place.values()} - {HEAD}, reverse=True)):
        names = [name for name, of in place.items() if of == level]
        state = lost.network.state_dict()
        with torch.no_grad():
            for name in names:
                state[name].copy_(replacement[name])
        yield level, lost


def level_of_weights(network: Any) -> dict[str, str]:
    """Which level each entry of a network's state dict belongs to: "level1" to "level4" or "head".

    Modules are registered in the order of the forward, so a level reaches from the end of the one before it to
    the end of its own module: the first includes all before it, and the head is all behind "level4".
    """
    if isinstance(network, Concatenated):
        inner = {
            f"parts.{i}.{name}": level
            for i, part in enumerate(network.parts)
            for name, level in level_of_weights(part).items()
        }
        return {name: inner.get(name, HEAD) for name in network.state_dict()}
    names = list(network.state_dict())
    places = feature_levels(network)
    ends = [(level, _end(names, network.feature_info[place]["module"])) for level, place in places.items()]
    return {name: next((level for level, end in ends if position < end), HEAD) for position, name in enumerate(names)}


def _end(names: list[str], module: str) -> int:
    """Position behind the last entry of a module; one without weights ends where the entry before it does."""
    inside = [position for position, name in enumerate(names) if name.startswith(module + ".")]
    if inside:
        return inside[-1] + 1
    # A pooling layer of a VGG: what is registered before it counts.
    parent, _, last = module.rpartition(".")
    before = [p for p, name in enumerate(names) if parent and _number(name, parent) < int(last)]
    return before[-1] + 1 if before else 0


def _number(name: str, parent: str) -> float:
    """Place of the child of a sequential module that an entry belongs to; infinity for entries of others."""
    child = name[len(parent) + 1 :].partition(".")[0]
    return int(child) if name.startswith(parent + ".") else math.inf
