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
ONE_UNDEFINED = "undefined for one of the two"

Entry = dict[str, Any]


def metric(
    key: str,
    value: float,
    drawn: Mapping[str, NDArray] | None,
    counts: Mapping[str, int] | None = None,
) -> Entry:
    """One metric.

    Args:
        key: Its name.
        value: Its value, NaN where undefined.
        drawn: Its value in every resample by name, (R,) each; None without resamples.
        counts: Confusion counts of the label, for the reason; None for an average over labels.

    Returns:
        ``{"value", "low", "high"}``; null with "reason" or "interval_reason".
    """
    entry: Entry = {"value": number(value), "low": None, "high": None}
    if np.isnan(value):
        entry["reason"] = why_undefined(key, **counts) if counts else "undefined for every label"
    elif drawn is None:
        entry["interval_reason"] = NO_RESAMPLES
    else:
        low, high = (
            bootstrap.basic_interval(drawn[key], value, LEVEL)
            if key == "ece"
            else bootstrap.interval(drawn[key], LEVEL)
        )
        entry["low"], entry["high"] = number(low), number(high)
        if entry["low"] is None:
            entry["interval_reason"] = RARELY_DEFINED
    return entry


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
        ``{"value", "low", "high", "p"}``; null with "reason" or "interval_reason".
    """
    if value is None or other is None:
        return {**undefined(ONE_UNDEFINED), "p": None}
    entry: Entry = {"value": value - other, "low": None, "high": None, "p": None}
    if drawn is None or other_drawn is None:
        return {**entry, "interval_reason": NO_RESAMPLES}
    paired = bootstrap.paired_difference(drawn, other_drawn, LEVEL)
    entry |= {"low": number(paired.low), "high": number(paired.high), "p": number(paired.p)}
    if entry["low"] is None:
        entry["interval_reason"] = RARELY_DEFINED
    return entry


def number(value: Any) -> float | None:
    """A float, or None for NaN."""
    return None if np.isnan(value) else float(value)
