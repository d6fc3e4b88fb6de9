"""Class activation maps: where in an image the evidence for a label lies.

``cxr_eval.explain.methods`` lists them. Each takes a network, gray images, the index of a logit and a level, and
gives maps in [0, 1]. A map is the positive part of a weighted sum of the level's channels, enlarged to the image
(bilinear) and stretched to [0, 1]. It is empty, all 0, where the method finds no evidence anywhere or the same
everywhere: ``is_empty`` tells, and such maps are to be counted.
"""

import torch
from torch import Tensor, nn

from cxr_common.models.structure import evaluating
from cxr_common.models.zoo import GrayNetwork
from cxr_eval.explain.activations import activations, activations_and_gradients, device_of

_SAME = 1e-5
"""A map that varies less than this share of its maximum is the same everywhere: the rest is rounding."""


def grad_cam(network: GrayNetwork, pixels: Tensor, label: Tensor | int, level: str = "level4") -> Tensor:
    """Grad-CAM: each channel weighs by its mean gradient (Selvaraju et al., ICCV 2017, eq. 1 and 2).

    With activations A (B, C, h, w) and G the gradient of the logit: ``map = relu(sum_c mean_hw(G)_c A_c)``.

    Args:
        network: The network.
        pixels: (B, 1, S, S) uint8.
        label: Index of the logit, one for all images or (B,).
        level: Feature map to explain by, "level1" to "level4".

    Returns:
        (B, S, S) float32 in [0, 1]; all 0 where nothing is found.
    """
    a, g = activations_and_gradients(network, pixels, label, level)
    return finished(_weighted(a, g.mean(dim=(2, 3))), pixels.shape[-1])


def grad_cam_plus_plus(network: GrayNetwork, pixels: Tensor, label: Tensor | int, level: str = "level4") -> Tensor:
    """Grad-CAM++: positive gradients, weighted so that each of several lesions counts (Chattopadhay et al., WACV 2018).

    ``w_c = sum_hw(alpha relu(G))`` and ``alpha = G^2 / (2 G^2 + sum_hw(A) G^3)`` (eq. 19 with the exponential of
    the logit as score). Cancelled down, ``alpha = 1 / (2 + sum_hw(A) G)``: small gradients cannot underflow.
    The factor exp(logit) is the same for all channels and drops out. Arguments as in :func:`grad_cam`.
    """
    a, g = activations_and_gradients(network, pixels, label, level)
    divisor = 2 + a.sum(dim=(2, 3), keepdim=True) * g
    alpha = torch.where(divisor != 0, 1 / torch.where(divisor != 0, divisor, 1), 0)
    return finished(_weighted(a, (alpha * g.relu()).sum(dim=(2, 3))), pixels.shape[-1])


def layer_cam(network: GrayNetwork, pixels: Tensor, label: Tensor | int, level: str = "level4") -> Tensor:
    """LayerCAM: each position of each channel weighs by its own gradient (Jiang et al., TIP 2021, eq. 5 to 7).

    ``map = relu(sum_c relu(G_c) A_c)``; keeps its meaning in shallow levels. Arguments as in :func:`grad_cam`.
    """
    a, g = activations_and_gradients(network, pixels, label, level)
    return finished((g.relu() * a).sum(dim=1), pixels.shape[-1])


def eigen_cam(network: GrayNetwork, pixels: Tensor, label: Tensor | int = 0, level: str = "level4") -> Tensor:
    """Eigen-CAM: the first principal component of the activations, whatever the label (Muhammad & Yeasin, IJCNN 2020).

    Positions are centred first. The sign of a component is arbitrary; it is taken so that the largest absolute
    value is positive (Chung & Ying, Applied Sciences 15:7562, 2025, eq. 13). Arguments as in :func:`grad_cam`;
    the label has no influence.
    """
    x = activations(network, pixels, level).flatten(2).transpose(1, 2).double()
    x = x - x.mean(dim=1, keepdim=True)
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    projection = u[:, :, 0] * s[:, :1]
    flip = -projection.amin(dim=1) > projection.amax(dim=1)
    projection = torch.where(flip[:, None], -projection, projection)
    edge = round(x.shape[1] ** 0.5)
    return finished(projection.unflatten(1, (edge, edge)), pixels.shape[-1])


def score_cam(
    network: GrayNetwork, pixels: Tensor, label: Tensor | int, level: str = "level4", *, batch_size: int = 64
) -> Tensor:
    """Score-CAM: each channel weighs by the logit of the image seen through it (Wang et al., CVPR workshops 2020).

    Each channel is enlarged, stretched to [0, 1] and multiplied with the normalised image; the weights are the
    softmax over channels of the label's logits, ``map = relu(sum_c w_c A_c)``. No gradients, but one forward a
    channel. Arguments as in :func:`grad_cam`, and batch_size: images of a forward.
    """
    a = activations(network, pixels, level)
    index = torch.as_tensor(label, device=a.device).expand(len(a))
    with torch.no_grad(), evaluating(network):
        images = network.normalise(pixels.to(device_of(network)))
        weights = torch.stack(
            [_seen_through(network, *case, batch_size) for case in zip(images, a, index, strict=True)]
        )
    return finished(_weighted(a, weights), pixels.shape[-1])


def finished(raw: Tensor, size: int) -> Tensor:
    """The positive part of a map, enlarged and stretched to [0, 1].

    Args:
        raw: (B, h, w), any scale.
        size: Edge of the result.

    Returns:
        (B, size, size) float32; all 0 where the positive part is 0 or the same everywhere, or raw is not finite.
    """
    finite = torch.isfinite(raw).all(dim=(1, 2), keepdim=True)
    positive = torch.where(finite, raw, 0).relu()
    # By the maximum first: the smallest numbers of float32 would not survive the arithmetic that follows.
    highest = positive.amax(dim=(1, 2), keepdim=True)
    positive = positive / torch.where(highest > 0, highest, 1)
    maps = nn.functional.interpolate(positive[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    return torch.where(span > _SAME, (maps - low) / torch.where(span > _SAME, span, 1), 0).float()


def is_empty(maps: Tensor) -> Tensor:
    """(B, S, S) maps to (B,) bool: true where a map says nothing."""
    return (maps == 0).all(dim=2).all(dim=1)


def _weighted(activation: Tensor, weights: Tensor) -> Tensor:
    """(B, C, h, w) and (B, C) to (B, h, w)."""
    return torch.einsum("bchw,bc->bhw", activation, weights)


def _seen_through(network: GrayNetwork, image: Tensor, activation: Tensor, label: Tensor, batch_size: int) -> Tensor:
    """Softmax over channels of the logits of one image (channels, S, S) masked by each of (C, h, w)."""
    logits = []
    for chunk in activation.split(batch_size):
        masks = nn.functional.interpolate(chunk[:, None], image.shape[-2:], mode="bilinear", align_corners=False)
        low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
        masks = (masks - low) / (high - low).clamp_min(1e-8)
        logits.append(network.network(image * masks)[:, label])
    return torch.cat(logits).softmax(dim=0)
