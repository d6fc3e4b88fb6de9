"""A figure as metrics.json holds it: value and interval, or null with the reason."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_common.jackknife import NO_ERROR, interval, p_value
from cxr_eval.metrics import compute
from cxr_eval.metrics.classification import COUNTS
from cxr_eval.metrics.records import METRICS
from cxr_eval.statistics import bootstrap
from cxr_eval.statistics.bootstrap import Draws

LEVEL = 0.95
LEAST_OF_CLASS = 5
"""Patients with a finding, and without it, that an interval of its figures needs."""
NO_RESAMPLES = "no resamples were asked for"
RARELY_DEFINED = "undefined without one of its patients"
ALL_EQUAL = "the same whichever patient is left out: too few errors to say how far it may vary"
NO_VARIANCE = "no variance: too few errors to say how far it may vary"
FEW_PATIENTS = "fewer than two patients with, or without, the finding"
ONE_UNDEFINED = "undefined for one of the two"

Entry = dict[str, Any]


class Labels(NamedTuple):
    """Metrics of every label.

    Attributes:
        values: Metric -> (L,), NaN where undefined; with the confusion counts of each label.
        samples: Metric -> (G, L) replicates, as ``bootstrap.replicates`` returns them; None without intervals.
        entries: For each label metric -> entry.
    """

    values: dict[str, NDArray]
    samples: dict[str, NDArray[np.float64]] | None
    entries: list[dict[str, Entry]]


def of_labels(
    targets: NDArray,
    scores: NDArray,
    decisions: NDArray,
    patient: NDArray[np.int64],
    draws: Draws | None,
    names: Sequence[str] | None = None,
) -> Labels:
    """Metrics of every label with their intervals.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        scores: (N, L) probabilities.
        decisions: (N, L) bool.
        patient: (N,) number of each image's patient.
        draws: Replicates of the patients; None for no intervals.
        names: Which of ``METRICS`` are wanted; all when None.
    """
    wanted = list(METRICS if names is None else names)
    values = compute.per_label(targets, scores, decisions, wanted)
    samples = bootstrap.replicates(targets, scores, decisions, patient, draws, wanted) if draws is not None else None
    concerned = bootstrap.concerned(targets, decisions, patient)
    with_it, without = bootstrap.patients_of_class(targets, patient)
    entries = []
    for i in range(targets.shape[1]):
        drawn = {name: sample[:, i] for name, sample in samples.items()} if samples else None
        counts = {name: int(values[name][i]) for name in COUNTS}
        of_images = {name: int(n[i]) for name, n in concerned.items()}
        patients = int(with_it[i]), int(without[i])
        entries.append(
            {name: metric(name, float(values[name][i]), drawn, counts, of_images, patients) for name in wanted}
        )
    return Labels(values, samples, entries)


def metric(
    name: str,
    value: float,
    replicates: Mapping[str, NDArray] | None,
    counts: Mapping[str, int] | None = None,
    concerned: Mapping[str, int] | None = None,
    patients: tuple[int, int] | None = None,
) -> Entry:
    """One metric.

    Args:
        name: One of ``METRICS``.
        value: Its value, NaN where undefined.
        replicates: Its replicates by name, (G,) each, from ``bootstrap.replicates``; None without intervals.
        counts: Confusion counts of the label, for the reason; None for an average over labels.
        concerned: Patients concerned by each metric that is a proportion of images (``bootstrap.concerned``); None for
            an average over labels.
        patients: Patients with and without the finding, of a label.

    Returns:
        ``{"value", "low", "high"}``; null with "reason" or "interval_reason". "exact" is the number of patients where
        the interval is Clopper and Pearson's.
    """
    entry: Entry = {"value": number(value), "low": None, "high": None}
    if np.isnan(value):
        entry["reason"] = METRICS[name].why_undefined(counts) if counts else "undefined for every label"
    elif replicates is None:
        entry["interval_reason"] = NO_RESAMPLES
    elif METRICS[name].interval == "none":
        entry["interval_reason"] = METRICS[name].no_interval
    elif patients is not None and min(patients) < LEAST_OF_CLASS:
        entry["interval_reason"] = few_patients(*patients)
    else:
        entry |= _interval(name, value, replicates[name], concerned or {})
    return entry


def few_patients(positive: int, negative: int) -> str:
    """Why there are too few patients for an interval."""
    few, which = (positive, "with") if positive <= negative else (negative, "without")
    return f"{few} patient{'s' if few != 1 else ''} {which} the finding: fewer than {LEAST_OF_CLASS}"


def _interval(name: str, value: float, replicates: NDArray, concerned: Mapping[str, int]) -> Entry:
    about = bootstrap.spread_of(METRICS[name], value, replicates)
    if math.isnan(about.error):
        return {"interval_reason": RARELY_DEFINED}
    about = about._replace(degrees=max(1.0, METRICS[name].degrees(about.degrees)))
    low, high = interval(value, about, METRICS[name].scale, LEVEL)
    if not math.isnan(low):
        return {"low": low, "high": high}
    if name in concerned and value in (0, 1):
        low, high = bootstrap.exact_interval(value, concerned[name], LEVEL)
        return {"low": low, "high": high, "exact": concerned[name]}
    return {"interval_reason": ALL_EQUAL}


def over_labels(entry: Entry, values: NDArray) -> Entry:
    """An average that says how many labels it is over, where some of them have no value.

    Args:
        entry: The average.
        values: (L,) the figure of each label, NaN where undefined.

    Returns:
        The entry, with "labels" where it averages some of the L labels and not all.
    """
    count = int(np.sum(~np.isnan(values)))
    return {**entry, "labels": count} if 0 < count < len(values) else entry


def remark(entry: Mapping[str, Any]) -> str:
    """What a reader must know of a figure: why there is no value or interval, how many labels it averages."""
    over = f"mean of {entry['labels']} labels" if "labels" in entry else ""
    return "; ".join(filter(None, [entry.get("reason"), entry.get("interval_reason"), over]))


def undefined(reason: str) -> Entry:
    """A figure that does not exist."""
    return {"value": None, "low": None, "high": None, "reason": reason}


def difference(
    name: str,
    value: float | None,
    other: float | None,
    replicates: NDArray | None,
    other_replicates: NDArray | None,
    patients: tuple[int, int] | None = None,
) -> Entry:
    """This minus the other, paired.

    Args:
        name: One of ``METRICS``.
        value: The figure of one; None where undefined.
        other: The figure of the other.
        replicates: (G,) the replicates of one; None without intervals.
        other_replicates: (G,) those of the other, of the same patients.
        patients: Patients with and without the finding, of a label.

    Returns:
        ``{"value", "low", "high", "p"}``; null with "reason" or "interval_reason". p is 1 for figures that are equal
        whichever patient is left out, and null for those that differ by the same.
    """
    if value is None or other is None:
        return {**undefined(ONE_UNDEFINED), "p": None}
    gap = value - other
    entry: Entry = {"value": gap, "low": None, "high": None, "p": None}
    if replicates is None or other_replicates is None:
        return {**entry, "interval_reason": NO_RESAMPLES}
    if patients is not None and min(patients) < LEAST_OF_CLASS:
        return {**entry, "interval_reason": few_patients(*patients)}
    about = bootstrap.spread_of(METRICS[name], gap, replicates - other_replicates)
    if math.isnan(about.error):
        return {**entry, "interval_reason": RARELY_DEFINED}
    if about.error < NO_ERROR:
        return {**entry, "p": 1.0 if abs(gap) < NO_ERROR else None, "interval_reason": ALL_EQUAL}
    low, high = interval(gap, about, "difference", LEVEL)
    return {**entry, "low": low, "high": high, "p": p_value(gap, about)}


def number(value: Any) -> float | None:
    """A float, or None for NaN."""
    return None if np.isnan(value) else float(value)
