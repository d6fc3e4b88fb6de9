"""What the picture page of a run shows: which images, where on the map, in which colour."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_common.inference import outputs
from cxr_data.augment import whole
from cxr_data.cohort import Cohort
from cxr_ssl.swav import SwAV

MOST_IMAGES = 1000
"""Most images that are looked at for the prototypes, and for the map."""
PROTOTYPES, NEAREST, EDGE = 8, 6, 96
"""Prototypes shown, images shown of each, and their edge in pixels."""
MOST_LABELS = 6
"""Most labels of which a multi-label cohort gets a map of its own."""
FEWEST_FOR_TSNE = 50
"""Below, neighbourhoods mean nothing, and the plane of largest variance says it all."""


def nearest_images(
    swav: SwAV, cohort: Cohort, size: int, *, seed: int = 0, precision: torch.dtype = torch.float32
) -> list[dict[str, Any]]:
    """Training images nearest to the most used prototypes.

    Args:
        swav: The network as it is; put in eval mode.
        cohort: The cohort.
        size: Edge of the network input.
        seed: Chooses the images looked at where there are very many.
        precision: Arithmetic of the forward.

    Returns:
        For each of at most PROTOTYPES prototypes, most used first: "share" of the images nearest to it, in [0, 1],
        and "images" (n, EDGE, EDGE) uint8, at most NEAREST, nearest first. Prototypes nobody is nearest to are not
        shown.
    """
    rows = _some(cohort.rows("train"), seed)
    scores = outputs(_Scores(swav), cohort.pixels, rows, size, precision=precision)
    used = np.bincount(scores.argmax(1), minlength=scores.shape[1])
    chosen = [k for k in np.argsort(-used, kind="stable")[:PROTOTYPES] if used[k]]
    shown = []
    for prototype in chosen:
        best = rows[np.argsort(-scores[:, prototype], kind="stable")[: min(NEAREST, len(rows))]]
        images = whole(np.stack([cohort.pixels[row] for row in best]), EDGE)
        shown.append({"share": used[prototype] / len(rows), "images": images})
    return shown


class _Scores(torch.nn.Module):
    """Images in, scores against the prototypes out."""

    def __init__(self, swav: SwAV):
        super().__init__()
        self.swav = swav

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) uint8 to (B, K)."""
        return self.swav([pixels[None]])[1][0]


def maps(
    backbone: torch.nn.Module, cohort: Cohort, size: int, *, seed: int = 0, precision: torch.dtype = torch.float32
) -> list[dict[str, Any]]:
    """The features of validation images (training images where there are none) in two dimensions.

    Args:
        backbone: Network from pixels to features.
        cohort: The cohort.
        size: Edge of the network input.
        seed: Chooses the images where there are very many, and starts t-SNE.
        precision: Arithmetic of the forward.

    Returns:
        Entries for :func:`cxr_ssl.picture_page.page`: principal components and, where there are enough images,
        t-SNE, coloured by class; for findings one map each of the commonest.
    """
    split = "val" if len(cohort.rows("val")) else "train"
    rows = _some(cohort.rows(split), seed)
    if len(rows) < 2:
        return []
    features = outputs(backbone, cohort.pixels, rows, size, precision=precision).astype(np.float64)
    if not np.isfinite(features).all():
        return []
    plane = principal_plane(features)
    drawn = {f"principal components of {len(rows)} {split} images": plane}
    if len(rows) >= FEWEST_FOR_TSNE:
        drawn[f"t-SNE of {len(rows)} {split} images"] = _tsne(features, seed)
    colourings = groups(cohort, rows)
    return [
        {"title": f"{title}{': ' + label if label else ''}", "points": points, "groups": members}
        for title, points in drawn.items()
        for label, members in colourings.items()
    ]


def principal_plane(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two directions of largest variance; (N, F) to (N, 2)."""
    centred = features - features.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(features), 2))
    kept = min(2, len(s))
    plane[:, :kept] = u[:, :kept] * s[:kept]
    return plane


def _tsne(features: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    u, s, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    few = (u * s)[:, :50]
    perplexity = min(30.0, len(features) / 4)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500).fit_transform(few)


def groups(cohort: Cohort, rows: NDArray[np.int64]) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """How the map is coloured.

    Returns:
        Name of a map -> name of a group -> (M,) bool. One unnamed map with a group a class; or, for findings, one
        map for each of the commonest; groups nobody is in are left out.
    """
    targets = cohort.targets[rows]
    if not cohort.labels:
        return {"": {"all": np.ones(len(rows), bool)}}
    if cohort.task == "multiclass":
        members = {"unknown": np.asarray(np.isnan(targets).all(1))}
        members |= {name: targets[:, i] == 1 for i, name in enumerate(cohort.labels)}
        return {"": _inhabited(members)}
    absent, present, unknown = targets == 0, targets == 1, np.isnan(targets)
    commonest = np.argsort(-present.sum(0), kind="stable")[:MOST_LABELS]
    return {
        cohort.labels[i]: _inhabited({"absent": absent[:, i], "present": present[:, i], "unknown": unknown[:, i]})
        for i in commonest
    }


def _inhabited(members: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    return {name: chosen for name, chosen in members.items() if chosen.any()}


def _some(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng([seed, 0x91C]).permutation(rows)[:MOST_IMAGES])
