"""Differences between the models: paired differences, tests adjusted for their number, and non-inferiority."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_common.jackknife import NO_ERROR, interval, p_below
from cxr_eval import entries
from cxr_eval.metrics.records import METRICS, compared
from cxr_eval.statistics import bootstrap, comparison, delong

Samples = Mapping[str, Mapping[str, NDArray[np.float64]]]


class Measured(NamedTuple):
    """Figures of several models.

    Attributes:
        models: Name -> figures, as ``results.measure`` returns them.
        samples: Name -> scope -> metric -> (G, L) for the scope "labels", (G,) for "decided" (the metrics of the
            decided class); empty without resamples.
        labels: Names of the L labels.
    """

    models: Mapping[str, Any]
    samples: Mapping[str, Samples]
    labels: Sequence[str]


def compare(measured: Measured, tests: Mapping[str, Sequence[delong.Comparison]]) -> dict[str, Any]:
    """Paired differences of every model to the first.

    p values are adjusted by Holm's method within each metric: the overall figures over the models, the labels over
    models and labels.

    Args:
        measured: Figures of the models.
        tests: Name of every model but the first -> DeLong test of each label.

    Returns:
        Name -> "reference", "overall" (metric -> value, low, high, p, p_holm, and "labels", the number of labels that
        both models define, where that is not all of them) and "labels" (label -> the same; the AUROC also with
        "delong_p" and "delong_p_holm", null with "delong_reason").
    """
    first, *others = measured.models
    differences: dict[str, Any] = {}
    for name in others:
        differences[name] = {
            "reference": first,
            "overall": {key: _difference(key, _overall(key, (name, first), measured)) for key in compared()},
            "labels": {
                label: {key: _label(key, i, (name, first), measured) for key in compared()}
                for i, label in enumerate(measured.labels)
            },
        }
        for label, test in zip(measured.labels, tests[name], strict=True):
            entry = differences[name]["labels"][label]["auroc"]
            entry["delong_p"] = entries.number(test.p)
            if entry["value"] is not None and entry["delong_p"] is None:
                few = np.isnan(test.standard_error)
                entry["delong_reason"] = entries.FEW_PATIENTS if few else entries.NO_VARIANCE
    for key in compared():
        _adjust([difference["overall"][key] for difference in differences.values()], "p")
        of_labels = [values[key] for difference in differences.values() for values in difference["labels"].values()]
        _adjust(of_labels, "p")
        if key == "auroc":
            _adjust(of_labels, "delong_p")
    return differences


def gains(measured: Measured, controls: Mapping[str, str]) -> dict[str, Any]:
    """Overall differences of every student to its control: the gain by the teacher.

    Args:
        measured: Figures of the models.
        controls: Student -> the same student trained without the teacher.

    Returns:
        Student -> "control" and "overall" (metric -> value, low, high, p, p_holm over the students).
    """
    gained: dict[str, Any] = {}
    for name, other in controls.items():
        differences = {key: _difference(key, _overall(key, (name, other), measured)) for key in compared()}
        gained[name] = {"control": other, "overall": differences}
    for key in compared():
        _adjust([gain["overall"][key] for gain in gained.values()], "p")
    return gained


def noninferiority(measured: Measured, against: Mapping[str, str], margin: float) -> dict[str, Any]:
    """Whether each model's overall AUROC is not worse than another's by a margin or more.

    Args:
        measured: Figures of the models.
        against: Model -> the model it is held against (its teacher).
        margin: Loss of AUROC that is said not to matter, > 0.

    Returns:
        Model -> "against", "metric", "margin", "value" (the difference, over the labels defined for both), "labels"
        as in ``compare``, "low" (lower bound of its two-sided interval), "p" (one-sided), "p_holm" and
        "noninferior": low > -margin, or where more models than one are tested, p_holm <= (1 - level)/2, which is the
        same test adjusted for their number; null with a reason.
    """
    results: dict[str, Any] = {}
    for name, other in against.items():
        entry: dict[str, Any] = {"against": other, "metric": "auroc", "margin": margin}
        entry |= {"value": None, "low": None, "p": None, "noninferior": None}
        pair = _overall("auroc", (name, other), measured)
        if pair.values is None:
            entry["reason"] = entries.ONE_UNDEFINED
        else:
            entry |= {"value": pair.values[0] - pair.values[1], **pair.labels, **_judged(pair, margin)}
        results[name] = entry
    tested = [entry for entry in results.values() if entry["p"] is not None]
    _adjust(list(results.values()), "p")
    if len(tested) > 1:
        # The more models are held against a teacher, the likelier one of them passes by chance.
        for entry in tested:
            entry["noninferior"] = entry["p_holm"] <= (1 - entries.LEVEL) / 2
    return results


def _judged(pair: "_Pair", margin: float) -> dict[str, Any]:
    if pair.drawn is None or pair.values is None:
        return {"reason": entries.NO_RESAMPLES}
    gap = pair.values[0] - pair.values[1]
    about = bootstrap.spread_of(METRICS["auroc"], gap, pair.drawn[0] - pair.drawn[1])
    if math.isnan(about.error):
        return {"reason": entries.RARELY_DEFINED}
    if about.error < NO_ERROR:
        return {"reason": entries.ALL_EQUAL}
    low = interval(gap, about, "difference", entries.LEVEL)[0]
    return {"low": low, "p": p_below(gap, about, -margin), "noninferior": low > -margin}


@dataclass(frozen=True)
class _Pair:
    """An overall figure of two models, so made that their difference means something.

    Attributes:
        values: Both figures; None where there is no label that both define.
        drawn: (G,) each, the replicates of both figures; None without intervals.
        labels: {"labels": how many are averaged} where that is not all of them, else empty.
    """

    values: tuple[float, float] | None
    drawn: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    labels: dict[str, int]


def _overall(key: str, pair: tuple[str, str], measured: Measured) -> _Pair:
    """Both models' average over the labels for which both have the figure, or their figure of the decided class.

    Comparing each model's own average would favour a model that never calls a difficult finding: the precision of
    that finding is undefined, and left out. Where either model has no figure for one of these labels in a replicate
    both averages are NaN: over the labels that remain it would be another quantity.
    """
    models, samples, labels = measured
    first, second = (models[name]["overall"][key]["value"] for name in pair)
    if METRICS[key].of_classes is not None and models[pair[0]]["confusion_matrix"] is not None and len(labels) > 1:
        if first is None or second is None:
            return _Pair(None, None, {})
        drawn = (samples[pair[0]]["decided"][key], samples[pair[1]]["decided"][key]) if samples else None
        return _Pair((first, second), drawn, {})
    of_labels = [[models[name]["labels"][label][key]["value"] for label in labels] for name in pair]
    table = np.array(of_labels, np.float64)
    both = ~np.isnan(table).any(axis=0)
    if not both.any():
        return _Pair(None, None, {})
    one, other = table[:, both].mean(axis=1).tolist()
    drawn = None
    if samples:
        ours, theirs = (samples[name]["labels"][key][:, both].mean(axis=1) for name in pair)
        drawn = ours, theirs
    return _Pair((one, other), drawn, {"labels": int(both.sum())} if not both.all() else {})


def _difference(key: str, pair: _Pair) -> entries.Entry:
    (value, other), (drawn, other_drawn) = pair.values or (None, None), pair.drawn or (None, None)
    return {**entries.difference(key, value, other, drawn, other_drawn), **pair.labels}


def _label(key: str, column: int, pair: tuple[str, str], measured: Measured) -> entries.Entry:
    models, samples, labels = measured
    values = [models[model]["labels"][labels[column]][key]["value"] for model in pair]
    drawn = [samples[model]["labels"][key][:, column] if samples else None for model in pair]
    about = models[pair[0]]["labels"][labels[column]]
    patients = about["positive_patients"], about["negative_patients"]
    return entries.difference(key, values[0], values[1], drawn[0], drawn[1], patients)


def _adjust(family: Sequence[dict[str, Any]], key: str) -> None:
    for entry, adjusted in zip(family, comparison.holm([entry[key] for entry in family]), strict=True):
        entry[f"{key}_holm"] = adjusted
