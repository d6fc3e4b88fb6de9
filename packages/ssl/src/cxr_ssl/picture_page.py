"""The picture page of a run: nearest images, a map of the features, and the log as curves, in one HTML file.

The page loads nothing from outside: charts are SVG and images PNG within it.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_common.training.curves import curves
from cxr_common.training.curves import page as whole_page
from cxr_data import charts
from cxr_data.charts import Axis, Chart, Series
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
    """
    parts = [
        "<ul>",
        *(f"<li>{escape(str(name))}: {escape(str(value))}</li>" for name, value in facts.items()),
        "</ul><p class='quiet'>Research use only. Not a medical device.</p>",
        f"<h2>{escape(part.heading)}</h2><p>{escape(part.text)}</p><div class='row'>",
        *(_strip(strip) for strip in part.strips),
        "</div><h2>Map of the features</h2><p>Features of the weights kept, in two dimensions. Labels were not "
        "trained with.</p><div class='row'>",
        *(_map(**entry) for entry in maps),
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
    low, high = points.min(0), np.maximum(points.max(0), points.min(0) + 1e-12)
    series = [
        Series(f"{name} ({chosen.sum()})", style, *points[chosen].T, line=False, radius=3)
        for style, (name, chosen) in enumerate(groups.items())
    ]
    across, up = (Axis("", *ends, ticks=()) for ends in zip(low, high, strict=True))
    return charts.figure(Chart(title, series, across, up, height=320, left=charts.RIGHT))


def _collapses(log: Sequence[Mapping[str, Any]]) -> str:
    """Every collapse and the answer to it."""
    lines = [
        f"<li>epoch {line['epoch']}: {escape(str(line['collapse']))}; "
        f"{escape(str(line.get('recovery') or 'nothing was changed'))}</li>"
        for line in log
        if line.get("collapse")
    ]
    return f"<h2>Collapses</h2><ul>{''.join(lines)}</ul>" if lines else ""
