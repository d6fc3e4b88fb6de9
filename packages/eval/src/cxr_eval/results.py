"""From answers to numbers: every metric with its interval, and what the models differ by.

``measure`` returns plain JSON types. A metric is ``{"value", "low", "high"}``; a value or interval that
does not exist is null, with the reason beside it (``"reason"``, ``"interval_reason"``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_eval import comparisons, entries, reliability
from cxr_eval.metrics import classification as metrics
from cxr_eval.metrics.classification import COUNTS, METRICS, PREVALENCE_DEPENDENT
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


def resamples_of(
    task: str, labels: Sequence[str], targets: NDArray[np.float32], patients: NDArray, resamples: int, seed: int
) -> tuple[NDArray[np.int64], Draws | None]:
    """Number the patients and draw them.

    Args:
        task: "multilabel" or "multiclass".
        labels: Names of the L labels.
        targets: (N, L) in {0, 1, NaN}.
        patients: (N,) patient of each image.
        resamples: How often to draw; 0 for never.
        seed: Seed of the draw.

    Returns:
        (N,) number of each image's patient, and the draws, None for 0 resamples.
    """
    number = bootstrap.patient_numbers(patients)
    if not resamples:
        return number, None
    return number, bootstrap.draw(targets[:, reported(task, labels)], number, resamples, seed)


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
) -> dict[str, Any]:
    """Every metric of every model, and what the models differ by.

    Args:
        task: "multilabel" or "multiclass".
        labels: Names of the L labels.
        targets: (N, L) in {0, 1, NaN}.
        answers: Answers by model name; the first model is the reference.
        patient: (N,) number of each image's patient, from ``resamples_of``.
        draws: From ``resamples_of``; None for no intervals.
        margin: Margin of the non-inferiority test, AUROC.
        teachers: Model -> the model it is held against there; the reference for those not named.

    Returns:
        "models": name -> "overall", "macro", "micro" and "weighted" (each metric -> value), "labels" (label ->
        counts, metric -> value, the AUROC with "delong", and "calibration", see ``cxr_eval.reliability``),
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
    return {
        "models": models,
        "differences": comparisons.compare(models, samples, shown, tests),
        "noninferiority": comparisons.noninferiority(models, samples, shown, against, margin),
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
    values = metrics.per_label(truth, p, called)
    macro, weighted = metrics.averages(values)
    micro = {key: float(value[0]) for key, value in metrics.micro(truth, p, called).items()}
    averages = {"macro": macro, "micro": micro, "weighted": weighted}
    samples = _resample(truth, p, called, patient, draws) if draws is not None else {}
    result: dict[str, Any] = {
        kind: {key: entries.metric(key, averages[kind][key], samples.get(kind)) for key in METRICS} for kind in AVERAGES
    }
    weighed = values["tp"] + values["fn"] > 0
    for key in METRICS:
        result["macro"][key] = entries.over_labels(result["macro"][key], values[key])
        counted = np.where(weighed, values[key], np.nan)
        result["weighted"][key] = entries.over_labels(result["weighted"][key], counted)
    result["labels"] = {}
    for i, label in enumerate(shown):
        counts = {key: int(values[key][i]) for key in COUNTS}
        drawn = {key: value[:, i] for key, value in samples["labels"].items()} if samples else None
        result["labels"][label] = {
            "positives": counts["tp"] + counts["fn"],
            "negatives": counts["fp"] + counts["tn"],
            "unknown": int(np.isnan(truth[:, i]).sum()),
            **counts,
            **{key: entries.metric(key, float(values[key][i]), drawn, counts) for key in METRICS},
        }
    of_labels, result["calibration"] = reliability.summarise(answer, truth, columns, patient, draws)
    for label, summary in zip(shown, of_labels, strict=True):
        result["labels"][label]["calibration"] = summary
    result["overall"] = (
        dict(result["macro"]) if len(shown) > 1 else {key: result["labels"][shown[0]][key] for key in METRICS}
    )
    result["confusion_matrix"] = None
    if task == "multiclass":
        matrix = metrics.confusion_matrix(targets, answer.decisions)
        result["confusion_matrix"] = matrix.tolist()
        if len(shown) > 1:
            drawn = None
            if draws is not None:
                drawn = _resample_classes(targets, answer.decisions, patient, draws)
                samples["decided"] = drawn
            for key, value in metrics.from_confusion_matrix(matrix).items():
                result["overall"][key] = entries.metric(key, float(value), drawn)
    return result, samples


def _resample(truth: NDArray, p: NDArray, called: NDArray, patient: NDArray[np.int64], draws: Draws) -> Samples:
    """Scope -> metric -> (R, L) for labels, (R,) else."""
    labels = truth.shape[1]
    if labels == 1:
        found = bootstrap.resample_each(truth, p, called, patient, draws)
        alone = {key: value[:, 0] for key, value in found.items()}
        return {"labels": found, "macro": alone, "micro": alone, "weighted": alone}
    # Whatever pools labels or weighs them by their positives depends on how common each finding is, the AUROC too.
    plain = bootstrap.resample(truth, p, called, patient, draws.plain)
    fixed = [key for key in METRICS if key not in PREVALENCE_DEPENDENT]
    of_labels = plain | bootstrap.resample(truth, p, called, patient, draws.stratified, fixed)
    flat = truth.reshape(-1, 1), p.reshape(-1, 1), called.reshape(-1, 1)
    pooled = bootstrap.resample(*flat, patient.repeat(labels), draws.plain)
    return {
        "labels": {key: of_labels[key] for key in METRICS},
        "macro": {key: metrics.macro(of_labels[key]) for key in METRICS},
        "micro": {key: pooled[key][:, 0] for key in METRICS},
        "weighted": {key: metrics.weighted(plain[key], plain["positives"]) for key in METRICS},
    }


def _resample_classes(
    targets: NDArray, decisions: NDArray, patient: NDArray[np.int64], draws: Draws
) -> dict[str, NDArray[np.float64]]:
    """Metrics of the decided class, each (R,), in the draw that suits them."""
    classes = targets.shape[1]
    cells = ((targets == 1)[:, :, None] & decisions[:, None, :]).reshape(len(targets), -1)
    fixed, plain = (
        metrics.from_confusion_matrix(bootstrap.weighted_sums(cells, patient, weights).reshape(-1, classes, classes))
        for weights in (draws.stratified, draws.plain)
    )
    return {key: (plain if key in PREVALENCE_DEPENDENT else fixed)[key] for key in fixed}


def _delong(
    models: dict[str, Any],
    shown: Sequence[str],
    targets: NDArray[np.float32],
    probabilities: Sequence[NDArray[np.float64]],
    patient: NDArray[np.int64],
) -> dict[str, list[delong.Comparison]]:
    """Write each label's DeLong interval beside its AUROC; the tests of all other models against the first."""
    names = list(models)
    tests: dict[str, list[delong.Comparison]] = {name: [] for name in names[1:]}
    for i, label in enumerate(shown):
        auroc, cov = delong.covariance(targets[:, i], np.stack([p[:, i] for p in probabilities]), patient)
        for row, name in enumerate(names):
            error, low, high = delong.interval(float(auroc[row]), float(cov[row, row]))
            figures = {"standard_error": error, "low": low, "high": high}
            models[name]["labels"][label]["auroc"]["delong"] = (
                None if np.isnan(error) else {key: entries.number(value) for key, value in figures.items()}
            )
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
                counts = ("positives", "negatives", "unknown", *COUNTS)
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
