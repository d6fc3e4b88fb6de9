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
    samples = _resample(truth, p, called, patient, draws) if draws is not None else {}
    result = _averages(truth, p, called, values, samples, patient)
    result["labels"] = _labels(shown, truth, called, values, samples, patient)
    of_labels, result["calibration"] = reliability.summarise(answer, truth, columns, patient, draws)
    for label, summary in zip(shown, of_labels, strict=True):
        result["labels"][label]["calibration"] = summary
    alone = result["labels"][shown[0]]
    result["overall"] = dict(result["macro"]) if len(shown) > 1 else {key: alone[key] for key in METRICS}
    result["confusion_matrix"] = None
    if task == "multiclass":
        matrix = metrics.confusion_matrix(targets, answer.decisions)
        result["confusion_matrix"] = matrix.tolist()
        if len(shown) > 1:
            samples["decided"] = _resample_classes(targets, answer.decisions, patient, draws) if draws else {}
            patients = {"accuracy": len(np.unique(patient[(targets == 1).any(axis=1)]))}
            for key, value in metrics.from_confusion_matrix(matrix).items():
                drawn = samples["decided"] or None
                result["overall"][key] = entries.metric(key, float(value), drawn, patients=patients)
    return result, samples


def _averages(
    truth: NDArray, p: NDArray, called: NDArray, values: Mapping[str, NDArray], samples: Samples, patient: NDArray
) -> dict[str, Any]:
    """Each of ``AVERAGES`` -> metric -> entry."""
    macro, weighted = metrics.averages(values)
    flat = truth.reshape(-1, 1), called.reshape(-1, 1)
    pooled = metrics.micro(truth, p, called)
    means = {"macro": macro, "micro": {key: float(pooled[key][0]) for key in METRICS}, "weighted": weighted}
    # What pools the images is a proportion of them; so is an average of one label.
    patients = {key: int(n[0]) for key, n in bootstrap.concerned(*flat, patient.repeat(truth.shape[1])).items()}
    found: dict[str, Any] = {}
    for kind in AVERAGES:
        of_images = patients if kind == "micro" or truth.shape[1] == 1 else None
        found[kind] = {
            key: entries.metric(key, means[kind][key], samples.get(kind), patients=of_images) for key in METRICS
        }
    weighed = values["tp"] + values["fn"] > 0
    for key in METRICS:
        found["macro"][key] = entries.over_labels(found["macro"][key], values[key])
        counted = np.where(weighed, values[key], np.nan)
        found["weighted"][key] = entries.over_labels(found["weighted"][key], counted)
    return found


def _labels(
    shown: Sequence[str],
    truth: NDArray,
    called: NDArray,
    values: Mapping[str, NDArray],
    samples: Samples,
    patient: NDArray,
) -> dict[str, Any]:
    """Label -> counts, and metric -> entry."""
    patients = bootstrap.concerned(truth, called, patient)
    found: dict[str, Any] = {}
    for i, label in enumerate(shown):
        counts = {key: int(values[key][i]) for key in COUNTS}
        drawn = {key: value[:, i] for key, value in samples["labels"].items()} if samples else None
        concerned = {key: int(n[i]) for key, n in patients.items()}
        found[label] = {
            "positives": counts["tp"] + counts["fn"],
            "negatives": counts["fp"] + counts["tn"],
            "unknown": int(np.isnan(truth[:, i]).sum()),
            **counts,
            **{key: entries.metric(key, float(values[key][i]), drawn, counts, concerned) for key in METRICS},
        }
    return found


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
            figures: dict[str, Any] = {
                "standard_error": error,
                "low": entries.number(low),
                "high": entries.number(high),
            }
            figures |= {"interval_reason": entries.NO_VARIANCE} if np.isnan(low) else {}
            models[name]["labels"][label]["auroc"]["delong"] = None if np.isnan(error) else figures
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
