"""Evaluation of plain arrays: metrics with intervals, paired comparison of two models, DeLong's test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_data.errors import require_known
from cxr_eval import entries
from cxr_eval.metrics import compute, records
from cxr_eval.metrics.classification import macro
from cxr_eval.metrics.records import METRICS
from cxr_eval.statistics import bootstrap
from cxr_eval.statistics import delong as tests


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval.

    Attributes:
        value: NaN where undefined.
        low: Lower bound; NaN without an interval.
        high: Upper bound.
        reason: Why there is no value, or no interval; "" where there are both.
        p: Two-sided p value of "no difference"; NaN for a figure that is no difference.

    Examples:
        >>> from cxr_eval import evaluate
        >>> figure = evaluate([0, 0, 1, 1] * 10, [0.1, 0.6, 0.4, 0.8] * 10, metrics=["auroc"]).overall["auroc"]
        >>> figure.value, figure.low < figure.value < figure.high
        (0.75, True)
    """

    value: float
    low: float
    high: float
    reason: str = ""
    p: float = float("nan")


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model, or differences between two.

    Attributes:
        overall: Metric -> figure: the single label, or the macro average.
        labels: Label -> metric -> figure.

    Examples:
        >>> import numpy as np
        >>> from cxr_eval import evaluate
        >>> y = np.tile([[0, 1], [1, 0]], (20, 1))
        >>> result = evaluate(y, 0.5 * y + 0.2, labels=["effusion", "mass"], metrics=["auroc"])
        >>> result.labels["mass"]["auroc"].value
        1.0
    """

    overall: dict[str, Figure]
    labels: dict[str, dict[str, Figure]]


def evaluate(
    y: ArrayLike,
    p: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    threshold: float | Sequence[float] = 0.5,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Metrics of a classifier with intervals that know which rows belong together.

    Args:
        y: (N,) or (N, L) in {0, 1, NaN}, NaN unknown.
        p: Probabilities of the same shape, in [0, 1].
        groups: (N,) patient of each row; None when every row stands for itself.
        threshold: A row is called positive from this probability on; one, or one per label.
        labels: Names of the L labels; "0", "1", ... when None.
        metrics: Names in ``METRICS``; all when None.
        resamples: Bootstrap resamples, for the few metrics that need them.
        seed: Seed of the resamples.

    Raises:
        ValueError: Shapes that do not match, targets other than 0, 1 and NaN, probabilities outside [0, 1].
        BadInput: An unknown metric.

    Examples:
        >>> import numpy as np
        >>> from cxr_eval import evaluate
        >>> rng = np.random.default_rng(0)
        >>> y = rng.integers(0, 2, 200)
        >>> p = np.clip(0.3 * y + 0.7 * rng.random(200), 0, 1)
        >>> result = evaluate(y, p, groups=np.arange(200) // 2, metrics=["auroc", "recall"])
        >>> auroc = result.overall["auroc"]
        >>> bool(auroc.low < auroc.value < auroc.high)
        True
    """
    targets, scores, patient, names, wanted = _checked(y, p, groups, labels, metrics)
    decisions = scores >= np.asarray(threshold, np.float64)
    draws = bootstrap.draw(int(patient.max()) + 1, resamples, seed)
    values, replicates, of_each = entries.of_labels(targets, scores, decisions, patient, draws, wanted)
    of_labels = {
        label: {key: _figure(entry) for key, entry in of_label.items()}
        for label, of_label in zip(names, of_each, strict=True)
    }
    if len(names) == 1:
        return Evaluation(of_labels[names[0]], of_labels)
    overall = {}
    for key in wanted:
        defined = ~np.isnan(values[key])
        drawn = (replicates or {}) if defined.any() else {}
        sample = {name: sample[:, defined].mean(axis=1) for name, sample in drawn.items()}
        overall[key] = _figure(entries.metric(key, float(macro(values[key])), sample))
    return Evaluation(overall, of_labels)


def compare(
    y: ArrayLike,
    p: ArrayLike,
    reference: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    threshold: float | Sequence[float] = 0.5,
    reference_threshold: float | Sequence[float] = 0.5,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Paired differences between two models on the same rows, this minus the reference.

    An overall difference is over the labels for which both models have the figure.

    Args:
        y: (N,) or (N, L) in {0, 1, NaN}.
        p: Probabilities of one model, of the same shape.
        reference: Probabilities of the other.
        groups: (N,) patient of each row.
        threshold: Threshold of the first, one or one per label.
        reference_threshold: Threshold of the other.
        labels: Names of the L labels.
        metrics: Names in ``METRICS``; all that are compared when None.
        resamples: Bootstrap resamples, for the few metrics that need them.
        seed: Seed of the resamples.

    Returns:
        The differences, with p values not adjusted for their number.

    Raises:
        ValueError: As ``evaluate``.
        BadInput: An unknown metric.

    Examples:
        >>> import numpy as np
        >>> from cxr_eval import compare
        >>> rng = np.random.default_rng(0)
        >>> y = rng.integers(0, 2, 400)
        >>> better, worse = (np.clip(k * y + (1 - k) * rng.random(400), 0, 1) for k in (0.5, 0.2))
        >>> gain = compare(y, better, worse, groups=np.arange(400) // 2, metrics=["auroc"]).overall["auroc"]
        >>> bool(gain.low > 0), bool(gain.p < 0.01)
        (True, True)
    """
    wanted = records.compared() if metrics is None else list(metrics)
    targets, first, patient, names, wanted = _checked(y, p, groups, labels, wanted)
    second = _checked(y, reference, groups, labels, wanted)[1]
    draws = bootstrap.draw(int(patient.max()) + 1, resamples, seed)
    values, replicates = [], []
    for scores, cut in ((first, threshold), (second, reference_threshold)):
        decisions = scores >= np.asarray(cut, np.float64)
        values.append(compute.per_label(targets, scores, decisions, wanted))
        replicates.append(bootstrap.replicates(targets, scores, decisions, patient, draws, wanted))
    patients = bootstrap.patients_of_class(targets, patient)
    of_labels: dict[str, dict[str, Figure]] = {label: {} for label in names}
    overall = {}
    for key in wanted:
        ours, theirs = (value[key] for value in values)
        drawn = [sample.get(key) for sample in replicates]
        for i, label in enumerate(names):
            pair = [None if sample is None else sample[:, i] for sample in drawn]
            few = int(patients[0][i]), int(patients[1][i])
            one, other = (entries.number(value[i]) for value in (ours, theirs))
            of_labels[label][key] = _figure(entries.difference(key, one, other, pair[0], pair[1], few))
        both = ~np.isnan(ours + theirs)
        means = [float(value[both].mean()) if both.any() else None for value in (ours, theirs)]
        pair = [sample[:, both].mean(axis=1) if sample is not None and both.any() else None for sample in drawn]
        overall[key] = _figure(entries.difference(key, means[0], means[1], pair[0], pair[1]))
    return Evaluation(of_labels[names[0]] if len(names) == 1 else overall, of_labels)


def delong(y: ArrayLike, p: ArrayLike, reference: ArrayLike, *, groups: ArrayLike | None = None) -> tests.Comparison:
    """DeLong's paired test of equal AUROC of two models, with groups (patients) as clusters (Obuchowski 1997).

    Args:
        y: (N,) in {0, 1, NaN}.
        p: (N,) scores of one model.
        reference: (N,) scores of the other.
        groups: (N,) patient of each row; None when every row stands for itself.

    Returns:
        Difference, standard error and p value.

    Raises:
        ValueError: Shapes that do not match, or targets other than 0, 1 and NaN.

    Examples:
        >>> import numpy as np
        >>> from cxr_eval import delong
        >>> y = np.arange(200) % 2
        >>> noise = np.random.default_rng(0).normal(size=(2, 200))
        >>> test = delong(y, 2 * y + noise[0], 0.2 * y + noise[1])
        >>> bool(test.difference > 0.1), bool(test.p < 0.001)
        (True, True)
    """
    targets = _targets(y)
    scores = [np.asarray(array, np.float64) for array in (p, reference)]
    if targets.ndim != 1 or any(array.shape != targets.shape for array in scores):
        raise ValueError(f"expected three arrays (N,), got {targets.shape}, {scores[0].shape} and {scores[1].shape}")
    return tests.compare(targets, scores[0], scores[1], _patients(groups, len(targets)))


def _targets(y: ArrayLike) -> NDArray[np.float64]:
    targets = np.asarray(y, np.float64)
    if not np.isin(targets[~np.isnan(targets)], (0, 1)).all():
        raise ValueError("targets must be 0, 1 or NaN")
    return targets


def _patients(groups: ArrayLike | None, rows: int) -> NDArray[np.int64]:
    patient = bootstrap.patient_numbers(np.arange(rows) if groups is None else np.asarray(groups))
    if len(patient) != rows:
        raise ValueError(f"groups must have one entry per row: {rows}, got {len(patient)}")
    return patient


def _checked(
    y: ArrayLike, p: ArrayLike, groups: ArrayLike | None, labels: Sequence[str] | None, metrics: Sequence[str] | None
) -> tuple[NDArray, NDArray, NDArray[np.int64], list[str], list[str]]:
    """Targets and scores (N, L), patients, names of the labels and of the metrics."""
    targets, scores = _targets(y), np.asarray(p, np.float64)
    if targets.shape != scores.shape or targets.ndim not in (1, 2) or not len(targets):
        raise ValueError(f"expected y and p of one shape (N,) or (N, L), got {targets.shape} and {scores.shape}")
    if not np.all((scores >= 0) & (scores <= 1)):
        raise ValueError("probabilities must be finite and in [0, 1]; apply the sigmoid to logits")
    targets, scores = targets.reshape(len(targets), -1), scores.reshape(len(scores), -1)
    names = [str(i) for i in range(targets.shape[1])] if labels is None else list(labels)
    if len(names) != targets.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"labels must be {targets.shape[1]} different names, got {names}")
    wanted = list(METRICS) if metrics is None else list(metrics)
    for name in wanted:
        require_known("metric", name, METRICS)
    return targets, scores, _patients(groups, len(targets)), names, wanted


def _figure(entry: entries.Entry) -> Figure:
    value, low, high, p = (np.nan if entry.get(key) is None else entry[key] for key in ("value", "low", "high", "p"))
    return Figure(value, low, high, entry.get("reason") or entry.get("interval_reason") or "", p)
