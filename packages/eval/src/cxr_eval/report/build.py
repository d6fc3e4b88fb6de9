"""Build the report: numbers and answers in, one self-contained HTML page and its plots out."""

import base64
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cxr_data.file_names import file_names
from cxr_data.models.licences import trail
from cxr_eval import entries, subgroups
from cxr_eval.metrics import records
from cxr_eval.metrics.records import METRICS
from cxr_eval.predictions import Answers
from cxr_eval.report import forest, svg
from cxr_eval.report.panels import STYLES, panel
from cxr_eval.report.svg import Axis, Chart, Series, interval_bar, log_axis, nice_ticks, swatch
from cxr_eval.results import reported
from cxr_eval.terminal import best_of

GAPS_SHOWN = 10
FOREMOST = 5
"""Models told of before the page is unfolded."""
Entry = Mapping[str, Any]


def render(
    document: Mapping[str, Any],
    targets: NDArray[np.float32],
    answers: Mapping[str, Answers],
    explanations: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, str]]:
    """The page and its plots.

    Args:
        document: The content of metrics.json (see docs/metrics.md).
        targets: (N, L) in {0, 1, NaN}.
        answers: Answers by model name, in the document's order.
        explanations: Where the models looked, or None to leave the section out: ``{"method", "labels": [{"label",
            "cases": [{"png" (bytes), "caption", "tiles" (names above it), "kind" ("right" or "wrong")}]}], "scores":
            [{"model", "name", "label" (None: all, which are shown), "value", "low", "high"}]}``.

    Returns:
        HTML that asks for nothing from outside, and name -> SVG file of every plot.
    """
    columns = reported(document["task"], document["labels"])
    summary = records.shown("summary")
    shown = [document["labels"][i] for i in columns]
    panels = [panel(document, n, shown[n], i, targets, answers) for n, i in enumerate(columns)]
    style = {name: i % STYLES for i, name in enumerate(document["models"])}
    forests = _forests(document)
    speed = _speed_chart(document)
    legend = svg.legend([Series(name, style[name], (), ()) for name in document["models"]])
    labels, groups = file_names(shown), file_names(forests)
    plots = {
        f"{name}-{labels[one['label']]}": svg.standalone(chart)
        for one in panels
        for name, chart in (one["charts"] | one["calibration"]).items()
    }
    legends = [(number, name) for name, number in style.items()]
    plots |= {f"subgroups-{groups[column]}": forest.standalone(f, legends) for column, f in forests.items()}
    plots |= {"auroc-latency": svg.standalone(speed)} if speed else {}
    for one in panels:
        one |= {key: [svg.figure(chart) for chart in one[key].values()] for key in ("charts", "calibration")}
    page = (
        _environment()
        .get_template("page.html")
        .render(
            d=document,
            names=list(document["models"]),
            style=style,
            titles={key: metric.title for key, metric in METRICS.items()},
            summary=summary,
            metrics=list(METRICS),
            compared=[key for key in records.compared() if key in summary],
            compared_too=[key for key in records.compared() if key not in summary],
            calibration=records.of_family("calibration"),
            lower=[METRICS[key].title for key in summary if METRICS[key].better == "lower"],
            no_interval=_no_interval(),
            best={key: best_of(document, key) for key in summary},
            shown=shown,
            lead=_lead(document),
            foremost=FOREMOST,
            external="external" in [model["cohort"] for model in document["models"].values()],
            reach=_reach(document),
            panels=panels,
            data=[one["data"] for one in panels],
            forests=[forest.figure(f, legend) for f in forests.values()],
            gaps=document["subgroups"]["gaps"][:GAPS_SHOWN],
            group_figures=records.shown("subgroup"),
            least_patients=subgroups.LEAST_PATIENTS,
            least_of_class=entries.LEAST_OF_CLASS,
            explanations=explanations,
            speed_chart=svg.figure(speed) if speed else None,
            machine=next((model["speed"] for model in document["models"].values() if model["speed"]), None),
        )
    )
    return page, plots


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "figure": figure,
        "cell": cell,
        "averaged": averaged,
        "gap": gap,
        "signed": signed,
        "big": big,
        "short": short,
        "licence_lines": lambda file: trail(file.get("licence"), file.get("ancestors") or ()),
        "pvalue": pvalue,
        "image": image,
    }
    environment.globals |= {"swatch": swatch, "interval_bar": interval_bar}
    return environment


def figure(value: float | None, digits: int = 3) -> str:
    """A number in fixed decimals with a real minus, an en dash where there is none."""
    return "–" if value is None else f"{value:z.{digits}f}".replace("-", "−")


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


def image(png: bytes) -> str:
    """A PNG as an address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def cell(entry: Entry, labels: int = 0) -> Markup:
    """A metric for a table cell: value, its interval below, and how many of the labels it averages if not all.

    A dash that tells why stands for a value that is undefined.

    Args:
        entry: The metric.
        labels: How many labels there are; needed for an average.
    """
    if entry["value"] is None:
        return Markup('<abbr title="{}">–</abbr>').format(entry.get("reason", "undefined"))
    text = Markup("<b>{}</b>").format(figure(entry["value"]))
    if entry.get("interval_reason"):
        text = Markup('<b><abbr title="No interval: {}">{}</abbr></b>').format(
            entry["interval_reason"], figure(entry["value"])
        )
    elif entry["low"] is not None:
        between = " to " if entry["low"] < 0 else "–"
        text += Markup("<small>{}{}{}</small>").format(figure(entry["low"]), between, figure(entry["high"]))
    return text + averaged(entry, labels)


def gap(entry: Entry) -> Markup:
    """A difference with its sign; hovered over, it tells why it has no interval."""
    if not entry.get("interval_reason"):
        return Markup("{}").format(signed(entry["value"]))
    return Markup('<abbr title="No interval: {}">{}</abbr>').format(entry["interval_reason"], signed(entry["value"]))


def averaged(entry: Entry, labels: int) -> Markup:
    """Says in small print how many of the labels an average is over; empty where it is all of them."""
    if "labels" not in entry:
        return Markup("")
    return Markup("<small>{} of {} labels</small>").format(entry["labels"], labels)


def _no_interval() -> dict[str, str]:
    """Why metrics have no interval: those of one reason, joined -> the reason."""
    reasons: dict[str, list[str]] = {}
    for metric in METRICS.values():
        if metric.interval == "none":
            reasons.setdefault(metric.no_interval, []).append(metric.title)
    return {
        f"{' and '.join(titles)} {'have' if len(titles) > 1 else 'has'} no interval": reason
        for reason, titles in reasons.items()
    }


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
    for key in records.compared():
        figures = [difference["overall"][key] for difference in document["differences"].values()]
        bounds = [abs(bound) for e in figures for bound in (e["value"], e["low"], e["high"]) if bound is not None]
        reach[key] = max(bounds, default=0.0) or 1.0
    return reach


def _forests(document: Mapping[str, Any]) -> dict[str, forest.Forest]:
    """AUROC of every group and model, a plot for each column."""
    plots = {}
    for column, about in document["subgroups"]["columns"].items():
        rows = []
        for group in about["groups"]:
            marks = []
            for i, model in enumerate(document["models"].values()):
                entry = model["subgroups"][column][group["name"]]["overall"]["auroc"]
                known = entry["value"] is not None
                marks.append((i % STYLES, entry["value"], entry["low"], entry["high"]) if known else None)
            rows.append((f"{group['name']} ({group['images']})", marks))
        plots[column] = forest.Forest(f"By {column} (images)", "AUROC", rows)
    return plots


def _speed_chart(document: Mapping[str, Any]) -> Chart | None:
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
    return Chart(
        "AUROC against latency",
        series,
        log_axis("Latency of one image, ms", min(latencies), max(latencies)),
        Axis("AUROC", ticks[0], ticks[-1], ticks),
        legend=False,
    )
