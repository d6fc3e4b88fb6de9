"""One label of the report: its charts, and the operating points its sliders move along."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.charts import STYLES, Axis, Chart, Series
from cxr_eval.curves import Curves, curves, index_of, thin
from cxr_eval.metrics.classification import COUNTS
from cxr_eval.metrics.records import METRICS
from cxr_eval.predictions import Answers

Entry = Mapping[str, Any]


def panel(
    document: Mapping[str, Any],
    number: int,
    label: str,
    column: int,
    targets: NDArray[np.float32],
    answers: Mapping[str, Answers],
) -> dict[str, Any]:
    """Everything the page shows of one label.

    Args:
        document: The content of metrics.json.
        number: Which panel it is, from 0.
        label: Its name.
        column: Its column.
        targets: (N, L) in {0, 1, NaN}.
        answers: Answers by model name.

    Returns:
        "label", its counts of images and patients; "charts" and "calibration" (name -> ``Chart``); "cards", one a
        model with the counts at its own threshold; "data", what the page's script reads.
    """
    points = 240 if len(document["labels"]) <= 3 else 120
    roc, precision_recall, cards, data = [], [], [], []
    for i, (name, answer) in enumerate(answers.items()):
        thresholds = document["models"][name]["thresholds"]
        own = 0.5 if thresholds is None else thresholds[label]
        curve = thin(curves(targets[:, column], answer.probabilities[:, column]), points, keep=own)
        at = index_of(curve, own)
        metrics = document["models"][name]["labels"][label]
        key, style = f"{number}-{i}", i % STYLES
        roc.append(_roc(name, style, key, curve, at, metrics))
        precision_recall.append(_precision_recall(name, style, key, curve, at, metrics))
        entry = _operating_points(curve, own, at)
        data.append(entry)
        steps = len(entry["t"]) - 1
        cards.append(
            {
                "name": name,
                "style": style,
                "key": key,
                "steps": steps,
                "now": _counts(curve, at),
                "rates": rates(_counts(curve, at)),
                **entry,
            }
        )
    first = document["models"][next(iter(answers))]["labels"][label]
    share = first["positives"] / max(first["positives"] + first["negatives"], 1)
    recall, precision = Axis("Sensitivity (recall)"), Axis("Precision")
    charts = {
        "roc": Chart("ROC", roc, Axis("1 − specificity"), Axis("Sensitivity"), ((0, 0), (1, 1))),
        "precision-recall": Chart(
            "Precision and recall", precision_recall, recall, precision, ((0, share), (1, share))
        ),
    }
    counted = ("positives", "negatives", "unknown", "positive_patients", "negative_patients")
    counts = {key: first[key] for key in counted}
    return {
        "label": label,
        **counts,
        "charts": charts,
        "calibration": _calibration(document, label),
        "cards": cards,
        "data": {"positives": first["positives"], "negatives": first["negatives"], "models": data},
    }


def _roc(name: str, style: int, key: str, curve: Curves, at: int, metrics: Mapping[str, Any]) -> Series:
    x, y = curve.roc
    mark = (x[at], y[at]) if len(x) else None
    return Series(name, style, x, y, note=_note("AUROC", metrics["auroc"]), mark=mark, key=f"roc-{key}")


def _precision_recall(name: str, style: int, key: str, curve: Curves, at: int, metrics: Mapping[str, Any]) -> Series:
    x, y = _steps(curve)
    mark = None
    if curve.positives and at > 0:
        mark = (curve.tp[at] / curve.positives, curve.tp[at] / (curve.tp[at] + curve.fp[at]))
    return Series(name, style, x, y, note=_note("AUPRC", metrics["auprc"]), mark=mark, key=f"pr-{key}")


def _calibration(document: Mapping[str, Any], label: str) -> dict[str, Chart]:
    """Reliability curves after the stored temperatures and, where any model has one, before."""
    charts = {}
    kinds = {"before": "Calibration before the temperature", "after": "Calibration, as the models answer"}
    of_models = {name: model["labels"][label] for name, model in document["models"].items()}
    for kind, title in kinds.items():
        series = []
        for i, (name, metrics) in enumerate(of_models.items()):
            shape = metrics["calibration"][kind]
            if shape is None:
                continue
            ece = metrics["ece"] if kind == "after" else shape["ece"]
            x, y = ([bin[axis] for bin in shape["curve"]] for axis in ("predicted", "observed"))
            bounds = [(bin["low"], bin["high"]) for bin in shape["curve"]] if len(of_models) == 1 else ()
            series.append(Series(name, i % STYLES, x, y, note=_note("ECE", ece), radius=2.5, y_interval=bounds))
        if series:
            axes = Axis("Predicted probability"), Axis("Observed frequency")
            charts[f"calibration-{kind}"] = Chart(title, series, *axes, ((0, 0), (1, 1)))
    return charts


def _note(title: str, entry: Entry) -> str:
    return f"{title} –" if entry["value"] is None else f"{title} {entry['value']:.3f}"


def _steps(curve: Curves) -> tuple[list[float], list[float]]:
    """The precision-recall curve as the steps whose area is the average precision."""
    recall, precision = curve.precision_recall
    if not len(recall):
        return [], []
    x = np.concatenate([[0.0], np.repeat(recall, 2)[:-1]])
    return x.tolist(), np.repeat(precision, 2).tolist()


def _operating_points(curve: Curves, own: float, at: int) -> dict[str, Any]:
    """Thresholds ascending with their counts; the model's own threshold stands at its place."""
    thresholds = [None if np.isinf(t) else float(f"{t:.3g}") for t in curve.thresholds]
    thresholds[at] = float(f"{own:.3g}")
    return {
        "t": thresholds[::-1],
        "tp": curve.tp[::-1].tolist(),
        "fp": curve.fp[::-1].tolist(),
        "start": len(thresholds) - 1 - at,
    }


def _counts(curve: Curves, at: int) -> dict[str, int]:
    tp, fp = int(curve.tp[at]), int(curve.fp[at])
    return {"tp": tp, "fp": fp, "fn": curve.positives - tp, "tn": curve.negatives - fp}


RATES = ("recall", "specificity", "precision", "npv", "f1")
"""Metrics that follow a slider; script.js computes them from the same counts."""


def rates(counts: Mapping[str, int]) -> dict[str, float | None]:
    """``RATES`` of one operating point, None where undefined."""
    arrays = [np.array(counts[key], np.float64) for key in COUNTS]
    values = {key: float(of_counts(*arrays)) for key in RATES if (of_counts := METRICS[key].of_counts) is not None}
    return {key: None if np.isnan(value) else value for key, value in values.items()}
