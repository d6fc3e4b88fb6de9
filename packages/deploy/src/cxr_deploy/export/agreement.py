"""Agreement of an 8-bit file with its float file: decisions at thresholds fitted to the float file's answers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.models.decisions import decide
from cxr_data.models.header import Header
from cxr_data.models.metrics import macro

LEAST_AGREEMENT = 0.97
"""Share of decisions below which the thresholds do not fit the 8-bit file any more."""
RESAMPLES = 2000


def agreement(
    targets: NDArray[np.float32],
    reference: NDArray[np.float32],
    scores: NDArray[np.float32],
    header: Header,
    before: Header | None = None,
) -> dict[str, float | None]:
    """How far the decisions of an 8-bit file are those of the float file.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        reference: (N, L) probabilities of the float file.
        scores: (N, L) probabilities of the 8-bit file.
        header: Task and thresholds of both.
        before: Header of the float file, where it has thresholds of its own.

    Returns:
        "agreement": the share of decisions that are the same (of an image's findings each, or of its class);
        "sensitivity_change" and "specificity_change": 8 bits minus float, mean over labels, or of the positive one of
        two classes; None where undefined.
    """
    task = header.task or "multilabel"
    given, after = _decisions(reference, scores, header, before)
    same = _same(given, after, task)
    columns = slice(1, None) if task == "multiclass" and len(header.labels) == 2 else slice(None)
    report: dict[str, float | None] = {"agreement": float(same.mean())}
    for name, value in (("sensitivity_change", 1), ("specificity_change", 0)):
        change = macro(_rate(targets, after, value)[columns]) - macro(_rate(targets, given, value)[columns])
        report[name] = change if np.isfinite(change) else None
    return report


def resampled(
    reference: NDArray[np.float32],
    scores: NDArray[np.float32],
    patients: NDArray[Any],
    header: Header,
    before: Header | None = None,
) -> dict[str, float]:
    """95 % interval of the share of equal decisions, from bootstrap resamples of patients (percentiles).

    Args:
        reference: As in :func:`agreement`.
        scores: As in :func:`agreement`.
        patients: (N,) patient of each image.
        header: As in :func:`agreement`.
        before: As in :func:`agreement`.

    Returns:
        "agreement_low" and "agreement_high".
    """
    same = _same(*_decisions(reference, scores, header, before), header.task or "multilabel")
    patient = np.unique(patients, return_inverse=True)[1]
    share = same.reshape(len(same), -1).mean(axis=1)
    equal, images = np.bincount(patient, share), np.bincount(patient)
    drawn = np.random.default_rng(0).multinomial(len(images), np.full(len(images), 1 / len(images)), RESAMPLES)
    low, high = np.percentile((drawn @ equal) / (drawn @ images), [2.5, 97.5])
    return {"agreement_low": float(low), "agreement_high": float(high)}


def _decisions(
    reference: NDArray[np.float32], scores: NDArray[np.float32], header: Header, before: Header | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N, L) decisions of the float file and of the 8-bit one."""
    task = header.task or "multilabel"
    return decide(reference, (before or header).thresholds, task), decide(scores, header.thresholds, task)


def _same(given: NDArray[np.bool_], after: NDArray[np.bool_], task: str) -> NDArray[np.bool_]:
    """(N,) for classes, (N, L) for labels: whether both decide alike."""
    return (given == after).all(axis=1) if task == "multiclass" else given == after


def _rate(targets: NDArray[np.float32], decisions: NDArray[np.bool_], value: int) -> NDArray[np.float64]:
    """(L,) share of the images with this target whose decision is right; NaN where a label has none."""
    counted = targets == value
    count = counted.sum(axis=0)
    right = (counted & (decisions == bool(value))).sum(axis=0)
    return np.divide(right, count, out=np.full(len(count), np.nan), where=count > 0)
