"""Curves of a training log as inline SVG: a page shows them without loading anything."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, MARGIN = 380, 260, 36
LABEL = 62
"""Width left of a chart for its numbers, such as 3.57e-08."""
FEW_EPOCHS = 12
"""Lines of the log up to which every value is marked with a point."""
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#b83280", "#6b46c1", "#975a16", "#0987a0", "#9b2c2c")

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;
overflow-wrap:break-word}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.quiet{opacity:.75}
.row{display:flex;flex-wrap:wrap;gap:1.2rem}figure{margin:0;max-width:100%}figcaption{font-weight:600;font-size:.9rem}
svg{width:380px;max-width:100%;height:auto}svg text{font-size:11px;fill:currentColor}
.frame{fill:none;stroke:currentColor;opacity:.35}.line{fill:none;stroke-width:1.8}
.key{list-style:none;padding:0;margin:.2rem 0;font-size:.85rem}.key i{display:inline-block;width:.8em;height:.8em;
border-radius:50%;margin-right:.4em}
"""


def page(title: str, body: str, style: str = "") -> str:
    """An HTML page around a body, which must be escaped already."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body><h1>{escape(title)}</h1>{body}"
        "</body></html>"
    )


def curves(title: str, names: Mapping[str, str], log: Sequence[Mapping[str, Any]]) -> str:
    """A chart of numbers over the lines of a log, so that epochs done again stand beside their first time.

    Args:
        title: Its heading.
        names: Name in the log -> legend.
        log: Lines of metrics.jsonl; what is None in a line, or absent, leaves a gap.

    Returns:
        An HTML figure.
    """
    known = {name: [line.get(name) for line in log] for name in names}
    values = [value for line in known.values() for value in line if value is not None and math.isfinite(value)]
    if not values:
        return f"<figure><figcaption>{escape(title)}</figcaption><p>undefined in this run</p></figure>"
    low, high = min(values), max(values)
    ends = {f"{high:.3g}": MARGIN / 2 + 8, f"{low:.3g}": HEIGHT - MARGIN}
    if len(ends) == 1:  # always the same: written once, beside the middle
        ends = {next(iter(ends)): HEIGHT / 2 - MARGIN / 4 + 4}
        low, high = low - 0.5, high + 0.5
    left, across, up = LABEL, WIDTH - LABEL - MARGIN / 2, HEIGHT - 1.5 * MARGIN
    parts = [
        f"<rect class='frame' x='{left}' y='{MARGIN / 2}' width='{across}' height='{up}'/>",
        *(f"<text x='{left - 4}' y='{y}' text-anchor='end'>{number}</text>" for number, y in ends.items()),
        f"<text x='{left}' y='{HEIGHT - 22}'>{log[0]['epoch']}</text>",
        f"<text x='{left + across / 2}' y='{HEIGHT - 6}' text-anchor='middle'>epoch</text>",
    ]
    if len(log) > 1:
        parts.append(f"<text x='{left + across}' y='{HEIGHT - 22}' text-anchor='end'>{log[-1]['epoch']}</text>")
    for style, line in enumerate(known.values()):
        pen, path, points = "M", [], []
        for place, value in enumerate(line):
            if value is None or not math.isfinite(value):
                pen = "M"
                continue
            x = left + across * (place / (len(log) - 1) if len(log) > 1 else 0.5)
            y = MARGIN / 2 + up * (high - value) / (high - low)
            path.append(f"{pen}{x:.1f} {y:.1f}")
            points.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.6' fill='{COLOURS[style]}'/>")
            pen = "L"
        if path:
            parts.append(f"<path class='line' stroke='{COLOURS[style]}' d='{''.join(path)}'/>")
        if len(log) <= FEW_EPOCHS:  # a line through one point shows nothing
            parts += points
    return figure(title, "".join(parts), {shown: style for style, (_, shown) in listed(names)})


def figure(title: str, inside: str, key: Mapping[str, int]) -> str:
    """An HTML figure around the inside of an SVG, with a legend: name -> number of its colour."""
    entries = "".join(
        f"<li><i style='background:{COLOURS[style % len(COLOURS)]}'></i>{escape(name)}</li>"
        for name, style in key.items()
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='{escape(title)}'>{inside}</svg><ul class='key'>{entries}</ul></figure>"
    )


def listed(names: Mapping[str, Any]) -> list[tuple[int, tuple[str, Any]]]:
    """The entries with their numbers, which choose colours."""
    return list(enumerate(names.items()))
