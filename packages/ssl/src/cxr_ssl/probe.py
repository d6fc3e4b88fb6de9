"""How well frozen features tell the labels: linear probe and nearest neighbours; and how many directions they use.

Pretraining losses do not track transfer quality, so the weights to keep are chosen by the linear probe, on
validation images.
"""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cxr_common.inference import distributed_outputs
from cxr_common.training.processes import broadcast_from_main
from cxr_data.cohorts.cohort import Cohort
from cxr_data.models.metrics import auroc, macro

if TYPE_CHECKING:
    from accelerate import Accelerator

PENALTIES = np.logspace(-5, 1, 13)
"""Ridge penalties tried, as multiples of the mean variance times the number of images."""

MOST_IMAGES = 20_000
"""Most images of a split that are looked at: more would change the time, hardly the answer."""


NEIGHBOURS, TEMPERATURE = 20, 0.07
"""Of the k-NN classifier, as in Caron et al. 2021 (DINO)."""

MOST_FOR_RANK = 5_000
"""Most training images of which the rank of the features is computed."""


def probe_backbone(
    backbone: nn.Module,
    cohort: Cohort,
    size: int,
    accelerator: "Accelerator",
    *,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
    workers: int | None = None,
) -> dict[str, float | None]:
    """Linear probe and nearest neighbours of a backbone: training images classify validation images.

    Args:
        backbone: Network from (B, 1, size, size) uint8 to features (B, F).
        cohort: The cohort.
        size: Edge of the network input.
        accelerator: Its processes share the images; all must call this together, and all get the same figures.
        seed: Chooses the tenth of the training images, and the images looked at where there are very many.
        precision: Arithmetic of the forward.
        workers: Threads that prepare images; None chooses.

    Returns:
        "probe_auroc", the macro mean over labels; "probe_auroc_10", the same with a tenth of the training images;
        "knn_auroc", of the nearest neighbours; and "rankme" in [1, F], see `rankme`. None where undefined (no
        labels, or a class is missing in a split).
    """
    features_of = functools.partial(
        distributed_outputs,
        backbone,
        cohort.pixels,
        size=size,
        accelerator=accelerator,
        precision=precision,
        workers=workers,
    )
    targets, splits = cohort.targets, []
    for stream, split in enumerate(("train", "val")):
        rows = cohort.rows(split)
        rows = rows[~np.isnan(targets[rows]).all(axis=1)]
        splits.append(np.sort(np.random.default_rng([seed, stream]).permutation(rows)[:MOST_IMAGES]))
    train, val = splits
    figures: dict[str, float | None] = {"probe_auroc": None, "probe_auroc_10": None, "knn_auroc": None}
    if not len(train) or not len(val):
        rows = np.random.default_rng([seed, 0]).permutation(cohort.rows("train"))[:MOST_FOR_RANK]
        figures["rankme"] = rankme(features_of(rows=np.sort(rows)))
        return broadcast_from_main(figures, accelerator)
    features, judged = features_of(rows=train), features_of(rows=val)
    few = np.random.default_rng([seed, 2]).permutation(len(train))[: -(-len(train) // 10)]
    areas = {
        name: linear_probe(features[part], targets[train[part]], judged, targets[val])
        for name, part in (("probe_auroc", np.arange(len(train))), ("probe_auroc_10", few))
    }
    areas["knn_auroc"] = knn_probe(features, targets[train], judged, targets[val])
    for name, area in areas.items():
        mean = macro(area)
        figures[name] = mean if np.isfinite(mean) else None
    figures["rankme"] = rankme(features[:MOST_FOR_RANK])
    return broadcast_from_main(figures, accelerator)


def rankme(features: NDArray[np.floating]) -> float | None:
    """Effective rank of features, which needs no labels.

        exp(- sum_k p_k ln p_k),   p_k = s_k / sum_j s_j

    with the singular values s of the features (Garrido et al. 2023, "RankMe", eq. 2). Low values mean that the
    features use few directions, as after a collapse.

    Args:
        features: (N, F), not centred.

    Returns:
        A number in [1, min(N, F)]; None where features are not finite or all 0.
    """
    if not np.isfinite(features).all() or not features.any():
        return None
    x = features.astype(np.float64)
    gram = x.T @ x if len(x) >= x.shape[1] else x @ x.T
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    shares = singular[singular > 1e-7 * singular.max()]
    shares /= shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def knn_probe(
    train_features: NDArray[np.floating],
    train_targets: NDArray[np.floating],
    val_features: NDArray[np.floating],
    val_targets: NDArray[np.floating],
) -> NDArray[np.float64]:
    """AUROC on validation images of their nearest training images.

    The score of a label is the mean over the 20 training images of highest cosine c for which it is known, weighted
    with exp(c / .07) (Wu et al. 2018; Caron et al. 2021).

    Args:
        train_features: (N, F) features of training images.
        train_targets: (N, L) in {0, 1, NaN}.
        val_features: (M, F).
        val_targets: (M, L) in {0, 1, NaN}.

    Returns:
        (L,) AUROC in [0, 1]; NaN where either set lacks positives or negatives of a label, or features are not
        finite.
    """
    if not (np.isfinite(train_features).all() and np.isfinite(val_features).all()):
        return np.full(train_targets.shape[1], np.nan)
    scores = np.full(val_targets.shape, np.nan)
    x, new = _unit(train_features), _unit(val_features)
    for pattern, same in _known_together(train_targets):
        bank, answers = x[pattern], train_targets[np.ix_(pattern, same)].astype(np.float64)
        nearest = min(NEIGHBOURS, len(bank))
        for start in range(0, len(new), 1000):
            cosines = new[start : start + 1000] @ bank.T
            chosen = np.argpartition(-cosines, nearest - 1, axis=1)[:, :nearest]
            weights = np.exp((np.take_along_axis(cosines, chosen, 1) - 1) / TEMPERATURE)
            means = np.einsum("mk,mkl->ml", weights, answers[chosen]) / weights.sum(1, keepdims=True)
            scores[start : start + 1000, same] = means
    return auroc(val_targets, scores)


def _known_together(targets: NDArray[np.floating]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Labels with both outcomes that are known for the same images: these images, (N,), and the labels' columns."""
    known = ~np.isnan(targets)
    both = ((targets == 1).any(0) & (targets == 0).any(0)).astype(bool)
    for pattern in np.unique(known[:, both].T, axis=0):
        yield pattern, np.flatnonzero(both & (known == pattern[:, None]).all(0))


def _unit(features: NDArray[np.floating]) -> NDArray[np.float64]:
    x = features.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def linear_probe(
    train_features: NDArray[np.floating],
    train_targets: NDArray[np.floating],
    val_features: NDArray[np.floating],
    val_targets: NDArray[np.floating],
) -> NDArray[np.float64]:
    """AUROC on validation images of a linear classifier fitted on training features.

    Ridge regression of each label in closed form on standardised features; the penalty is the one of
    PENALTIES with the smallest generalised cross-validation error on the *training* images (Golub, Heath &
    Wahba 1979), so validation images judge and nothing else. Deterministic, and one decomposition serves
    every penalty and every label known on the same images.

    Args:
        train_features: (N, F) features of training images.
        train_targets: (N, L) in {0, 1, NaN}; an image counts for the labels known for it.
        val_features: (M, F).
        val_targets: (M, L) in {0, 1, NaN}.

    Returns:
        (L,) AUROC in [0, 1]; NaN where either set lacks positives or negatives of a label, or features are
        not finite.
    """
    if not (np.isfinite(train_features).all() and np.isfinite(val_features).all()):
        return np.full(train_targets.shape[1], np.nan)
    scores = np.full(val_targets.shape, np.nan)
    for pattern, same in _known_together(train_targets):
        scores[:, same] = _ridge_scores(
            train_features[pattern].astype(np.float64),
            train_targets[np.ix_(pattern, same)].astype(np.float64),
            val_features.astype(np.float64),
        )
    return auroc(val_targets, scores)


def _ridge_scores(x: NDArray[np.float64], y: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge regression of y (N, L) on x (N, F), predicted for new (M, F); penalty by GCV, per label."""
    mean, std = x.mean(0), x.std(0)
    # A constant feature says nothing; dividing by its rounding noise would say a lot.
    std = np.where(std > 1e-6 * (np.abs(mean) + 1e-12), std, np.inf)
    x, new, y = (x - mean) / std, (new - mean) / std, y - y.mean(0)
    n = len(x)
    # x = U diag(s) V', from the eigenvectors of the smaller Gram matrix.
    tall = n >= x.shape[1]
    values, vectors = np.linalg.eigh(x.T @ x if tall else x @ x.T)
    s = np.sqrt(np.clip(values, 0, None))
    kept = s > 1e-7 * max(s.max(), 1e-300)
    s, vectors = s[kept], vectors[:, kept]
    uty = (vectors.T @ (x.T @ y)) / s[:, None] if tall else vectors.T @ y
    projected = new @ vectors if tall else (new @ x.T) @ (vectors / s)
    best_error = np.full(y.shape[1], np.inf)
    scores = np.zeros((len(new), y.shape[1]))
    for penalty in PENALTIES * (s**2).sum() / max(x.shape[1], 1):
        shrink = s**2 / (s**2 + penalty)
        residual = (y**2).sum(0) - (uty**2).sum(0) + (((1 - shrink)[:, None] * uty) ** 2).sum(0)
        error = residual / n / (1 - min((shrink.sum() + 1) / n, 1 - 1e-9)) ** 2
        better = error < best_error
        best_error = np.where(better, error, best_error)
        scores[:, better] = (projected @ ((s / (s**2 + penalty))[:, None] * uty))[:, better]
    return scores
