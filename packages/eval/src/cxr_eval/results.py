"""From answers to numbers: every metric with its interval, and what the models differ by.

``measure`` returns plain JSON types. A metric is ``{"value", "low", "high"}``; a value or interval that
does not exist is null, with the reason beside it (``"reason"``, ``"interval_reason"``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_eval import comparisons, entries, reliability
from cxr_eval.metrics import classification, compute
from cxr_eval.metrics.classification import COUNTS, macro, weighted
from cxr_eval.metrics.records import METRICS
from cxr_eval.predictions import Answers
from cxr_eval.statistics import bootstrap, delong
from cxr_eval.statistics.bootstrap import Draws

AVERAGES = ("macro", "micro", "weighted")
Samples = dict[str, dict[str, NDArray[np.float64]]]


def reported(task: str, labels: Sequence[str]) -> list[int]:
    """Columns that are reported as labels: all, but of two classes only the positive one, ``labels[1]``."""
    return [1] if task == "multiclass" and len(labels) == 2 else list(range(len(labels)))


def headline(task: str, labels: Sequence[str]) -> str:
    """What the overall figures of a comparison are, in words."""
    shown = [labels[i] for i in reported(task, labels)]
    return shown[0] if len(shown) == 1 else f"macro average of {len(shown)} labels"


def draws_of(patients: NDArray, resamples: int, seed: int) -> tuple[NDArray[np.int64], Draws | None]:
    """Number the patients and make the replicates of which all intervals are made.

    Args:
        patients: (N,) patient of each image.
        resamples: Bootstrap resamples; 0 for no intervals at all.
        seed: Seed of the draw.

    Returns:
        (N,) number of each image's patient, and the replicates, None for 0 resamples.
    """
    number = bootstrap.patient_numbers(patients)
    return number, bootstrap.draw(int(number.max()) + 1, resamples, seed) if resamples else None


def measure(
    task: str,
    labels: Sequence[str],
    targets: NDArray[np.float32],
    answers: Mapping[str, Answers],
    patient: NDArray[np.int64],
    draws: Draws | None,
    *,
    margin: float = 0.02,
    teachers: Mapping[str, str] | None = None,
    controls: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Every metric of every model, and what the models differ by.

    Args:
        task: "multilabel" or "multiclass".
        labels: Names of the L labels.
        targets: (N, L) in {0, 1, NaN}.
        answers: Answers by model name; the first model is the reference.
        patient: (N,) number of each image's patient, from ``draws_of``.
        draws: From ``draws_of``; None for no intervals.
        margin: Margin of the non-inferiority test, AUROC.
        teachers: Model -> the model it is held against there; the reference for those not named.
        controls: Student -> the same student trained without the teacher.

    Returns:
        "models": name -> "overall", "macro", "micro" and "weighted" (each metric -> value), "labels" (label ->
        counts, metric -> value, the AUROC with "delong_standard_error", and "calibration" of ``reliability``),
        "calibration" and "confusion_matrix" ((K, K) lists, or None);
        "differences": see ``cxr_eval.comparisons.compare``; "noninferiority": likewise.
        "overall" is the single label of a two-class task, else the macro average, where accuracy, balanced
        accuracy and MCC of a multi-class task are those of the decided class.
    """
    columns = reported(task, labels)
    shown = [labels[i] for i in columns]
    models: dict[str, Any] = {}
    samples: dict[str, Samples] = {}
    for name, answer in answers.items():
        models[name], drawn = _one_model(task, shown, columns, targets, answer, patient, draws)
        if draws is not None:
            samples[name] = drawn
    tests = _delong(
        models, shown, targets[:, columns], [a.probabilities[:, columns] for a in answers.values()], patient
    )
    first, *others = models
    against = {name: (teachers or {}).get(name, first) for name in others}
    if first in (teachers or {}):
        against[first] = (teachers or {})[first]
    measured = comparisons.Measured(models, samples, shown)
    return {
        "models": models,
        "differences": comparisons.compare(measured, tests),
        "gains": comparisons.gains(measured, controls or {}),
        "noninferiority": comparisons.noninferiority(measured, against, margin),
    }


def _one_model(
    task: str,
    shown: Sequence[str],
    columns: list[int],
    targets: NDArray[np.float32],
    answer: Answers,
    patient: NDArray[np.int64],
    draws: Draws | None,
) -> tuple[dict[str, Any], Samples]:
    """The numbers of one model, and its resamples: scope -> metric -> (R, L) for labels, (R,) else.

    The scope "decided" holds the overall metrics that are no average of labels but those of the decided class.
    """
    truth, p, called = targets[:, columns], answer.probabilities[:, columns], answer.decisions[:, columns]
    values, drawn, of_each = entries.of_labels(truth, p, called, patient, draws)
    samples: Samples = {}
    if draws is not None and drawn is not None:
        samples = _replicates(drawn, truth, p, called, patient, draws)
    result = _averages(truth, p, called, values, samples, patient)
    result["labels"] = _labels(shown, truth, values, of_each, patient)
    of_labels, result["calibration"] = reliability.summarise(answer, truth, columns, patient, draws)
    for label, summary in zip(shown, of_labels, strict=True):
        result["labels"][label]["calibration"] = summary
    alone = result["labels"][shown[0]]
    result["overall"] = dict(result["macro"]) if len(shown) > 1 else {key: alone[key] for key in METRICS}
    result["confusion_matrix"] = None
    if task == "multiclass":
        matrix = classification.confusion_matrix(targets, answer.decisions)
        result["confusion_matrix"] = matrix.tolist()
        if len(shown) > 1:
            samples["decided"] = _replicate_classes(targets, answer.decisions, patient, draws) if draws else {}
            patients = {"accuracy": len(np.unique(patient[(targets == 1).any(axis=1)]))}
            for key, value in _of_classes(matrix).items():
                result["overall"][key] = entries.metric(key, float(value), samples["decided"] or None, None, patients)
    return result, samples


def _of_classes(matrix: NDArray) -> dict[str, NDArray]:
    """Metrics of the decided class from (..., K, K) confusion matrices."""
    return {key: metric.of_classes(matrix) for key, metric in METRICS.items() if metric.of_classes is not None}


def _averages(
    truth: NDArray, p: NDArray, called: NDArray, values: Mapping[str, NDArray], samples: Samples, patient: NDArray
) -> dict[str, Any]:
    """Each of ``AVERAGES`` -> metric -> entry."""
    labels = truth.shape[1]
    positives = values["tp"] + values["fn"]
    flat = truth.reshape(-1, 1), p.reshape(-1, 1), called.reshape(-1, 1)
    pooled = compute.per_label(*flat)
    means = {
        "macro": {key: float(macro(values[key])) for key in METRICS},
        "micro": {key: float(pooled[key][0]) for key in METRICS},
        "weighted": {key: float(weighted(values[key], positives)) for key in METRICS},
    }
    # What pools the images is a proportion of them; so is an average of one label.
    concerned = {key: int(n[0]) for key, n in bootstrap.concerned(flat[0], flat[2], patient.repeat(labels)).items()}
    with_it, without = (int(n[0]) for n in bootstrap.patients_of_class(truth, patient)) if labels == 1 else (0, 0)
    averages: dict[str, Any] = {}
    for kind in AVERAGES:
        of_images = concerned if kind == "micro" or labels == 1 else None
        of_label = (with_it, without) if labels == 1 else None
        averages[kind] = {
            key: entries.metric(key, means[kind][key], samples.get(kind), None, of_images, of_label) for key in METRICS
        }
    for key in METRICS:
        averages["macro"][key] = entries.over_labels(averages["macro"][key], values[key])
        counted = np.where(positives > 0, values[key], np.nan)
        averages["weighted"][key] = entries.over_labels(averages["weighted"][key], counted)
    return averages


def _labels(
    shown: Sequence[str],
    truth: NDArray,
    values: Mapping[str, NDArray],
    of_each: Sequence[dict[str, Any]],
    patient: NDArray,
) -> dict[str, Any]:
    """Label -> counts, and metric -> entry."""
    with_it, without = bootstrap.patients_of_class(truth, patient)
    of_labels: dict[str, Any] = {}
    for i, label in enumerate(shown):
        counts = {key: int(values[key][i]) for key in COUNTS}
        of_labels[label] = {
            "positives": counts["tp"] + counts["fn"],
            "negatives": counts["fp"] + counts["tn"],
            "unknown": int(np.isnan(truth[:, i]).sum()),
            "positive_patients": int(with_it[i]),
            "negative_patients": int(without[i]),
            **counts,
            **of_each[i],
        }
    return of_labels


def _replicates(
    of_labels: Mapping[str, NDArray[np.float64]],
    truth: NDArray,
    p: NDArray,
    called: NDArray,
    patient: NDArray[np.int64],
    draws: Draws,
) -> Samples:
    """Scope -> metric -> (G, L) for labels, (G,) else."""
    labels = truth.shape[1]
    keys = [key for key, metric in METRICS.items() if metric.interval != "none"]
    if labels == 1:
        alone = {key: of_labels[key][:, 0] for key in keys}
        return {"labels": {key: of_labels[key] for key in keys}, "macro": alone, "micro": alone, "weighted": alone}
    flat = truth.reshape(-1, 1), p.reshape(-1, 1), called.reshape(-1, 1)
    pooled = bootstrap.replicates(*flat, patient.repeat(labels), draws)
    kinds = {"jackknife": "positives", "bootstrap": "bootstrap positives"}
    positives = {key: of_labels[kinds[METRICS[key].interval]] for key in keys}
    # The average of all labels or of none: over those that remain in a replicate it would be another quantity.
    defined = {key: values[:, ~np.isnan(values).all(axis=0)] for key, values in of_labels.items()}
    return {
        "labels": {key: of_labels[key] for key in keys},
        "macro": {key: defined[key].mean(axis=1) if defined[key].size else of_labels[key][:, 0] for key in keys},
        "micro": {key: pooled[key][:, 0] for key in keys},
        "weighted": {key: weighted(of_labels[key], positives[key]) for key in keys},
    }


def _replicate_classes(
    targets: NDArray, decisions: NDArray, patient: NDArray[np.int64], draws: Draws
) -> dict[str, NDArray[np.float64]]:
    """Metrics of the decided class, each (G,)."""
    classes = targets.shape[1]
    cells = ((targets == 1)[:, :, None] & decisions[:, None, :]).reshape(len(targets), -1)
    return _of_classes(compute.weighted_sums(cells, patient, draws.jackknife).reshape(-1, classes, classes))


def _delong(
    models: dict[str, Any],
    shown: Sequence[str],
    targets: NDArray[np.float32],
    probabilities: Sequence[NDArray[np.float64]],
    patient: NDArray[np.int64],
) -> dict[str, list[delong.Comparison]]:
    """Write DeLong's standard error beside each label's AUROC; the tests of all other models against the first."""
    names = list(models)
    tests: dict[str, list[delong.Comparison]] = {name: [] for name in names[1:]}
    for i, label in enumerate(shown):
        auroc, cov = delong.covariance(targets[:, i], np.stack([p[:, i] for p in probabilities]), patient)
        for row, name in enumerate(names):
            error = float(np.sqrt(max(cov[row, row], 0.0)))
            models[name]["labels"][label]["auroc"]["delong_standard_error"] = entries.number(error)
            if row:
                tests[name].append(delong.difference(auroc, cov, row, 0))
    return tests


def as_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics of ``measure`` as flat rows of a table: one a model, scope, label and metric.

    With "subgroups" in the document (see ``cxr_eval.subgroups``), one more a model, group, label and metric,
    its scope ``COLUMN=GROUP``.
    """
    rows: list[dict[str, Any]] = []
    for name, model in results["models"].items():
        scopes = [(kind, "", model[kind]) for kind in ("overall", "macro", "micro", "weighted")]
        scopes += [("label", label, values) for label, values in model["labels"].items()]
        for scope, label, values in scopes:
            rows += [_row(name, scope, label, key, values[key]) for key in METRICS]
            if scope == "label":
                counts = ("positives", "negatives", "unknown", "positive_patients", "negative_patients", *COUNTS)
                rows += [_row(name, scope, label, key, {"value": float(values[key])}) for key in counts]
        for column, groups in model.get("subgroups", {}).items():
            for group, figures in groups.items():
                scope = f"{column}={group}"
                rows += [_row(name, scope, "", key, entry) for key, entry in figures["overall"].items()]
                for label, values in figures["labels"].items():
                    rows += [_row(name, scope, label, key, entry) for key, entry in values.items()]
    return rows


def _row(model: str, scope: str, label: str, key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    figures = {part: entry.get(part) for part in ("value", "low", "high")}
    return {
        "model": model,
        "scope": scope,
        "label": label,
        "metric": key,
        **figures,
        "reason": entries.remark(entry),
    }
