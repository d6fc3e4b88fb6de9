"""Probabilities and decisions from logits; temperature and thresholds are fitted on validation data only."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_data.errors import require_known
from cxr_data.models.platt import fit_sigmoid, fit_softmax

Array = NDArray[np.float64]


def probabilities(logits: ArrayLike, task: str, calibration: dict[str, Any] | None = None) -> Array:
    """Probability of every label.

    Args:
        logits: (N, L).
        task: "multiclass" (softmax over the labels) or "multilabel" (sigmoid of each).
        calibration: ``{"temperature": T}`` divides the logits by T > 0 first; ``{"scale": [...], "shift": [...]}``
            takes a_k z_k + b_k for each label k; None leaves them.

    Returns:
        (N, L) in [0, 1].
    """
    given = calibration or {}
    scaled = np.asarray(logits, np.float64) / given.get("temperature", 1.0)
    if "scale" in given:
        scaled = scaled * np.asarray(given["scale"], np.float64) + np.asarray(given["shift"], np.float64)
    if task == "multiclass":
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    # tanh is the sigmoid that does not overflow
    return 0.5 * (1 + np.tanh(0.5 * scaled))


def of_several_patients(targets: ArrayLike, patients: ArrayLike) -> Array:
    """Targets without the labels that one patient alone has, or alone has not: a threshold would be that patient's.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        patients: (N,) patient of each image.

    Returns:
        (N, L); such labels, and those of one outcome, are NaN throughout.
    """
    target, patient = np.array(targets, np.float64), np.asarray(patients)
    for column in target.T:
        if min(len(np.unique(patient[column == outcome])) for outcome in (0, 1)) < 2:
            column[:] = np.nan
    return target


def not_fitted(
    logits: ArrayLike,
    targets: ArrayLike,
    labels: Sequence[str],
    task: str,
    method: str = "temperature",
    patients: ArrayLike | None = None,
) -> list[str]:
    """What the validation images cannot calibrate, in sentences.

    Args:
        logits: (N, L) of the validation images.
        targets: (N, L) in {0, 1, NaN}.
        labels: L names.
        task: "multiclass" or "multilabel".
        method: As in `fit_calibration`.
        patients: (N,) patient of each image; None counts each image as one.
    """
    target = np.asarray(targets, np.float64)
    patient = np.arange(len(target)) if patients is None else np.asarray(patients)
    notes = []
    if task == "multiclass":
        held = [label for label, column in zip(labels, target.T, strict=True) if (column == 1).any()]
        if len(held) < 2:
            only = f"images of one class only ({held[0]})" if held else "no labelled image"
            kept = "temperature 1 and threshold 0.5 are kept, not fitted, and AUROC is undefined"
            return [f"the validation part has {only}: {kept}"]
        if absent := [label for label in labels if label not in held]:
            notes.append(
                f"no validation image of {', '.join(absent)}: nothing tells how well the others are told from it"
            )
    if task != "multiclass" or len(labels) == 2:
        for label, column in list(zip(labels, target.T, strict=True))[task == "multiclass" :]:
            counts = {word: len(np.unique(patient[column == value])) for word, value in (("with", 1), ("without", 0))}
            few, word = min((count, word) for word, count in counts.items())
            if few < 2:
                who = "only one validation patient" if few else "no validation image"
                what = "threshold of 0.5 is" if task == "multiclass" else "threshold of 0.5 and its scale are"
                alone = "" if few else "; it is left out of the mean AUROC"
                notes.append(f"{who} {word} {label}: its {what} not fitted{alone}")
    used = target if task == "multiclass" else of_several_patients(target, patient)
    spread = np.ptp(logits, axis=0) if len(target) > 1 else np.full(len(labels), np.inf)
    alike = (spread < _ALIKE) & ~np.isnan(used).all(axis=0)
    if alike.all() or (alike.any() and task != "multiclass"):
        names = ", ".join(label for label, one in zip(labels, alike, strict=True) if one)
        notes.append(f"all validation images are answered alike for {names}: nothing was learnt of it")
    if method == "temperature" and not alike.all() and (reason := _likeliest_temperature(logits, used, task)[1]):
        notes.append(reason)
    if method == "platt" and task == "multiclass" and _separated(np.asarray(logits, np.float64), target, task):
        notes.append(f"{_SEPARATED}: slope 1 and shifts 0 are kept, not fitted")
    return notes


_SEPARATED = "the classifier makes no error on the validation images, so that the more certain the likelier"
_COLDEST, _WARMEST = 0.05, 20.0  # temperatures
_ALIKE = 1e-4
"""Spread of the logits of a label up to which it says nothing of the images."""


def _separated(logit: Array, target: Array, task: str) -> bool:
    """Whether no decision on a known target is wrong; labels with one outcome only do not count."""
    positive = target == 1
    if task == "multiclass":
        labelled = positive.any(axis=1)
        own = np.where(positive, logit, -np.inf).max(axis=1)
        other = np.where(positive, -np.inf, logit).max(axis=1)
        return bool((own > other)[labelled].all())
    known = ~np.isnan(target) & positive.any(axis=0) & (target == 0).any(axis=0)
    return bool((np.where(positive, logit, -logit) > 0)[known].all())


def _likeliest_temperature(logits: ArrayLike, targets: ArrayLike, task: str) -> tuple[float, str]:
    """The temperature, and what is to be said where none was fitted or it ended at its bound."""
    logit, target = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    known = ~np.isnan(target) & (target == 1).any(axis=0) & (target == 0).any(axis=0)
    if not known.any():
        return 1.0, ""
    if _separated(logit, target, task):
        return 1.0, f"{_SEPARATED}: temperature 1 is kept, not fitted"

    def loss(log_t: float) -> float:
        scaled = logit / np.exp(log_t)
        if task == "multiclass":
            top = scaled.max(axis=1, keepdims=True)
            log_p = scaled - top - np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
            return -float(np.where(known, target * log_p, 0).sum())
        return float(np.where(known, np.logaddexp(0, scaled) - target * scaled, 0).sum())

    fitted = float(np.exp(_golden_section(loss, np.log(_COLDEST), np.log(_WARMEST))))
    if fitted < 1.001 * _COLDEST:
        return fitted, f"temperature at its bound of {_COLDEST:g}: the logits of the validation images hardly differ"
    if fitted > _WARMEST / 1.001:
        return fitted, f"temperature at its bound of {_WARMEST:g}: the logits do not rank the validation images"
    return fitted, ""


def fit_temperature(logits: ArrayLike, targets: ArrayLike, task: str) -> float:
    """Temperature that minimises the negative log-likelihood (Guo et al. 2017), by golden section on log T.

    Args:
        logits: (N, L).
        targets: (N, L) in {0, 1, NaN}; one-hot in multiclass.
        task: "multiclass" or "multilabel".

    Returns:
        T in [0.05, 20]; 1 where there is nothing to tell apart (labels with one outcome only do not count, nor do
        images of one class only), and where no decision is wrong: then the likelihood only grows as T falls to 0.
    """
    return _likeliest_temperature(logits, targets, task)[0]


def fit_calibration(logits: ArrayLike, targets: ArrayLike, task: str, method: str = "temperature") -> dict[str, Any]:
    """Fit on validation data what `probabilities` takes as its calibration.

    Args:
        logits: (N, L).
        targets: (N, L) in {0, 1, NaN}; one-hot in multiclass.
        task: "multiclass" or "multilabel".
        method: "temperature" (`fit_temperature`), "platt" (`fit_platt`) or "none".

    Returns:
        JSON types; empty for "none".
    """
    require_known("calibration", method, CALIBRATIONS)
    return CALIBRATIONS[method](logits, targets, task)


def fit_platt(logits: ArrayLike, targets: ArrayLike, task: str) -> dict[str, list[float]]:
    """A slope and a shift for each label, by maximum likelihood (Platt 1999).

    Multilabel: p_k = σ(a_k z_k + b_k), each label by itself, with Platt's targets (N₊ + 1) / (N₊ + 2) and
    1 / (N₋ + 2) for 1 and 0, which keep it finite where a label separates perfectly. Multiclass: one slope for all
    classes and a shift for each, p = softmax(a z + b) (Alexandari et al. 2020, "bias-corrected temperature
    scaling"), which with two classes is Platt's sigmoid of their difference.

    Args:
        logits: (N, L).
        targets: (N, L) in {0, 1, NaN}; one-hot in multiclass.
        task: "multiclass" or "multilabel".

    Returns:
        ``{"scale": a, "shift": b}`` of L numbers each, a in [0.05, 20]; 1 and 0 for a label without positives or
        negatives, 0 for a class without images, 1 and 0 for classes that are told apart without an error (the slope
        would grow for ever).
    """
    logit, target = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    labels = logit.shape[1]
    scale, shift = np.ones(labels), np.zeros(labels)
    if task == "multiclass":
        known = ~np.isnan(target).any(axis=1)
        held = np.flatnonzero((target[known] == 1).any(axis=0))  # a shift of another class would fall for ever
        if len(held) > 1 and not _separated(logit, target, task):
            scale[:], shift[held] = fit_softmax(logit[known][:, held], target[known][:, held])
        return {"scale": scale.tolist(), "shift": shift.tolist()}
    for label in range(labels):
        known = ~np.isnan(target[:, label])
        z, positive = logit[known, label], target[known, label] > 0.5
        up, down = int(positive.sum()), int((~positive).sum())
        if up and down:
            wanted = np.where(positive, (up + 1) / (up + 2), 1 / (down + 2))
            scale[label], shift[label] = fit_sigmoid(z, wanted)
    return {"scale": scale.tolist(), "shift": shift.tolist()}


CALIBRATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "temperature": lambda logits, targets, task: {"temperature": fit_temperature(logits, targets, task)},
    "platt": fit_platt,
    "none": lambda logits, targets, task: {},
}


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


def fit_thresholds(
    probs: ArrayLike, targets: ArrayLike, task: str, rule: str = "youden", sensitivity: float = 0.95
) -> tuple[float | None, ...]:
    """Decision threshold of every label, on validation data.

    Candidates lie half-way between neighbouring probabilities, so that the choice does not hug a case.
    "youden" maximises sensitivity + specificity - 1, which does not depend on prevalence (test sets are
    often balanced otherwise than training sets); "f1" maximises F1; "sensitivity" maximises specificity where
    sensitivity is at least the one wanted.

    Args:
        probs: (N, L) in [0, 1].
        targets: (N, L) in {0, 1, NaN}.
        task: "multiclass" or "multilabel".
        rule: A name in `RULES`.
        sensitivity: Wanted by the rule "sensitivity", in (0, 1].

    Returns:
        (L,) thresholds; None where a label lacks positives or negatives, or all probabilities are equal. Two classes:
        labels[1] decides and the pair sums to 1. Other classes, and two that lack a threshold, are decided by the
        largest probability: empty.
    """
    require_known("threshold rule", rule, RULES)
    p, target = np.asarray(probs, np.float64), np.asarray(targets, np.float64)
    if task == "multiclass" and p.shape[1] != 2:
        return ()
    score = functools.partial(_at_sensitivity, wanted=sensitivity) if rule == "sensitivity" else RULES[rule]
    fitted = [_best_threshold(p[:, i], target[:, i], score) for i in range(p.shape[1])]
    if task == "multiclass":
        return () if fitted[1] is None else (1 - fitted[1], fitted[1])
    return tuple(fitted)


def _best_threshold(p: Array, target: Array, score: Callable[[Array, Array, int, int], Array]) -> float | None:
    known = ~np.isnan(target)
    p, positive = p[known], target[known] > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    values, inverse = np.unique(p, return_inverse=True)
    if len(values) == 1:
        return None
    # Cases at or above each distinct value: what a threshold just below it calls positive.
    hits = np.bincount(inverse, positive, len(values))[::-1].cumsum()[::-1]
    alarms = np.bincount(inverse, ~positive, len(values))[::-1].cumsum()[::-1]
    scores = score(hits, alarms, n_positive, n_negative)[1:]
    if np.isneginf(scores).all():  # only calling everything positive will do
        return float(values[0] / 2)
    best = 1 + int(np.argmax(scores))
    return float((values[best - 1] + values[best]) / 2)


def _youden(hits: Array, alarms: Array, n_positive: int, n_negative: int) -> Array:
    return hits / n_positive - alarms / n_negative


def _f1(hits: Array, alarms: Array, n_positive: int, n_negative: int) -> Array:
    return 2 * hits / (hits + alarms + n_positive)


def _at_sensitivity(hits: Array, alarms: Array, n_positive: int, n_negative: int, wanted: float = 0.95) -> Array:
    # The rounding of wanted * n must not cost a case: 0.95 * 20 is a little more than 19.
    return np.where(hits >= wanted * n_positive - 1e-9, -alarms / n_negative, -np.inf)


RULES = {"youden": _youden, "f1": _f1, "sensitivity": _at_sensitivity}


def in_use(thresholds: Sequence[float | None] | None, labels: int) -> list[float]:
    """The threshold of each label: those that were fitted, else 0.5."""
    return [0.5 if threshold is None else float(threshold) for threshold in thresholds or [None] * labels]


def unfitted(thresholds: Sequence[float | None] | None, labels: Sequence[str], task: str) -> list[str]:
    """Labels that 0.5 decides since no threshold was fitted; none of more than two classes, which need no threshold."""
    if task == "multiclass" and len(labels) > 2:
        return []
    return [
        label for label, threshold in zip(labels, thresholds or [None] * len(labels), strict=True) if threshold is None
    ]


def decide(probs: ArrayLike, thresholds: Sequence[float | None] | None, task: str) -> NDArray[np.bool_]:
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
        return p >= np.asarray(in_use(thresholds, p.shape[1]))
    if p.shape[1] == 2 and thresholds:
        positive = p[:, 1] >= in_use(thresholds, 2)[1]
        return np.stack([~positive, positive], axis=1)
    return np.arange(p.shape[1]) == p.argmax(axis=1, keepdims=True)
