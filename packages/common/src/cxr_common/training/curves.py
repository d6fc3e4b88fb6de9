"""Curves of a training log, and the page around them."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cxr_data import charts
from cxr_data.charts import Axis, Chart, Series

FEW_EPOCHS = 12
"""Lines of the log up to which every value is marked with a point."""

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;
overflow-wrap:break-word;background:var(--page);color:var(--ink)}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.quiet{color:var(--soft)}
.row{display:flex;flex-wrap:wrap;gap:1.2rem}figure{margin:0;max-width:100%}figcaption{font-weight:600;font-size:.9rem}
.chart{width:380px}.chart>svg{width:100%;height:auto}.swatch{width:22px;height:8px;margin-right:.45em;overflow:visible}
.legend{list-style:none;padding:0;margin:.2rem 0;font-size:.85rem}
"""


def page(title: str, body: str, style: str = "") -> str:
    """An HTML page around a body, which must be escaped already."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{charts.style()}{STYLE}{style}</style></head><body>"
        f"<h1>{escape(title)}</h1>{body}</body></html>"
    )


def curves(title: str, names: Mapping[str, str], log: Sequence[Mapping[str, Any]]) -> str:
    """A chart of numbers over the lines of a log, so that epochs done again stand beside their first time.

    Args:
        title: Its heading.
        names: Name in the log -> legend.
        log: Lines of metrics.jsonl; what is None in a line, or absent, leaves a gap.

    Returns:
        An HTML figure; the numbers alone where each has one value only, since a curve through one point shows nothing.
    """
    lines = {name: [math.nan if line.get(name) is None else line[name] for line in log] for name in names}
    values = [value for line in lines.values() for value in line if math.isfinite(value)]
    if not values:
        return f"<figure class='chart'><figcaption>{escape(title)}</figcaption><p>undefined in this run</p></figure>"
    known = {name: [place for place, value in enumerate(line) if math.isfinite(value)] for name, line in lines.items()}
    if max(map(len, known.values())) == 1:
        told = "".join(
            f"<li>{escape(shown)}: <b>{lines[name][known[name][0]]:.4g}</b>, epoch {log[known[name][0]]['epoch']}</li>"
            for name, shown in names.items()
            if known[name]
        )
        return f"<figure class='chart'><figcaption>{escape(title)}</figcaption><ul class='legend'>{told}</ul></figure>"
    low, high = min(values), max(values)
    up = charts.nice_axis("", low, high) if low < high else Axis("", low - 0.5, high + 0.5, [low])
    last = len(log) - 1
    across = Axis("epoch", 0, max(last, 1), {place: str(log[place]["epoch"]) for place in sorted({0, last // 2, last})})
    radius = 2.6 if len(log) <= FEW_EPOCHS else 0
    series = [
        Series(shown, style, range(len(log)), lines[name], radius=radius)
        for style, (name, shown) in enumerate(names.items())
    ]
    return charts.figure(Chart(title, series, across, up, height=260, left=62))
