"""What the models differ by: paired differences, tests adjusted for their number, and non-inferiority."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_eval import entries
from cxr_eval.metrics.classification import DECISION, RANKING
from cxr_eval.statistics import comparison, delong

COMPARED = (*RANKING, *DECISION, "brier")
"""Metrics whose differences are reported. A difference of two absolute calibration errors, or of two slopes around
an ideal, says neither which is better nor by how much."""

Samples = Mapping[str, Mapping[str, NDArray[np.float64]]]


def compare(
    models: Mapping[str, Any],
    samples: Mapping[str, Samples],
    labels: Sequence[str],
    tests: Mapping[str, Sequence[delong.Comparison]],
) -> dict[str, Any]:
    """Paired differences of every model to the first.

    p values are adjusted by Holm's method within each metric: the overall figures over the models, the labels over
    models and labels.

    Args:
        models: Name -> figures, as ``results.measure`` returns them.
        samples: Name -> scope -> metric -> (R,) or, for the scope "labels", (R, L); empty without resamples.
        labels: Names of the L labels.
        tests: Name of every model but the first -> DeLong test of each label.

    Returns:
        Name -> "reference", "overall" (metric -> value, low, high, p, p_holm) and "labels" (label -> the
        same; the AUROC also with "delong_p" and "delong_p_holm").
    """
    first, *others = models
    found: dict[str, Any] = {}
    for name in others:
        found[name] = {
            "reference": first,
            "overall": {key: _overall(key, name, first, models, samples) for key in COMPARED},
            "labels": {
                label: {key: _label(key, i, label, name, first, models, samples) for key in COMPARED}
                for i, label in enumerate(labels)
            },
        }
        for label, test in zip(labels, tests[name], strict=True):
            found[name]["labels"][label]["auroc"]["delong_p"] = entries.number(test.p)
    for key in COMPARED:
        _adjust([difference["overall"][key] for difference in found.values()], "p")
        of_labels = [values[key] for difference in found.values() for values in difference["labels"].values()]
        _adjust(of_labels, "p")
        if key == "auroc":
            _adjust(of_labels, "delong_p")
    return found


def noninferiority(
    models: Mapping[str, Any], samples: Mapping[str, Samples], against: Mapping[str, str], margin: float
) -> dict[str, Any]:
    """Whether each model's overall AUROC is not worse than another's by a margin or more.

    Args:
        models: Name -> figures.
        samples: Name -> scope -> metric -> (R,); empty without resamples.
        against: Model -> the model it is held against (its teacher).
        margin: Loss of AUROC that is said not to matter, > 0.

    Returns:
        Model -> "against", "metric", "margin", "value" (the difference), "low" (lower bound of its two-sided
        interval), "p" (one-sided), "p_holm" and "noninferior" (low > -margin); null with a reason.
    """
    found: dict[str, Any] = {}
    for name, other in against.items():
        entry: dict[str, Any] = {"against": other, "metric": "auroc", "margin": margin}
        entry |= {"value": None, "low": None, "p": None, "noninferior": None}
        values = [models[model]["overall"]["auroc"]["value"] for model in (name, other)]
        if None in values:
            entry["reason"] = entries.ONE_UNDEFINED
        elif not samples:
            entry |= {"value": values[0] - values[1], "reason": entries.NO_RESAMPLES}
        else:
            drawn = [samples[model]["overall"]["auroc"] for model in (name, other)]
            test = comparison.noninferiority(drawn[0], drawn[1], margin, entries.LEVEL)
            low = entries.number(test.low)
            entry |= {"value": values[0] - values[1], "low": low, "p": entries.number(test.p)}
            entry |= {"reason": entries.RARELY_DEFINED} if low is None else {"noninferior": low > -margin}
        found[name] = entry
    _adjust(list(found.values()), "p")
    return found


def _overall(
    key: str, name: str, first: str, models: Mapping[str, Any], samples: Mapping[str, Samples]
) -> entries.Entry:
    values = [models[model]["overall"][key]["value"] for model in (name, first)]
    drawn = [samples[model]["overall"][key] if samples else None for model in (name, first)]
    return entries.difference(values[0], values[1], drawn[0], drawn[1])


def _label(
    key: str, column: int, label: str, name: str, first: str, models: Mapping[str, Any], samples: Mapping[str, Samples]
) -> entries.Entry:
    values = [models[model]["labels"][label][key]["value"] for model in (name, first)]
    drawn = [samples[model]["labels"][key][:, column] if samples else None for model in (name, first)]
    return entries.difference(values[0], values[1], drawn[0], drawn[1])


def _adjust(family: Sequence[dict[str, Any]], key: str) -> None:
    for entry, adjusted in zip(family, comparison.holm([entry[key] for entry in family]), strict=True):
        entry[f"{key}_holm"] = adjusted
