"""From answers to numbers: every metric with its interval, and paired differences to the first model.

``measure`` returns plain JSON types. A metric is ``{"value", "low", "high"}``; a value or interval that
does not exist is null, with the reason beside it (``"reason"``, ``"interval_reason"``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_eval.metrics import classification as metrics
from cxr_eval.metrics.classification import COUNTS, METRICS
from cxr_eval.predictions import Answers
from cxr_eval.statistics import bootstrap, delong

LEVEL = 0.95
COMPARED = ("auroc", "auprc", "f1", "accuracy", "recall", "specificity", "brier")
"""Metrics whose differences between models are reported."""

Samples = dict[str, NDArray[np.float64]]


def reported(task: str, labels: Sequence[str]) -> list[int]:
    """Columns that are reported as labels: all, but of two classes only the positive one, ``labels[1]``."""
    return [1] if task == "multiclass" and len(labels) == 2 else list(range(len(labels)))


def headline(task: str, labels: Sequence[str]) -> str:
    """What the overall figures of a comparison are, in words."""
    shown = [labels[i] for i in reported(task, labels)]
    return shown[0] if len(shown) == 1 else f"macro average of {len(shown)} labels"


def measure(
    task: str,
    labels: Sequence[str],
    targets: NDArray[np.float32],
    answers: Mapping[str, Answers],
    patients: NDArray,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Every metric of every model, and what the models differ by.

    Args:
        task: "multilabel" or "multiclass".
        labels: Names of the L labels.
        targets: (N, L) in {0, 1, NaN}.
        answers: Answers by model name; the first model is the reference.
        patients: (N,) patient of each image.
        resamples: Bootstrap resamples; 0 for no intervals.
        seed: Seed of the bootstrap.

    Returns:
        "models": name -> "overall", "macro", "micro" and "weighted" (each metric -> value), "labels" (label ->
        counts, and metric -> value) and "confusion_matrix" ((K, K) lists, or None);
        "differences": name -> "reference" (the first model's name), "overall" (metric -> value, low, high, p)
        and "labels" (label -> the same; the AUROC also with "delong_p").
        "overall" is the single label of a two-class task, else the macro average, where the accuracy of a
        multi-class task is that of the decided class.
    """
    number = bootstrap.patient_numbers(patients)
    weights = bootstrap.draw_weights(int(number.max()) + 1, resamples, seed) if resamples else None
    columns = reported(task, labels)
    shown = [labels[i] for i in columns]
    models, samples = {}, {}
    for name, answer in answers.items():
        models[name], samples[name] = _one_model(task, shown, columns, targets, answer, number, weights)
    names = list(answers)
    differences = {}
    for name in names[1:]:
        differences[name] = {
            "reference": names[0],
            **_differences(models[names[0]], models[name], samples.get(names[0]), samples.get(name), shown),
        }
        for label, column in zip(shown, columns, strict=True):
            test = delong.compare(
                targets[:, column],
                answers[name].probabilities[:, column],
                answers[names[0]].probabilities[:, column],
                number,
            )
            differences[name]["labels"][label]["auroc"]["delong_p"] = _number(test.p)
    return {"models": models, "differences": differences}


def _one_model(
    task: str,
    shown: Sequence[str],
    columns: list[int],
    targets: NDArray[np.float32],
    answer: Answers,
    patient: NDArray[np.int64],
    weights: bootstrap.Weights | None,
) -> tuple[dict[str, Any], dict[str, Samples]]:
    """The numbers of one model, and its resamples: scope -> metric -> (R, L) for labels, (R,) else."""
    truth, p, called = targets[:, columns], answer.probabilities[:, columns], answer.decisions[:, columns]
    values = metrics.per_label(truth, p, called)
    macro, weighted = metrics.averages(values)
    micro = {key: float(value[0]) for key, value in metrics.micro(truth, p, called).items()}
    averages = {"macro": macro, "micro": micro, "weighted": weighted}
    samples: dict[str, Samples] = {}
    if weights is not None:
        samples["labels"] = bootstrap.resample(truth, p, called, patient, weights)
        samples["macro"], samples["weighted"] = bootstrap.averages(samples["labels"])
        pooled = samples["labels"]
        if len(columns) > 1:
            flat = truth.reshape(-1, 1), p.reshape(-1, 1), called.reshape(-1, 1)
            pooled = bootstrap.resample(*flat, patient.repeat(len(columns)), weights)
        samples["micro"] = {key: value[:, 0] for key, value in pooled.items()}
    result: dict[str, Any] = {
        kind: {key: _value(key, averages[kind][key], samples.get(kind)) for key in METRICS}
        for kind in ("macro", "micro", "weighted")
    }
    result["labels"] = {}
    for i, label in enumerate(shown):
        counts = {key: int(values[key][i]) for key in COUNTS}
        drawn = {key: value[:, i] for key, value in samples["labels"].items()} if samples else None
        result["labels"][label] = {
            "positives": counts["tp"] + counts["fn"],
            "negatives": counts["fp"] + counts["tn"],
            "unknown": int(np.isnan(truth[:, i]).sum()),
            **counts,
            **{key: _value(key, float(values[key][i]), drawn, counts) for key in METRICS},
        }
    result["overall"] = (
        dict(result["macro"]) if len(shown) > 1 else {key: result["labels"][shown[0]][key] for key in METRICS}
    )
    samples["overall"] = dict(samples.get("macro", {}))
    result["confusion_matrix"] = None
    if task == "multiclass":
        result["confusion_matrix"] = metrics.confusion_matrix(targets, answer.decisions).tolist()
    if task == "multiclass" and len(shown) > 1:
        accuracy, drawn = _top1(targets, answer.decisions, patient, weights)
        samples["overall"]["accuracy"] = drawn
        result["overall"]["accuracy"] = _value(
            "accuracy", accuracy, samples["overall"] if weights is not None else None
        )
    return result, samples


def _top1(
    targets: NDArray, decisions: NDArray, patient: NDArray[np.int64], weights: bootstrap.Weights | None
) -> tuple[float, NDArray[np.float64]]:
    accuracy = metrics.top1_accuracy(targets, decisions)
    if weights is None:
        return accuracy, np.empty(0)
    known = ~np.isnan(targets).any(axis=1)
    correct = known & ((targets == 1) & decisions).any(axis=1)
    sums = bootstrap.weighted_sums(np.stack([correct, known], axis=1), patient, weights)
    return accuracy, np.where(sums[:, 1] > 0, sums[:, 0] / np.maximum(sums[:, 1], 1), np.nan)


def _differences(
    reference: dict[str, Any],
    model: dict[str, Any],
    reference_samples: dict[str, Samples] | None,
    samples: dict[str, Samples] | None,
    shown: Sequence[str],
) -> dict[str, Any]:
    def drawn(source: dict[str, Samples] | None, kind: str, key: str, label: int | None) -> NDArray | None:
        if not source or key not in source.get(kind, {}):
            return None
        return source[kind][key] if label is None else source[kind][key][:, label]

    def difference(key: str, ours: dict, theirs: dict, kind: str, label: int | None = None) -> dict[str, Any]:
        a, b = ours[key]["value"], theirs[key]["value"]
        if a is None or b is None:
            return {
                "value": None,
                "low": None,
                "high": None,
                "p": None,
                "reason": "undefined for one of the two",
            }
        mine, other = drawn(samples, kind, key, label), drawn(reference_samples, kind, key, label)
        if mine is None or other is None:
            return {"value": a - b, "low": None, "high": None, "p": None, "interval_reason": NO_RESAMPLES}
        paired = bootstrap.paired_difference(mine, other, LEVEL)
        entry = {
            "value": a - b,
            "low": _number(paired.low),
            "high": _number(paired.high),
            "p": _number(paired.p),
        }
        if entry["low"] is None:
            entry["interval_reason"] = RARELY_DEFINED
        return entry

    return {
        "overall": {key: difference(key, model["overall"], reference["overall"], "overall") for key in COMPARED},
        "labels": {
            label: {
                key: difference(key, model["labels"][label], reference["labels"][label], "labels", i)
                for key in COMPARED
            }
            for i, label in enumerate(shown)
        },
    }


NO_RESAMPLES = "no resamples were asked for"
RARELY_DEFINED = "undefined in more than half of the resamples"
BIASED = "a bootstrap of absolute errors is biased upwards"


def _value(
    key: str, value: float, drawn: Mapping[str, NDArray] | None, counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """One metric as JSON: null with a reason where it does not exist."""
    entry: dict[str, Any] = {"value": _number(value), "low": None, "high": None}
    if np.isnan(value):
        entry["reason"] = metrics.why_undefined(key, **counts) if counts else "undefined for every label"
    elif drawn is None:
        entry["interval_reason"] = NO_RESAMPLES
    elif key not in drawn:
        entry["interval_reason"] = BIASED
    else:
        low, high = bootstrap.interval(drawn[key], LEVEL)
        entry["low"], entry["high"] = _number(low), _number(high)
        if entry["low"] is None:
            entry["interval_reason"] = RARELY_DEFINED
    return entry


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def as_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics of ``measure`` as flat rows of a table: one a model, scope, label and metric."""
    rows = []
    for name, model in results["models"].items():
        scopes = [(kind, "", model[kind]) for kind in ("overall", "macro", "micro", "weighted")]
        scopes += [("label", label, values) for label, values in model["labels"].items()]
        for scope, label, values in scopes:
            for key in METRICS:
                entry = values[key]
                rows.append(
                    {
                        "model": name,
                        "scope": scope,
                        "label": label,
                        "metric": key,
                        **{part: entry[part] for part in ("value", "low", "high")},
                        "reason": entry.get("reason", ""),
                    }
                )
            if scope == "label":
                rows += [
                    {
                        "model": name,
                        "scope": scope,
                        "label": label,
                        "metric": key,
                        "value": float(values[key]),
                    }
                    for key in ("positives", "negatives", "unknown", *COUNTS)
                ]
    return rows
