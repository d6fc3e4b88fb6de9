"""The picture page of a run: nearest images, a map of the features, and the log as curves, in one HTML file.

Drawn as inline SVG and PNG: the page loads nothing from outside, and every text on it is escaped.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_ssl.method import PagePart

WIDTH, HEIGHT, MARGIN = 380, 260, 36
FEW_EPOCHS = 12
"""Lines of the log up to which every value is marked with a point."""
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#b83280", "#6b46c1", "#975a16", "#0987a0", "#9b2c2c")

CHARTS: dict[str, dict[str, str]] = {
    "Loss": {"loss": "loss"},
    "Effective rank": {"rank": "of the embeddings", "rankme": "of the features (RankMe)"},
    "Validation images, by frozen features (AUROC)": {
        "probe_auroc": "linear probe",
        "probe_auroc_10": "linear probe, a tenth of the labels",
        "knn_auroc": "20 nearest neighbours",
    },
}
"""Title of a chart -> the numbers of the log that it shows -> legend; of every method."""

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.quiet{opacity:.75}
.row{display:flex;flex-wrap:wrap;gap:1.2rem}figure{margin:0;max-width:100%}figcaption{font-weight:600;font-size:.9rem}
svg{width:380px;max-width:100%;height:auto}svg text{font-size:11px;fill:currentColor}
.frame{fill:none;stroke:currentColor;opacity:.35}.line{fill:none;stroke-width:1.8}
.strip{display:flex;gap:3px}.strip img{width:72px;height:72px;image-rendering:auto}
.key{list-style:none;padding:0;margin:.2rem 0;font-size:.85rem}.key i{display:inline-block;width:.8em;height:.8em;
border-radius:50%;margin-right:.4em}
"""


def page(
    title: str,
    facts: Mapping[str, object],
    part: PagePart,
    maps: Sequence[Mapping[str, Any]],
    log: Sequence[Mapping[str, Any]],
) -> str:
    """The page.

    Args:
        title: Heading.
        facts: Name -> value, listed at the top.
        part: The method's part.
        maps: One entry a map: "title", "points" (N, 2), and "groups": name -> (N,) bool, drawn in this order.
        log: Lines of metrics.jsonl; what is None in a line leaves a gap.

    Returns:
        HTML.
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><ul>",
        *(f"<li>{escape(str(name))}: {escape(str(value))}</li>" for name, value in facts.items()),
        "</ul><p class='quiet'>Research use only. Not a medical device.</p>",
        f"<h2>{escape(part.heading)}</h2><p>{escape(part.text)}</p><div class='row'>",
        *(_strip(strip) for strip in part.strips),
        "</div><h2>Map of the features</h2><p>Features of the weights kept, in two dimensions. Labels were not "
        "trained with.</p><div class='row'>",
        *(_map(**one) for one in maps),
        "</div><h2>The run</h2><div class='row'>",
        *(_curves(heading, names, log) for heading, names in {**part.charts, **CHARTS}.items()),
        "</div>",
        _collapses(log),
        "</body></html>",
    ]
    return "".join(parts)


def _strip(strip: Mapping[str, Any]) -> str:
    images = "".join(
        f"<img alt='{escape(strip['heading'])}, image {place}' src='{_png(image)}'>"
        for place, image in enumerate(strip["images"], start=1)
    )
    heading = escape(strip["heading"])
    return f"<figure><figcaption>{heading}</figcaption><div class='strip'>{images}</div></figure>"


def _png(image: NDArray[np.uint8]) -> str:
    _, coded = cv2.imencode(".png", image)
    return "data:image/png;base64," + base64.b64encode(coded.tobytes()).decode("ascii")


def _map(title: str, points: NDArray[np.floating], groups: Mapping[str, NDArray[np.bool_]]) -> str:
    low, high = points.min(0), points.max(0)
    placed = MARGIN / 2 + (points - low) / np.maximum(high - low, 1e-12) * (np.array([WIDTH, HEIGHT]) - MARGIN)
    dots = []
    for style, chosen in enumerate(groups.values()):
        colour = COLOURS[style % len(COLOURS)]
        spots = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.6'/>" for x, y in placed[chosen])
        dots.append(f"<g fill='{colour}' fill-opacity='.7'>{spots}</g>")
    inside = f"<rect class='frame' x='1' y='1' width='{WIDTH - 2}' height='{HEIGHT - 2}'/>" + "".join(dots)
    return _figure(title, inside, {f"{name} ({int(chosen.sum())})": style for style, (name, chosen) in _listed(groups)})


def _curves(title: str, names: Mapping[str, str], log: Sequence[Mapping[str, Any]]) -> str:
    """Lines over the order of the log's lines, so that epochs done again stand beside their first time."""
    known = {name: [line.get(name) for line in log] for name in names}
    values = [value for line in known.values() for value in line if value is not None and math.isfinite(value)]
    if not values:
        return f"<figure><figcaption>{escape(title)}</figcaption><p>undefined in this run</p></figure>"
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    across, up = WIDTH - 1.5 * MARGIN, HEIGHT - 1.5 * MARGIN
    parts = [
        f"<rect class='frame' x='{MARGIN}' y='{MARGIN / 2}' width='{across}' height='{up}'/>",
        f"<text x='{MARGIN - 4}' y='{MARGIN / 2 + 8}' text-anchor='end'>{high:.3g}</text>",
        f"<text x='{MARGIN - 4}' y='{MARGIN / 2 + up}' text-anchor='end'>{low:.3g}</text>",
        f"<text x='{MARGIN}' y='{HEIGHT - 4}'>epoch {log[0]['epoch']}</text>",
        f"<text x='{MARGIN + across}' y='{HEIGHT - 4}' text-anchor='end'>{log[-1]['epoch']}</text>",
    ]
    for style, line in enumerate(known.values()):
        pen, path, points = "M", [], []
        for place, value in enumerate(line):
            if value is None or not math.isfinite(value):
                pen = "M"
                continue
            x = MARGIN + across * place / max(len(log) - 1, 1)
            y = MARGIN / 2 + up * (high - value) / (high - low)
            path.append(f"{pen}{x:.1f} {y:.1f}")
            points.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.6' fill='{COLOURS[style]}'/>")
            pen = "L"
        if path:
            parts.append(f"<path class='line' stroke='{COLOURS[style]}' d='{''.join(path)}'/>")
        if len(log) <= FEW_EPOCHS:  # a line through one point shows nothing
            parts += points
    return _figure(title, "".join(parts), {shown: style for style, (_, shown) in _listed(names)})


def _figure(title: str, inside: str, key: Mapping[str, int]) -> str:
    entries = "".join(
        f"<li><i style='background:{COLOURS[style % len(COLOURS)]}'></i>{escape(name)}</li>"
        for name, style in key.items()
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='{escape(title)}'>{inside}</svg><ul class='key'>{entries}</ul></figure>"
    )


def _listed(names: Mapping[str, Any]) -> list[tuple[int, tuple[str, Any]]]:
    return list(enumerate(names.items()))


def _collapses(log: Sequence[Mapping[str, Any]]) -> str:
    """Every collapse and the answer to it."""
    told = [
        f"<li>epoch {line['epoch']}: {escape(str(line['collapse']))}; "
        f"{escape(str(line.get('recovery') or 'nothing was changed'))}</li>"
        for line in log
        if line.get("collapse")
    ]
    return f"<h2>Collapses</h2><ul>{''.join(told)}</ul>" if told else ""
