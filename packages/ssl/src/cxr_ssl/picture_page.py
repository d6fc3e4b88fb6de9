"""The picture page of a run: nearest images, a map of the features, and the log as curves, in one HTML file.

Drawn as inline SVG and PNG: the page loads nothing from outside, and every text on it is escaped.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_common.training.curves import COLOURS, HEIGHT, MARGIN, WIDTH, curves, figure, listed
from cxr_common.training.curves import page as whole_page
from cxr_ssl.method import PagePart

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
.strip{display:flex;gap:3px}.strip img{flex:0 1 72px;min-width:0;width:72px;aspect-ratio:1}
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
        "<ul>",
        *(f"<li>{escape(str(name))}: {escape(str(value))}</li>" for name, value in facts.items()),
        "</ul><p class='quiet'>Research use only. Not a medical device.</p>",
        f"<h2>{escape(part.heading)}</h2><p>{escape(part.text)}</p><div class='row'>",
        *(_strip(strip) for strip in part.strips),
        "</div><h2>Map of the features</h2><p>Features of the weights kept, in two dimensions. Labels were not "
        "trained with.</p><div class='row'>",
        *(_map(**one) for one in maps),
        "</div><h2>The run</h2><div class='row'>",
        *(curves(heading, names, log) for heading, names in {**part.charts, **CHARTS}.items()),
        "</div>",
        _collapses(log),
    ]
    return whole_page(title, "".join(parts), _STYLE)


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
    return figure(title, inside, {f"{name} ({int(chosen.sum())})": style for style, (name, chosen) in listed(groups)})


def _collapses(log: Sequence[Mapping[str, Any]]) -> str:
    """Every collapse and the answer to it."""
    lines = [
        f"<li>epoch {line['epoch']}: {escape(str(line['collapse']))}; "
        f"{escape(str(line.get('recovery') or 'nothing was changed'))}</li>"
        for line in log
        if line.get("collapse")
    ]
    return f"<h2>Collapses</h2><ul>{''.join(lines)}</ul>" if lines else ""
