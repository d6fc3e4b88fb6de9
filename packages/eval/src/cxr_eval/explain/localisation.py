"""Whether a map points at the lesion: pointing game, energy and IoU, beside what no network at all would score."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]


def pointing(maps: Tensor, masks: Tensor, tolerance: int = 0) -> Floats:
    """Pointing game: whether the maximum of a map lies in the lesion (Zhang et al., IJCV 126, 2018, section 4.2).

    Args:
        maps: (B, S, S) in [0, 1].
        masks: (B, S, S) uint8, 1 where the lesion is.
        tolerance: Pixels that the point may miss the lesion by, along rows and columns.

    Returns:
        (B,): 1 for a hit, 0 for a miss, shares where several pixels are the maximum; an empty map points
        nowhere and misses. NaN where there is no lesion.
    """
    highest = maps.amax(dim=(1, 2), keepdim=True)
    top = (maps == highest) & (highest > 0)
    hits = (top & widened(masks, tolerance)).sum(dim=(1, 2)) / top.sum(dim=(1, 2)).clamp_min(1)
    return _where_lesion(hits, masks)


def energy(maps: Tensor, masks: Tensor) -> Floats:
    """Share of a map's sum that lies in the lesion (the energy-based pointing game of Wang et al., 2020).

    Args:
        maps: (B, S, S) in [0, 1].
        masks: (B, S, S) uint8.

    Returns:
        (B,) in [0, 1], 0 for an empty map, NaN where there is no lesion.
    """
    total = maps.double().sum(dim=(1, 2))
    inside = (maps.double() * (masks > 0)).sum(dim=(1, 2))
    return _where_lesion(inside / torch.where(total > 0, total, 1), masks)


def iou(maps: Tensor, masks: Tensor, level: float = 0.5) -> Floats:
    """Intersection over union of the lesion and the part of a map that reaches a level.

    Args:
        maps: (B, S, S) in [0, 1].
        masks: (B, S, S) uint8.
        level: Share of the maximum from which a pixel counts, in (0, 1].

    Returns:
        (B,) in [0, 1], 0 for an empty map, NaN where there is no lesion.
    """
    called, lesion = maps >= level, masks > 0
    union = (called | lesion).sum(dim=(1, 2))
    return _where_lesion((called & lesion).sum(dim=(1, 2)) / union.clamp_min(1), masks)


def centre_pointing(masks: Tensor, tolerance: int = 0) -> Floats:
    """What the pointing game gives to the middle of the image: the share of its 1, 2 or 4 middle pixels in the lesion.

    Args:
        masks: (B, S, S) uint8.
        tolerance: As in :func:`pointing`.

    Returns:
        (B,) in [0, 1], NaN where there is no lesion.
    """
    edge = masks.shape[-1]
    middle = slice((edge - 1) // 2, edge // 2 + 1)
    hits = widened(masks, tolerance)[:, middle, middle].double().mean(dim=(1, 2))
    return _where_lesion(hits, masks)


def random_pointing(masks: Tensor, tolerance: int = 0) -> Floats:
    """What the pointing game gives to a random pixel, exactly: the share of the image that counts as a hit.

    It is also the energy of an even map. Arguments and result as in :func:`centre_pointing`.
    """
    return _where_lesion(widened(masks, tolerance).double().mean(dim=(1, 2)), masks)


def widened(masks: Tensor, tolerance: int) -> Tensor:
    """(B, S, S) masks to bool, wider by ``tolerance`` pixels along rows and columns."""
    if not tolerance:
        return masks > 0
    wide = nn.functional.max_pool2d((masks > 0).float()[:, None], 2 * tolerance + 1, stride=1, padding=tolerance)
    return wide[:, 0] > 0


def _where_lesion(values: Tensor, masks: Tensor) -> Floats:
    lesion = (masks > 0).any(dim=2).any(dim=1)
    return torch.where(lesion, values.double(), torch.nan).cpu().numpy()
