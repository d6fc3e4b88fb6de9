"""ROC and precision-recall curves, thinned for drawing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_eval.metrics.classification import operating_points

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Operating points of one label, from the strictest threshold to the laxest.

    Attributes:
        thresholds: (K,) descending, the first inf; an image is positive when its probability >= threshold.
        tp: (K,) true positives.
        fp: (K,) false positives.
        positives: Known positives.
        negatives: Known negatives.
    """

    thresholds: Floats
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    positives: int
    negatives: int

    @property
    def roc(self) -> tuple[Floats, Floats]:
        """False positive rate and sensitivity, (K,) each; empty when a class is missing."""
        if not self.positives or not self.negatives:
            return np.empty(0), np.empty(0)
        return self.fp / self.negatives, self.tp / self.positives

    @property
    def precision_recall(self) -> tuple[Floats, Floats]:
        """Recall and precision at every finite threshold, (K-1,) each; empty without positives."""
        if not self.positives or len(self.tp) < 2:
            return np.empty(0), np.empty(0)
        return self.tp[1:] / self.positives, self.tp[1:] / (self.tp[1:] + self.fp[1:])


def curves(target: NDArray, score: NDArray) -> Curves:
    """Every operating point of one label.

    Args:
        target: (N,) in {0, 1, NaN}.
        score: (N,) probabilities.

    Returns:
        The exact curve, one point a distinct score.
    """
    known = ~np.isnan(target)
    tp, fp, thresholds = operating_points(target[known], score[known])
    return Curves(thresholds, tp, fp, int(tp[-1]), int(fp[-1]))


def thin(curve: Curves, points: int = 240, keep: float | None = None) -> Curves:
    """Leave out operating points that a drawing does not need.

    Points are kept at even steps along the ROC curve's own length (false positive rate + sensitivity), and
    at both ends of any longer jump, so the area under the straight-line curve changes by less than
    ``1/points``.

    Args:
        curve: The exact curve.
        points: About how many points to keep.
        keep: A threshold whose operating point stays in any case (the model's own).

    Returns:
        The thinned curve; the same one when it is short enough.
    """
    count = len(curve.tp)
    if count <= points:
        return curve
    length = curve.tp / max(curve.positives, 1) + curve.fp / max(curve.negatives, 1)
    steps = np.linspace(0, length[-1], points)
    jumps = np.flatnonzero(np.diff(length) > steps[1])
    chosen = np.concatenate([np.searchsorted(length, steps).clip(0, count - 1), jumps, jumps + 1, [0, count - 1]])
    if keep is not None:
        chosen = np.append(chosen, index_of(curve, keep))
    chosen = np.unique(chosen)
    return Curves(curve.thresholds[chosen], curve.tp[chosen], curve.fp[chosen], curve.positives, curve.negatives)


def index_of(curve: Curves, threshold: float) -> int:
    """The operating point in force at a threshold: the last one whose own threshold is not below it."""
    return int(np.searchsorted(-curve.thresholds, -threshold, side="right")) - 1
