"""Build the report: numbers and answers in, one self-contained HTML page out."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cxr_eval.curves import Curves, curves, index_of, thin
from cxr_eval.metrics.calibration import reliability
from cxr_eval.metrics.classification import METRICS, TITLES
from cxr_eval.predictions import Answers
from cxr_eval.report.svg import Axis, Series, chart, interval_bar, log_axis, nice_ticks, swatch
from cxr_eval.results import COMPARED, reported
from cxr_eval.terminal import best_of

SUMMARY = ("auroc", "auprc", "f1", "accuracy", "recall", "specificity", "brier", "ece")
STYLES = 6
Entry = Mapping[str, Any]


def render(document: Mapping[str, Any], targets: NDArray[np.float32], answers: Mapping[str, Answers]) -> str:
    """The page.

    Args:
        document: The content of metrics.json (see ``cxr_eval.evaluate``).
        targets: (N, L) in {0, 1, NaN}.
        answers: Answers by model name, in the document's order.

    Returns:
        HTML that asks for nothing from outside.
    """
    columns = reported(document["task"], document["labels"])
    panels = [_panel(document, document["labels"][i], i, targets, answers) for i in columns]
    template = _environment().get_template("template.html")
    return template.render(
        d=document,
        names=list(document["models"]),
        style={name: i % STYLES for i, name in enumerate(document["models"])},
        titles=TITLES,
        summary=SUMMARY,
        metrics=METRICS,
        compared=COMPARED,
        best={key: best_of(document, key) for key in SUMMARY},
        shown=[document["labels"][i] for i in columns],
        lead=_lead(document),
        reach=_reach(document),
        panels=[panel["page"] for panel in panels],
        data=[panel["data"] for panel in panels],
        speed_chart=_speed_chart(document),
        machine=next((model["speed"] for model in document["models"].values() if model["speed"]), None),
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "figure": figure,
        "cell": cell,
        "signed": signed,
        "big": big,
        "short": short,
        "pvalue": pvalue,
    }
    environment.globals |= {"swatch": swatch, "interval_bar": interval_bar}
    return environment


def figure(value: float | None, digits: int = 3) -> str:
    """A number in fixed decimals, an en dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference with its sign (a real minus) in three decimals."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def short(value: float, digits: int = 3) -> str:
    """A number in a few significant digits, never with an exponent."""
    return np.format_float_positional(float(f"{value:.{digits}g}"), trim="-")


def pvalue(value: float) -> str:
    """A p value in two significant digits, small ones as a bound."""
    return "< 0.0001" if value < 0.0001 else short(value, 2)


def big(value: float, unit: str = "") -> str:
    """A large number with a metric prefix, three significant digits."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{short(value / factor)} {prefix}{unit}"
    return f"{value:g} {unit}".strip()


def cell(entry: Entry) -> Markup:
    """A metric for a table cell: value, and its interval below; a dash that tells why when undefined."""
    if entry["value"] is None:
        return Markup('<abbr title="{}">–</abbr>').format(entry.get("reason", "undefined"))
    text = Markup("<b>{}</b>").format(figure(entry["value"]))
    if entry["low"] is None:
        return text
    return text + Markup("<small>{}–{}</small>").format(figure(entry["low"]), figure(entry["high"]))


def _lead(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the report says first: one sentence's worth of facts for each model."""
    models = document["models"]
    reference = next(iter(models))
    facts = []
    for name, model in models.items():
        fact: dict[str, Any] = {"name": name, "auroc": model["overall"]["auroc"]}
        if name != reference:
            fact["difference"] = document["differences"][name]["overall"]["auroc"]
            fact["smaller"] = models[reference]["size"]["parameters"] / model["size"]["parameters"]
            if model["speed"] and models[reference]["speed"]:
                fact["faster"] = models[reference]["speed"]["latency_ms_p50"] / model["speed"]["latency_ms_p50"]
        facts.append(fact)
    return facts


def _reach(document: Mapping[str, Any]) -> dict[str, float]:
    """Half-width of the scale of each metric's difference bars: the same for all models."""
    reach = {}
    for key in COMPARED:
        entries = [difference["overall"][key] for difference in document["differences"].values()]
        bounds = [abs(bound) for e in entries for bound in (e["value"], e["low"], e["high"]) if bound is not None]
        reach[key] = max(bounds, default=0.0) or 1.0
    return reach


def _panel(
    document: Mapping[str, Any],
    label: str,
    column: int,
    targets: NDArray[np.float32],
    answers: Mapping[str, Answers],
) -> dict[str, Any]:
    """One label: its charts and cards for the page, its operating points for the page's script."""
    points = 240 if len(document["labels"]) <= 3 else 120
    number = reported(document["task"], document["labels"]).index(column)
    roc, precision_recall, calibration, cards, data = [], [], [], [], []
    for i, (name, answer) in enumerate(answers.items()):
        target, p = targets[:, column], answer.probabilities[:, column]
        thresholds = document["models"][name]["thresholds"]
        own = 0.5 if thresholds is None else thresholds[label]
        exact = curves(target, p)
        curve = thin(exact, points, keep=own)
        at = index_of(curve, own)
        metrics = document["models"][name]["labels"][label]
        key, style = f"{number}-{i}", i % STYLES
        x, y = curve.roc
        roc.append(
            Series(
                name,
                style,
                x,
                y,
                note=_note("AUROC", metrics["auroc"]),
                mark=(x[at], y[at]) if len(x) else None,
                key=f"roc-{key}",
            )
        )
        x, y = _steps(curve)
        mark = None
        if curve.positives and at > 0:
            mark = (curve.tp[at] / curve.positives, curve.tp[at] / (curve.tp[at] + curve.fp[at]))
        precision_recall.append(
            Series(name, style, x, y, note=_note("AUPRC", metrics["auprc"]), mark=mark, key=f"pr-{key}")
        )
        bins = reliability(target, p)
        calibration.append(
            Series(name, style, bins.predicted, bins.observed, note=_note("ECE", metrics["ece"]), dots=True)
        )
        entry = _operating_points(curve, own, at)
        data.append(entry)
        cards.append(
            {
                "name": name,
                "style": style,
                "key": key,
                "steps": len(entry["t"]) - 1,
                **_at(curve, at),
                **entry,
            }
        )
    first = document["models"][next(iter(answers))]["labels"][label]
    share = first["positives"] / max(first["positives"] + first["negatives"], 1)
    charts = [
        chart(roc, Axis("1 − specificity"), Axis("Sensitivity"), title="ROC", reference=((0, 0), (1, 1))),
        chart(
            precision_recall,
            Axis("Sensitivity (recall)"),
            Axis("Precision"),
            title="Precision and recall",
            reference=((0, share), (1, share)),
        ),
        chart(
            calibration,
            Axis("Predicted probability"),
            Axis("Observed frequency"),
            title="Calibration",
            reference=((0, 0), (1, 1)),
        ),
    ]
    page = {
        "label": label,
        "positives": first["positives"],
        "negatives": first["negatives"],
        "unknown": first["unknown"],
        "charts": charts,
        "cards": cards,
    }
    return {
        "page": page,
        "data": {"positives": first["positives"], "negatives": first["negatives"], "models": data},
    }


def _note(title: str, entry: Entry) -> str:
    return f"{title} {figure(entry['value'])}"


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


def _at(curve: Curves, at: int) -> dict[str, Any]:
    tp, fp = int(curve.tp[at]), int(curve.fp[at])
    return {"now": {"tp": tp, "fp": fp, "fn": curve.positives - tp, "tn": curve.negatives - fp}}


def _speed_chart(document: Mapping[str, Any]) -> Markup | None:
    """Overall AUROC against latency; None unless at least two models have both."""
    rows = [
        (i, name, model["speed"]["latency_ms_p50"], model["overall"]["auroc"])
        for i, (name, model) in enumerate(document["models"].items())
        if model["speed"] and model["overall"]["auroc"]["value"] is not None
    ]
    if len(rows) < 2:
        return None
    bounds = [bound for *_, e in rows for bound in (e["value"], e["low"], e["high"]) if bound is not None]
    low, high = min(bounds), max(bounds)
    margin = max((high - low) * 0.15, 0.002)
    ticks = nice_ticks(max(0.0, low - margin), min(1.0, high + margin))
    series = [
        Series(
            name,
            i % STYLES,
            [latency],
            [auroc["value"]],
            points=True,
            text=True,
            y_interval=[(auroc["low"], auroc["high"])] if auroc["low"] is not None else (),
        )
        for i, name, latency, auroc in rows
    ]
    latencies = [latency for _, _, latency, _ in rows]
    return chart(
        series,
        log_axis("Latency of one image, ms", min(latencies), max(latencies)),
        Axis("AUROC", ticks[0], ticks[-1], ticks),
        title="AUROC against latency",
        legend=False,
    )
