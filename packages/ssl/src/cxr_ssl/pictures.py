"""Contents of the picture page of a run: which images, where on the map, in which colour."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_common.inference import outputs
from cxr_data.augment import whole
from cxr_data.cohorts.cohort import Cohort

MOST_IMAGES = 1000
"""Most images that are used for the strips, and for the map."""
PROTOTYPES, NEAREST, EDGE = 8, 6, 96
"""Strips shown, images of each, and their edge in pixels."""
MOST_LABELS = 6
"""Most labels of which a multi-label cohort gets a map of its own."""
FEWEST_FOR_TSNE = 50
"""Below, neighbourhoods mean nothing, and the plane of largest variance says it all."""


def nearest_to_prototypes(
    module: torch.nn.Module,
    scores_of: Callable[[torch.Tensor], torch.Tensor],
    cohort: Cohort,
    size: int,
    *,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """Training images nearest to the most used prototypes.

    Args:
        module: Network with prototypes, as it is; put in eval mode.
        scores_of: Function of (B, 1, S, S) uint8 to scores against the prototypes, (B, K).
        cohort: The cohort.
        size: Edge of the network input.
        seed: Chooses the images looked at where there are very many.
        precision: Arithmetic of the forward.

    Returns:
        For each of at most PROTOTYPES prototypes, most used first: "heading", which tells the share of the images
        nearest to it, and "images" (n, EDGE, EDGE) uint8, at most NEAREST, nearest first. Prototypes that are
        nearest to no image are not shown.
    """
    rows = _some(cohort.rows("train"), seed)
    scores = outputs(_Scores(module, scores_of), cohort.pixels, rows, size, precision=precision)
    used = np.bincount(scores.argmax(1), minlength=scores.shape[1])
    chosen = [k for k in np.argsort(-used, kind="stable")[:PROTOTYPES] if used[k]]
    strips = []
    for number, prototype in enumerate(chosen, start=1):
        best = rows[np.argsort(-scores[:, prototype], kind="stable")[: min(NEAREST, len(rows))]]
        heading = f"Prototype {number}: nearest of {used[prototype] / len(rows):.1%} of the images"
        strips.append({"heading": heading, "images": _pictures(cohort, best)})
    return strips


def nearest_images(
    backbone: torch.nn.Module,
    cohort: Cohort,
    size: int,
    *,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """Some training images, each with those of the most similar features.

    Args:
        backbone: Network from pixels to features.
        cohort: The cohort.
        size: Edge of the network input.
        seed: Chooses the images.
        precision: Arithmetic of the forward.

    Returns:
        At most PROTOTYPES strips: "heading" and "images" (n, EDGE, EDGE) uint8, the image itself first.
    """
    rows = _some(cohort.rows("train"), seed)
    features = outputs(backbone, cohort.pixels, rows, size, precision=precision)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    strips = []
    for number, query in enumerate(np.random.default_rng([seed, 0x9E1]).permutation(len(rows))[:PROTOTYPES], start=1):
        cosines = features @ features[query]
        cosines[query] = np.inf  # the image itself comes first
        nearest = rows[np.argsort(-cosines, kind="stable")[:NEAREST]]
        strips.append({"heading": f"Image {number} and its nearest", "images": _pictures(cohort, nearest)})
    return strips


def _pictures(cohort: Cohort, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    return whole(np.stack([cohort.pixels[row] for row in rows]), EDGE)


class _Scores(torch.nn.Module):
    """Images in, scores against the prototypes out."""

    def __init__(self, module: torch.nn.Module, scores_of: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.module, self.scores_of = module, scores_of

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) uint8 to (B, K)."""
        return self.scores_of(pixels)


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
        map for each of the commonest; empty groups are left out.
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
