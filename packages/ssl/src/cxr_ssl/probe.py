"""Linear probe: how well a linear classifier reads the labels from frozen features.

The SwAV loss does not track transfer quality, so the weights to keep are chosen by this, on validation
images.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cxr_common.inference import outputs
from cxr_data.cohort import Cohort
from cxr_data.metrics import auroc, macro

PENALTIES = np.logspace(-5, 1, 13)
"""Ridge penalties tried, as multiples of the mean variance times the number of images."""

MOST_IMAGES = 20_000
"""Most images of a split that are looked at: more would change the time, hardly the answer."""


def probe_backbone(
    backbone: nn.Module, cohort: Cohort, size: int, *, seed: int = 0, precision: torch.dtype = torch.float32
) -> dict[str, float | None]:
    """Linear probe of a backbone as it is: fitted on training images, judged on validation images.

    Args:
        backbone: Network from (B, 1, size, size) uint8 to features (B, F).
        cohort: The cohort.
        size: Edge of the network input.
        seed: Chooses the tenth of the training images, and the images looked at where there are very many.
        precision: Arithmetic of the forward.

    Returns:
        "probe_auroc", the macro mean over labels, and "probe_auroc_10", the same with a tenth of the training
        images; None where undefined (no labels, or a class is missing in a split).
    """
    targets, splits = cohort.targets, []
    for stream, split in enumerate(("train", "val")):
        rows = cohort.rows(split)
        rows = rows[~np.isnan(targets[rows]).all(axis=1)]
        splits.append(np.sort(np.random.default_rng([seed, stream]).permutation(rows)[:MOST_IMAGES]))
    train, val = splits
    if not len(train) or not len(val):
        return {"probe_auroc": None, "probe_auroc_10": None}
    features, judged = (outputs(backbone, cohort.pixels, rows, size, precision=precision) for rows in splits)
    few = np.random.default_rng([seed, 2]).permutation(len(train))[: -(-len(train) // 10)]
    figures: dict[str, float | None] = {}
    for name, part in (("probe_auroc", np.arange(len(train))), ("probe_auroc_10", few)):
        area = macro(linear_probe(features[part], targets[train[part]], judged, targets[val]))
        figures[name] = area if np.isfinite(area) else None
    return figures


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
    labels = train_targets.shape[1]
    scores = np.full(val_targets.shape, np.nan)
    if not (np.isfinite(train_features).all() and np.isfinite(val_features).all()):
        return np.full(labels, np.nan)
    known = ~np.isnan(train_targets)
    both = np.array([len(np.unique(train_targets[known[:, i], i])) == 2 for i in range(labels)], dtype=bool)
    for pattern in np.unique(known[:, both].T, axis=0):
        same = np.flatnonzero(both & (known == pattern[:, None]).all(0))
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
    if n >= x.shape[1]:
        values, v = np.linalg.eigh(x.T @ x)
        s = np.sqrt(np.clip(values, 0, None))
        kept = s > 1e-7 * max(s.max(), 1e-300)
        s, v = s[kept], v[:, kept]
        uty = (v.T @ (x.T @ y)) / s[:, None]
        projected = new @ v
    else:
        values, u = np.linalg.eigh(x @ x.T)
        s = np.sqrt(np.clip(values, 0, None))
        kept = s > 1e-7 * max(s.max(), 1e-300)
        s, u = s[kept], u[:, kept]
        uty = u.T @ y
        projected = (new @ x.T) @ (u / s)
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
