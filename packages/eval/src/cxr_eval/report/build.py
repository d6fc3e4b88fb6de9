"""Build the report: numbers and answers in, one self-contained HTML page and its plots out."""

import base64
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cxr_data import charts
from cxr_data.charts import STYLES, Axis, Chart, Series
from cxr_data.file_names import file_names
from cxr_data.models.licences import is_loud, trail
from cxr_eval import entries, subgroups
from cxr_eval.metrics import records
from cxr_eval.metrics.records import METRICS
from cxr_eval.predictions import Answers
from cxr_eval.report.panels import panel
from cxr_eval.results import reported
from cxr_eval.terminal import best_of

GAPS_SHOWN = 10
FOREMOST = 5
"""Models listed at the top; the others are folded away."""
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
    forests = {column: forest(document, column) for column in document["subgroups"]["columns"]}
    speed = _speed_chart(document)
    labels, groups = file_names(shown), file_names(forests)
    drawn = {
        f"{name}-{labels[part['label']]}": chart
        for part in panels
        for name, chart in (part["charts"] | part["calibration"]).items()
    }
    drawn |= {f"subgroups-{groups[column]}": chart for column, chart in forests.items()}
    drawn |= {"auroc-latency": speed} if speed else {}
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
            no_interval=_no_interval(summary),
            no_interval_too=_no_interval(key for key in METRICS if key not in summary),
            best={key: best_of(document, key) for key in summary},
            shown=shown,
            lead=_lead(document),
            gains=document.get("gains", {}),
            foremost=FOREMOST,
            external="external" in [model["cohort"] for model in document["models"].values()],
            reach=_reach(document),
            panels=panels,
            data=[part["data"] for part in panels],
            forests=forests,
            gaps=document["subgroups"]["gaps"][:GAPS_SHOWN],
            group_figures=records.shown("subgroup"),
            least_patients=subgroups.LEAST_PATIENTS,
            least_of_class=entries.LEAST_OF_CLASS,
            corrupted=[name for name, model in document["models"].items() if model.get("corruptions")],
            explanations=explanations,
            speed_chart=speed,
            machine=next((model["speed"] for model in document["models"].values() if model["speed"]), None),
        )
    )
    return page, {name: charts.standalone(chart) for name, chart in drawn.items()}


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "chart": lambda chart: Markup(charts.figure(chart)),
        "swatch": lambda style: Markup(charts.swatch(style)),
        "figure": figure,
        "cell": cell,
        "averaged": averaged,
        "gap": gap,
        "signed": signed,
        "points": points,
        "big": big,
        "short": short,
        "licence_lines": lambda file: trail(file.get("licence"), file.get("ancestors") or ()),
        "pvalue": pvalue,
        "image": image,
    }
    environment.tests["loud"] = is_loud
    environment.globals |= {"interval_bar": interval_bar, "chart_style": Markup(charts.style())}
    return environment


def figure(value: float | None, digits: int = 3) -> str:
    """A number in fixed decimals with a real minus, an en dash where there is none."""
    return "–" if value is None else f"{value:z.{digits}f}".replace("-", "−")


def signed(value: float | None) -> str:
    """A difference with its sign (a real minus) in three decimals."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def points(value: float | None) -> str:
    """A difference of shares in percentage points with its sign (a real minus) and two decimals."""
    return "–" if value is None else f"{100 * value:+z.2f}".replace("-", "−")


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

    An undefined value is a dash with the reason as its tooltip.

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
    """A difference with its sign; the reason for a missing interval is its tooltip."""
    if not entry.get("interval_reason"):
        return Markup("{}").format(signed(entry["value"]))
    return Markup('<abbr title="No interval: {}">{}</abbr>').format(entry["interval_reason"], signed(entry["value"]))


def averaged(entry: Entry, labels: int) -> Markup:
    """How many of the labels an average is over, in small print; empty where it is all of them."""
    if "labels" not in entry:
        return Markup("")
    return Markup("<small>{} of {} labels</small>").format(entry["labels"], labels)


def _no_interval(keys: Iterable[str]) -> dict[str, str]:
    """Why some of these metrics have no interval: those of one reason, joined -> the reason."""
    reasons: dict[str, list[str]] = {}
    for metric in (METRICS[key] for key in keys):
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
    """Half-width of the scale of each metric's difference bars: the same for all models and gains."""
    reach = {}
    for key in records.compared():
        compared = [*document["differences"].values(), *document.get("gains", {}).values()]
        figures = [difference["overall"][key] for difference in compared]
        bounds = [abs(bound) for e in figures for bound in (e["value"], e["low"], e["high"]) if bound is not None]
        reach[key] = max(bounds, default=0.0) or 1.0
    return reach


def interval_bar(value: float, low: float, high: float, reach: float) -> Markup:
    """A difference and its interval as a line around zero, for a table cell.

    Args:
        value: The difference.
        low: Lower bound.
        high: Upper bound.
        reach: Largest absolute value on the scale, > 0.

    Returns:
        An ``<svg>`` that says nothing to a screen reader: the numbers stand beside it.
    """
    at = [round(60 + 56 * max(-1.0, min(1.0, number / reach)), 1) for number in (low, high, value)]
    side = "away" if low > 0 or high < 0 else "around"
    return Markup(
        '<svg class="interval {}" viewBox="0 0 120 12" aria-hidden="true"><path class="zero" d="M60 0V12"/>'
        '<path d="M{} 6H{}"/><circle cx="{}" cy="6" r="3"/></svg>'
    ).format(side, *at)


def forest(document: Mapping[str, Any], column: str) -> Chart:
    """A forest plot: AUROC with its interval of every group of a column and every model."""
    models, groups = document["models"], document["subgroups"]["columns"][column]["groups"]
    names = [f"{group['name']} ({group['images']})" for group in groups]
    of_models = {
        name: [model["subgroups"][column][group["name"]]["overall"]["auroc"] for group in groups]
        for name, model in models.items()
    }
    axis = _auroc_axis([entry for of_groups in of_models.values() for entry in of_groups])
    step = len(models) + 1  # a line for each model, and one of space, for each group
    series = []
    for i, (name, of_groups) in enumerate(of_models.items()):
        known = [(group * step + i + 1, entry) for group, entry in enumerate(of_groups) if entry["value"] is not None]
        series.append(
            Series(
                name,
                i % STYLES,
                [entry["value"] for _, entry in known],
                [place for place, _ in known],
                line=False,
                radius=4,
                x_interval=[_bounds(entry) for _, entry in known],
            )
        )
    texts, spoken = [], []
    for group, (name, *entries_of) in enumerate(zip(names, *of_models.values(), strict=True)):
        values = [f"{entry['value']:.3f}" for entry in entries_of if entry["value"] is not None]
        if not values:
            texts.append((axis.low, group * step + step / 2, "too few to say"))
        spoken.append(f"{name} {', '.join(values) or 'too few to say'}")
    title, total = f"By {column} (images)", step * len(groups)
    ticks = {group * step + step / 2: name for group, name in enumerate(names)}
    return Chart(
        title,
        series,
        axis,
        Axis(low=total, high=0, ticks=ticks),
        texts=texts,
        spoken=f"{title}, AUROC: {'; '.join(spoken)}",
        height=52 + 11 * total,
        left=92,
    )


def _bounds(entry: Entry) -> tuple[float, float] | None:
    return None if entry["low"] is None else (entry["low"], entry["high"])


def _auroc_axis(figures: Sequence[Entry]) -> Axis:
    """An axis around the values and intervals of figures."""
    bounds = [e[key] for e in figures for key in ("value", "low", "high") if e[key] is not None] or [0.0, 1.0]
    margin = max((max(bounds) - min(bounds)) * 0.1, 0.003)
    return charts.nice_axis("AUROC", max(0.0, min(bounds) - margin), min(1.0, max(bounds) + margin))


def _speed_chart(document: Mapping[str, Any]) -> Chart | None:
    """Overall AUROC against latency; None unless at least two models have both."""
    rows = [
        (i, name, model["speed"]["latency_ms_p50"], model["overall"]["auroc"])
        for i, (name, model) in enumerate(document["models"].items())
        if model["speed"] and model["overall"]["auroc"]["value"] is not None
    ]
    if len(rows) < 2:
        return None
    series = [
        Series(name, i % STYLES, [latency], [e["value"]], line=False, radius=5, text=True, y_interval=[_bounds(e)])
        for i, name, latency, e in rows
    ]
    latencies = [latency for _, _, latency, _ in rows]
    across = charts.log_axis("Latency of one image, ms", min(latencies), max(latencies))
    return Chart("AUROC against latency", series, across, _auroc_axis([e for *_, e in rows]), legend=())
