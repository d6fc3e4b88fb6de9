"""What 8 bits change beside the ranking: the decisions, by thresholds that were fitted to the float file's answers."""

import numpy as np
from numpy.typing import NDArray

from cxr_data.decisions import decide
from cxr_data.header import Header
from cxr_data.metrics import macro

LEAST_AGREEMENT = 0.97
"""Share of decisions below which the thresholds do not fit the 8-bit file any more."""


def agreement(
    targets: NDArray[np.float32], reference: NDArray[np.float32], scores: NDArray[np.float32], header: Header
) -> dict[str, float | None]:
    """How far the decisions of an 8-bit file are those of the float file.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        reference: (N, L) probabilities of the float file.
        scores: (N, L) probabilities of the 8-bit file.
        header: Task and thresholds of both.

    Returns:
        "agreement": the share of decisions that are the same (of an image's findings each, or of its class);
        "sensitivity_change" and "specificity_change": 8 bits minus float, mean over labels, or of the positive one of
        two classes; None where undefined.
    """
    task = header.task or "multilabel"
    before, after = (decide(p, header.thresholds, task) for p in (reference, scores))
    same = (before == after).all(axis=1) if task == "multiclass" else before == after
    columns = slice(1, None) if task == "multiclass" and len(header.labels) == 2 else slice(None)
    report: dict[str, float | None] = {"agreement": float(same.mean())}
    for name, value in (("sensitivity_change", 1), ("specificity_change", 0)):
        change = macro(_rate(targets, after, value)[columns]) - macro(_rate(targets, before, value)[columns])
        report[name] = change if np.isfinite(change) else None
    return report


def _rate(targets: NDArray[np.float32], decisions: NDArray[np.bool_], value: int) -> NDArray[np.float64]:
    """(L,) share of the images with this target whose decision is right; NaN where a label has none."""
    counted = targets == value
    count = counted.sum(axis=0)
    right = (counted & (decisions == bool(value))).sum(axis=0)
    return np.divide(right, count, out=np.full(len(count), np.nan), where=count > 0)
