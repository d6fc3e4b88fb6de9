"""How a figure stands in metrics.json: value and interval, or null with the reason."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_eval.metrics.classification import why_undefined
from cxr_eval.statistics import bootstrap

LEVEL = 0.95
NO_RESAMPLES = "no resamples were asked for"
RARELY_DEFINED = "undefined in more than half of the resamples"
ALL_EQUAL = "all resamples are equal: too few errors to say how far it may vary"
NO_VARIANCE = "no variance: too few errors to say how far it may vary"
FEW_PATIENTS = "fewer than two patients with, or without, the finding"
ONE_UNDEFINED = "undefined for one of the two"

Entry = dict[str, Any]


def metric(
    key: str,
    value: float,
    drawn: Mapping[str, NDArray] | None,
    counts: Mapping[str, int] | None = None,
    patients: Mapping[str, int] | None = None,
) -> Entry:
    """One metric.

    Args:
        key: Its name.
        value: Its value, NaN where undefined.
        drawn: Its value in every resample by name, (R,) each; None without resamples.
        counts: Confusion counts of the label, for the reason; None for an average over labels.
        patients: Patients concerned by each metric that is a proportion of images (``bootstrap.concerned``); None for
            an average over labels.

    Returns:
        ``{"value", "low", "high"}``; null with "reason" or "interval_reason". "exact" is the number of patients where
        the interval is Clopper and Pearson's.
    """
    entry: Entry = {"value": number(value), "low": None, "high": None}
    if np.isnan(value):
        entry["reason"] = why_undefined(key, **counts) if counts else "undefined for every label"
    elif drawn is None:
        entry["interval_reason"] = NO_RESAMPLES
    else:
        entry |= _interval(key, value, drawn[key], patients or {})
    return entry


def _interval(key: str, value: float, drawn: NDArray, patients: Mapping[str, int]) -> Entry:
    low, high = bootstrap.basic_interval(drawn, value, LEVEL) if key == "ece" else bootstrap.interval(drawn, LEVEL)
    if np.isnan(low):
        return {"interval_reason": RARELY_DEFINED}
    if not bootstrap.constant(drawn):
        return {"low": float(low), "high": float(high)}
    if key in patients and value in (0, 1):
        low, high = bootstrap.exact_interval(value, patients[key], LEVEL)
        return {"low": low, "high": high, "exact": patients[key]}
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


def difference(value: float | None, other: float | None, drawn: NDArray | None, other_drawn: NDArray | None) -> Entry:
    """This minus the other, paired.

    Args:
        value: The figure of one; None where undefined.
        other: The figure of the other.
        drawn: (R,) the figure of one in every resample; None without resamples.
        other_drawn: (R,) that of the other in the same resamples.

    Returns:
        ``{"value", "low", "high", "p"}``; null with "reason" or "interval_reason". p is 1 for figures that are equal
        in every resample, and null for those that differ by the same in every one.
    """
    if value is None or other is None:
        return {**undefined(ONE_UNDEFINED), "p": None}
    entry: Entry = {"value": value - other, "low": None, "high": None, "p": None}
    if drawn is None or other_drawn is None:
        return {**entry, "interval_reason": NO_RESAMPLES}
    paired = bootstrap.paired_difference(drawn, other_drawn, LEVEL)
    if np.isnan(paired.low):
        return {**entry, "interval_reason": RARELY_DEFINED}
    if bootstrap.constant(drawn - other_drawn):
        return {**entry, "p": 1.0 if paired.p == 1 else None, "interval_reason": ALL_EQUAL}
    return {**entry, "low": paired.low, "high": paired.high, "p": paired.p}


def number(value: Any) -> float | None:
    """A float, or None for NaN."""
    return None if np.isnan(value) else float(value)
