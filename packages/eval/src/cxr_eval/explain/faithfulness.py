"""Whether a map names what the network used: take pixels away, or bring them in, and watch the answer.

Deletion and insertion of Petsiuk et al. (RISE, BMVC 2018, section 4.3). A faithful map makes the probability
fall fast when its most salient pixels go, and rise fast when they come. Half-erased images are unlike any that the
network was trained on: only the comparison with random maps of the same coarseness means anything.
"""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_common.models.structure import evaluating
from cxr_common.models.zoo import GrayNetwork
from cxr_data.errors import require_known
from cxr_data.models.decisions import probabilities
from cxr_eval.explain.activations import device_of

KINDS = ("deletion", "insertion")
BLUR = 5 / 224
"""Standard deviation of the blurred image that insertion starts from, as a share of the edge (5 px of 224)."""


def curve(
    network: GrayNetwork,
    pixels: Tensor,
    maps: Tensor,
    label: Tensor | int,
    kind: str,
    *,
    task: str,
    calibration: dict[str, Any] | None = None,
    steps: int = 20,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Probability of the label while pixels go or come, the most salient first.

    Deletion replaces pixels by the mean gray of the training images, which the network sees as 0; insertion
    begins with a blurred image and brings the sharp pixels back. Pixels of equal saliency come in random order,
    so that an empty map is a random one.

    Args:
        network: The network.
        pixels: (B, 1, S, S) uint8.
        maps: (B, S, S) saliency, any scale.
        label: Index of the logit, one for all images or (B,).
        kind: "deletion" or "insertion".
        task: "multilabel" or "multiclass", as in :func:`cxr_data.models.decisions.probabilities`.
        calibration: What the model's file says of it; None takes the logits as they are.
        steps: Forwards after the first; each changes the same number of pixels, but for rounding.
        seed: Seed of the order of equals.

    Returns:
        (B, steps + 1) in [0, 1]; at the first nothing, at the last every pixel has changed.

    Raises:
        BadInput: Another kind.
    """
    require_known("kind of curve", kind, KINDS)
    device, size = device_of(network), pixels.shape[-1]
    rank = torch.from_numpy(_ranks(maps.cpu().numpy(), seed)).to(device)
    sharp = pixels.to(device).float()
    if kind == "deletion":
        first, last = sharp, network.mean * 255 * torch.ones_like(sharp)
    else:
        first, last = torch.from_numpy(_blurred(pixels.cpu().numpy(), BLUR * size)).to(device), sharp
    index = torch.as_tensor(label).expand(len(pixels)).cpu().numpy()
    points = []
    with torch.no_grad(), evaluating(network):
        for changed in np.linspace(0, size * size, steps + 1).round().astype(int).tolist():
            seen = torch.where(rank < changed, last, first)  # may be darker than any whole image
            logits = network.network(network.normalise(seen)).double().cpu().numpy()
            answers = probabilities(logits, task, calibration)
            points.append(answers[np.arange(len(index)), index])
    return np.stack(points, axis=1)


def area(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area under each curve by trapezoids over the share of pixels changed; (B, steps + 1) to (B,) in [0, 1]."""
    return (curves[:, 1:] + curves[:, :-1]).mean(axis=1) / 2


def _ranks(maps: NDArray[np.floating], seed: int) -> NDArray[np.int64]:
    """Place of each pixel when the most salient come first, ties at random: (B, S, S) to (B, 1, S, S)."""
    flat = maps.reshape(len(maps), -1)
    chance = np.random.default_rng(seed).random(flat.shape)
    order = np.lexsort((chance, -flat), axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None], axis=1)
    return ranks.reshape(len(maps), 1, *maps.shape[1:])


def _blurred(pixels: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    out = np.empty(pixels.shape, np.float32)
    for i, image in enumerate(pixels[:, 0]):
        cv2.GaussianBlur(image.astype(np.float32), (0, 0), max(sigma, 0.3), dst=out[i, 0])
    return out
