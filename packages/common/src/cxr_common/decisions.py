"""From logits to probabilities to decisions; what is fitted here is fitted on validation data only."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_common.errors import unknown_name

Array = NDArray[np.float64]


def probabilities(logits: ArrayLike, task: str, calibration: dict[str, Any] | None = None) -> Array:
    """Probability of every label.

    Args:
        logits: (N, L).
        task: "multiclass" (softmax over the labels) or "multilabel" (sigmoid of each).
        calibration: ``{"temperature": T}`` divides the logits by T > 0 first; None is T = 1.

    Returns:
        (N, L) in [0, 1].
    """
    scaled = np.asarray(logits, np.float64) / (calibration or {}).get("temperature", 1.0)
    if task == "multiclass":
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    # tanh is the sigmoid that does not overflow
    return 0.5 * (1 + np.tanh(0.5 * scaled))


def fit_temperature(logits: ArrayLike, targets: ArrayLike, task: str) -> float:
    """Temperature that minimises the negative log-likelihood (Guo et al. 2017), by golden section on log T.

    Args:
        logits: (N, L).
        targets: (N, L) in {0, 1, NaN}; one-hot in multiclass.
        task: "multiclass" or "multilabel".

    Returns:
        T in [0.05, 20]; 1 where no target is known.
    """
    logit, target = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    known = ~np.isnan(target)
    if not known.any():
        return 1.0

    def loss(log_t: float) -> float:
        scaled = logit / np.exp(log_t)
        if task == "multiclass":
            top = scaled.max(axis=1, keepdims=True)
            log_p = scaled - top - np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
            return -float(np.where(known, target * log_p, 0).sum())
        return float(np.where(known, np.logaddexp(0, scaled) - target * scaled, 0).sum())

    return float(np.exp(_golden_section(loss, np.log(0.05), np.log(20.0))))


def _golden_section(f: Callable[[float], float], low: float, high: float, steps: int = 60) -> float:
    ratio = (5**0.5 - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    for _ in range(steps):
        if fa <= fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return (low + high) / 2


def fit_thresholds(probs: ArrayLike, targets: ArrayLike, task: str, rule: str = "youden") -> tuple[float, ...]:
    """Decision threshold of every label, on validation data.

    Candidates lie half-way between neighbouring probabilities, so that the choice does not hug a case.
    "youden" maximises sensitivity + specificity - 1, which does not depend on prevalence (test sets are
    often balanced otherwise than training sets); "f1" maximises F1.

    Args:
        probs: (N, L) in [0, 1].
        targets: (N, L) in {0, 1, NaN}.
        task: "multiclass" or "multilabel".
        rule: "youden" or "f1".

    Returns:
        (L,) thresholds; 0.5 where a label lacks positives or negatives. Two classes: labels[1] decides and
        the pair sums to 1. More classes are decided by the largest probability: empty.
    """
    if rule not in RULES:
        raise unknown_name("threshold rule", rule, RULES)
    p, target = np.asarray(probs, np.float64), np.asarray(targets, np.float64)
    if task == "multiclass" and p.shape[1] != 2:
        return ()
    fitted = [_best_threshold(p[:, i], target[:, i], RULES[rule]) for i in range(p.shape[1])]
    return (1 - fitted[1], fitted[1]) if task == "multiclass" else tuple(fitted)


def _best_threshold(p: Array, target: Array, score: Callable[[Array, Array, int, int], Array]) -> float:
    known = ~np.isnan(target)
    p, positive = p[known], target[known] > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return 0.5
    values, inverse = np.unique(p, return_inverse=True)
    if len(values) == 1:
        return 0.5
    # Cases at or above each distinct value: what a threshold just below it calls positive.
    hits = np.bincount(inverse, positive, len(values))[::-1].cumsum()[::-1]
    alarms = np.bincount(inverse, ~positive, len(values))[::-1].cumsum()[::-1]
    best = 1 + int(np.argmax(score(hits, alarms, n_positive, n_negative)[1:]))
    return float((values[best - 1] + values[best]) / 2)


def _youden(hits: Array, alarms: Array, n_positive: int, n_negative: int) -> Array:
    return hits / n_positive - alarms / n_negative


def _f1(hits: Array, alarms: Array, n_positive: int, n_negative: int) -> Array:
    return 2 * hits / (hits + alarms + n_positive)


RULES = {"youden": _youden, "f1": _f1}


def decide(probs: ArrayLike, thresholds: tuple[float, ...] | None, task: str) -> NDArray[np.bool_]:
    """Whether each label is called.

    Args:
        probs: (N, L) in [0, 1].
        thresholds: From :func:`fit_thresholds`; None or empty means 0.5 (multiclass: the largest).
        task: "multiclass" or "multilabel".

    Returns:
        (N, L); exactly one true a row in multiclass.
    """
    p = np.asarray(probs, np.float64)
    if task == "multilabel":
        return p >= np.asarray(thresholds or [0.5] * p.shape[1])
    if p.shape[1] == 2 and thresholds:
        positive = p[:, 1] >= thresholds[1]
        return np.stack([~positive, positive], axis=1)
    return np.arange(p.shape[1]) == p.argmax(axis=1, keepdims=True)
