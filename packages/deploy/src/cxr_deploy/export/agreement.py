"""What 8 bits change beside the ranking: the decisions, by thresholds that were fitted to the float file's answers."""

import numpy as np
from numpy.typing import NDArray

from cxr_common.checkpoint import Header
from cxr_data.decisions import decide
from cxr_data.metrics import macro
from cxr_eval.metrics.classification import per_label

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
    figures = [per_label(targets, p, d, ("recall", "specificity")) for p, d in ((reference, before), (scores, after))]
    found: dict[str, float | None] = {"agreement": float(same.mean())}
    for name, key in (("sensitivity_change", "recall"), ("specificity_change", "specificity")):
        change = macro(figures[1][key][columns]) - macro(figures[0][key][columns])
        found[name] = change if np.isfinite(change) else None
    return found
