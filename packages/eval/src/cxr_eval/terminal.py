"""The table and messages that ``evaluate`` prints."""

import sys
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cxr_eval import entries
from cxr_eval.metrics import records
from cxr_eval.metrics.records import METRICS
from cxr_eval.notes import counted_images


def summary(document: Mapping[str, Any]) -> None:
    """Print the models side by side, best values bold; a plain table of words when the output is no terminal."""
    console = Console(file=sys.stdout, highlight=False)
    live = console.is_terminal
    if not live:
        console = Console(file=sys.stdout, highlight=False, width=240)
    images = counted_images(document["images"], document["split"])
    heading = escape(f"{document['cohort']['name']}, {images}: {document['headline']}")
    console.print(heading)
    for line in gains(document):
        console.print(escape(line))
    grid = Table(box=box.SIMPLE_HEAD if live else None, pad_edge=live)
    grid.add_column("model")
    shown = records.shown("terminal")
    best = {key: best_of(document, key) for key in shown}
    for key in shown:
        grid.add_column(METRICS[key].title, justify="right")
    grid.add_column("parameters", justify="right")
    grid.add_column("ms/image", justify="right")
    for name, model in document["models"].items():
        cells = []
        for key in shown:
            text = number(model["overall"][key]["value"])
            if key == "auroc" and model["overall"][key]["low"] is not None:
                text += f" ({number(model['overall'][key]['low'])}-{number(model['overall'][key]['high'])})"
            text += "*" if "labels" in model["overall"][key] else ""
            cells.append(f"[bold]{text}[/bold]" if name in best[key] else text)
        speed = model["speed"]
        size = f"{model['size']['parameters'] / 1e6:.2f} M"
        grid.add_row(escape(name), *cells, size, f"{speed['latency_ms_p50']:.1f}" if speed else "-")
    console.print(grid)
    for line in _partial(document):
        console.print(f"* {escape(line)}")
    for line in _without_interval(document):
        console.print(escape(line))


def gains(document: Mapping[str, Any]) -> list[str]:
    """The gain of every student over its control, one line per student."""
    lines = []
    for name, gain in document.get("gains", {}).items():
        entry = gain["overall"]["auroc"]
        if entry["value"] is None:
            continue
        interval = f"no interval: {entry.get('interval_reason')}"
        if entry["low"] is not None:
            interval = f"95 % interval {100 * entry['low']:+.1f} to {100 * entry['high']:+.1f}"
        points = f"{100 * entry['value']:+.1f} percentage points of AUROC ({interval})"
        lines.append(f"gain by the teacher: {name} against {gain['control']}, the same student without it: {points}")
    return lines


def _partial(document: Mapping[str, Any]) -> list[str]:
    """What the table's averages are over where some labels have no such figure, a line a model and number."""
    lines = []
    for name, model in document["models"].items():
        titles: dict[int, list[str]] = {}
        for key in records.shown("terminal"):
            if "labels" in model["overall"][key]:
                titles.setdefault(model["overall"][key]["labels"], []).append(METRICS[key].title)
        total = len(model.get("labels", ()))
        for n, of_metrics in titles.items():
            means = "are means" if len(of_metrics) > 1 else "is the mean"
            lines.append(f"{name}: {', '.join(of_metrics)} {means} of {n} of {total} labels")
    return lines


def _without_interval(document: Mapping[str, Any]) -> list[str]:
    """Why the AUROC of models has no interval, one line per reason."""
    models: dict[str, list[str]] = {}
    for name, model in document["models"].items():
        reason = model["overall"]["auroc"].get("interval_reason", entries.NO_RESAMPLES)
        if reason != entries.NO_RESAMPLES:
            models.setdefault(reason, []).append(name)
    return [f"no interval for the AUROC of {', '.join(names)}: {reason}" for reason, names in models.items()]


def best_of(document: Mapping[str, Any], key: str) -> set[str]:
    """Names of the models with the best overall value of a metric.

    Empty when there is nothing to compare, or when the models' averages are over different labels.
    """
    if len({_averaged(model, key) for model in document["models"].values() if "labels" in model}) > 1:
        return set()
    values = {name: model["overall"][key]["value"] for name, model in document["models"].items()}
    return records.best(key, {name: value for name, value in values.items() if value is not None})


def _averaged(model: Mapping[str, Any], key: str) -> frozenset[str]:
    """The labels that have a figure in a model's overall average; those of none where all of them have."""
    if "labels" not in model["overall"][key]:
        return frozenset()
    return frozenset(label for label, figures in model["labels"].items() if figures[key]["value"] is not None)


def number(value: float | None) -> str:
    """A metric in three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"
