"""Forest plots: one figure with its interval for every group and model."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from cxr_eval.report.svg import document, nice_ticks

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 400, 92, 12, 6, 40
STEP, GAP = 11, 12


@dataclass(frozen=True)
class Forest:
    """What a forest plot shows.

    Attributes:
        title: Its name.
        axis: What the axis shows.
        rows: (name of the group, one (style, value, low, high) a model or None where there is no figure).
    """

    title: str
    axis: str
    rows: Sequence[tuple[str, Sequence[tuple[int, float, float | None, float | None] | None]]]


def figure(forest: Forest, legend: Markup) -> Markup:
    """Draw a forest plot for the page, as a ``<figure>``.

    Args:
        forest: What to draw.
        legend: Which colour is which model.
    """
    body, height = _body(forest)
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        "{}</figure>"
    ).format(forest.title, WIDTH, height, _spoken(forest), body, legend)


def standalone(forest: Forest, names: Sequence[tuple[int, str]]) -> str:
    """Draw a forest plot as an SVG file of its own.

    Args:
        forest: What to draw.
        names: (style, name) of every model.
    """
    body, height = _body(forest)
    legend = Markup("").join(
        Markup('<circle class="dot s{}" cx="{}" cy="{}" r="4"/><text class="name" x="{}" y="{}">{}</text>').format(
            style, LEFT, height + 8 + 16 * i, LEFT + 12, height + 12 + 16 * i, name
        )
        for i, (style, name) in enumerate(names)
    )
    return document(forest.title, body + legend, WIDTH, height + 16 * len(names) + 8)


def _body(forest: Forest) -> tuple[Markup, int]:
    bounds = [
        bound for _, marks in forest.rows for mark in marks if mark for bound in mark[1:] if bound is not None
    ] or [0.0, 1.0]
    ticks = nice_ticks(max(0.0, min(bounds) - 0.005), min(1.0, max(bounds) + 0.005))
    low, high = ticks[0], ticks[-1]
    heights = [max(len(marks), 1) * STEP + GAP for _, marks in forest.rows]
    bottom = TOP + sum(heights)

    def at(value: float) -> float:
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    parts = []
    for tick in ticks:
        parts.append(Markup('<path class="grid" d="M{} {}V{}"/>').format(at(tick), TOP, bottom))
        parts.append(Markup('<text x="{}" y="{}" class="tick mid">{:g}</text>').format(at(tick), bottom + 15, tick))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(Markup('<text x="{}" y="{}" class="axis mid">{}</text>').format(middle, bottom + 33, forest.axis))
    top = TOP
    for (name, marks), height in zip(forest.rows, heights, strict=True):
        centre = top + height / 2
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, top + height, WIDTH - RIGHT))
        parts.append(Markup('<text x="{}" y="{}" class="tick end">{}</text>').format(LEFT - 8, centre + 4, name))
        for i, mark in enumerate(marks):
            if mark is None:
                continue
            style, value, start, end = mark
            down = top + GAP / 2 + STEP * (i + 0.5)
            if start is not None and end is not None:
                parts.append(Markup('<path class="bar s{}" d="M{} {}H{}"/>').format(style, at(start), down, at(end)))
            parts.append(Markup('<circle class="dot s{}" cx="{}" cy="{}" r="4"/>').format(style, at(value), down))
        if not any(marks):
            parts.append(Markup('<text x="{}" y="{}" class="tick">too few to say</text>').format(LEFT + 6, centre + 4))
        top += height
    return Markup("").join(parts), bottom + BOTTOM


def _spoken(forest: Forest) -> Markup:
    rows = [
        f"{name} " + (", ".join(f"{mark[1]:.3f}" for mark in marks if mark) or "too few to say")
        for name, marks in forest.rows
    ]
    return escape(f"{forest.title}, {forest.axis}: " + "; ".join(rows))
