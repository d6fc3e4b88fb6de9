"""Differences between two models of a metrics.json, in percentage points."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def difference(a: Mapping[str, Any], b: Mapping[str, Any], metric: str) -> float | None:
    """The first model minus the second; of averages that leave labels out, over the labels that both have.

    Args:
        a: A model of the document.
        b: Another.
        metric: A key of "overall", in [0, 1].

    Returns:
        Percentage points; None where it is undefined.
    """
    overall = a["overall"][metric], b["overall"][metric]
    if not any("labels" in entry for entry in overall):
        return points(overall[0]["value"], overall[1]["value"])
    of_labels = [[model["labels"][label][metric]["value"] for label in a["labels"]] for model in (a, b)]
    known = [gap for gap in map(points, *of_labels) if gap is not None]
    return float(np.mean(known)) if known else None


def points(one: float | None, other: float | None) -> float | None:
    """A value in [0, 1] minus another in percentage points; None where either is undefined."""
    return None if one is None or other is None else 100 * (one - other)
