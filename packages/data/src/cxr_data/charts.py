"""Charts as SVG: lines, points and intervals on two axes.

Colours, dashes and fonts come from CSS classes (``s0`` to ``s5`` for the series), so a chart follows its page into dark
mode and onto paper; a chart in a file of its own carries the light colours.

>>> chart = Chart("Loss", [Series("training", 0, [0, 1], [0.7, 0.4])], Axis("epoch"), Axis("loss"))
>>> figure(chart)[:53]
'<figure class="chart"><figcaption>Loss</figcaption><s'
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

STYLES = 6
"""Number of styles of series; style 6 looks like style 0."""
SHAPES = ("circle", "square", "diamond", "triangle")
RIGHT, TOP, BOTTOM = 12, 10, 42
LINE = 14
"""Height of a line of text."""

_COLOURS = {
    "page": ("#fff", "#14171b"),
    "ink": ("#1b1f24", "#e4e7ea"),
    "soft": ("#5b6470", "#9aa4af"),
    "line": ("#e2e6ea", "#2b3138"),
    "c0": ("#1762a8", "#6cb0f0"),
    "c1": ("#c2500a", "#f39a5c"),
    "c2": ("#2b7a4b", "#6fc98f"),
    "c3": ("#7a3f9d", "#c496e6"),
    "c4": ("#8a6a00", "#d8b84a"),
    "c5": ("#0c7489", "#5cc5d9"),
}
"""Name of the CSS variable -> colour on a light and on a dark page."""
_DASHES = ("none", "7 3", "2 2.5", "9 3 2 3", "12 4", "5 2 1 2 1 2")
_RULES = """
.tick, .axis { font: 11px system-ui, sans-serif; fill: var(--soft); }
.axis { font-size: 12px; }
.mid { text-anchor: middle; } .end { text-anchor: end; }
text.name { font: 550 12px system-ui, sans-serif; fill: var(--ink); }
.grid { stroke: var(--line); stroke-width: 1; fill: none; }
.chance { stroke: var(--soft); stroke-dasharray: 2 4; fill: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.bar { fill: none; stroke-width: 1.6; }
.line.gray { stroke: var(--soft); stroke-width: 1; opacity: .5; }
.dot, .mark { stroke: var(--page); stroke-width: 1.5; } .dot.gray { fill: var(--soft); }
""" + "".join(
    f".line.s{i} {{ stroke: var(--c{i}); stroke-dasharray: {dash}; }} .bar.s{i} {{ stroke: var(--c{i}); }} "
    f".dot.s{i}, .mark.s{i} {{ fill: var(--c{i}); }}\n"
    for i, dash in enumerate(_DASHES)
)


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: What it shows, with its unit.
        low: Value at the left or lower end.
        high: Value at the right or upper end.
        ticks: Values with a tick and a grid line; a mapping gives the text of each.
        log: Logarithmic scale; low must be positive.
    """

    label: str = ""
    low: float = 0.0
    high: float = 1.0
    ticks: Sequence[float] | Mapping[float, str] = (0, 0.2, 0.4, 0.6, 0.8, 1)
    log: bool = False

    def place(self, value: float) -> float:
        """Position of a value along the axis, 0 at low and 1 at high."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def texts(self) -> Mapping[float, str]:
        """Tick -> its text."""
        return self.ticks if isinstance(self.ticks, Mapping) else {tick: f"{tick:g}" for tick in self.ticks}


@dataclass(frozen=True)
class Series:
    """A line or points.

    Attributes:
        name: Name in the legend.
        style: Number of its colour and dash; None is gray.
        x: Values, (K,).
        y: Values, (K,); where x or y is not finite the line has a gap.
        note: Shown after the name in the legend.
        line: Draw a line.
        radius: Radius of a point at every value; 0 draws none.
        shape: Shape of the points, one of ``SHAPES``.
        x_interval: (low, high) of each point, or None where it has no interval; empty for none at all.
        y_interval: The same, vertically.
        text: Write the name beside the last point.
        hints: Text shown when the mouse is over a point, one for each point; empty for none.
        mark: Position of a movable marker.
        key: Identifies the marker to the page's script.
    """

    name: str
    style: int | None
    x: Sequence[float] | NDArray[np.float64]
    y: Sequence[float] | NDArray[np.float64]
    note: str = ""
    line: bool = True
    radius: float = 0
    shape: str = "circle"
    x_interval: Sequence[tuple[float, float] | None] = ()
    y_interval: Sequence[tuple[float, float] | None] = ()
    text: bool = False
    hints: Sequence[str] = ()
    mark: tuple[float, float] | None = None
    key: str = ""


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: Its name, also for screen readers.
        series: What to draw.
        x: Horizontal axis.
        y: Vertical axis.
        reference: Ends of a dotted line to compare with: no information, perfect calibration.
        texts: (x, y, text) written beside those values.
        legend: Series listed below the chart; those drawn when None.
        spoken: What a screen reader says; title, names and notes when empty.
        width: Width of the drawing.
        height: Height of the drawing.
        left: Space for the texts of the vertical axis.
    """

    title: str
    series: Sequence[Series]
    x: Axis
    y: Axis
    reference: tuple[tuple[float, float], tuple[float, float]] | None = None
    texts: Sequence[tuple[float, float, str]] = ()
    legend: Sequence[Series] | None = None
    spoken: str = ""
    width: int = 400
    height: int = 340
    left: int = 46

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place in the drawing of a pair of values."""
        return (
            round(self.left + self.x.place(x) * (self.width - self.left - RIGHT), 1),
            round(self.height - BOTTOM - self.y.place(y) * (self.height - TOP - BOTTOM), 1),
        )

    def listed(self) -> Sequence[Series]:
        """The series of the legend."""
        return self.series if self.legend is None else self.legend


def figure(chart: Chart) -> str:
    """Draw a chart for a page that has the rules of ``style``.

    Returns:
        A ``<figure>``. The attribute ``data-plot`` of its drawing is left, top, width and height of the plot area.
    """
    spoken = chart.spoken or f"{chart.title}: " + ", ".join(
        f"{series.name} {series.note}".strip() for series in chart.series
    )
    plot = f"{chart.left} {TOP} {chart.width - chart.left - RIGHT} {chart.height - TOP - BOTTOM}"
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption>'
        f'<svg viewBox="0 0 {chart.width} {chart.height}" role="img" aria-label="{escape(spoken)}" data-plot="{plot}">'
        f"{_drawing(chart)}</svg>{legend(chart.listed()) if chart.listed() else ''}</figure>"
    )


def standalone(chart: Chart) -> str:
    """Draw a chart as an SVG file of its own: light colours, title above, legend below."""
    rows = []
    for i, series in enumerate(chart.listed()):
        down = chart.height + 12 + 16 * i
        symbol = f'<path class="line {_style(series.style)}" d="M{chart.left} {down}h22"/>'
        if not series.line:
            symbol = f'<g class="dot {_style(series.style)}">{_point(series.shape, chart.left + 11, down, 5)}</g>'
        words = escape(f"{series.name} {series.note}".strip())
        rows.append(f'{symbol}<text class="name" x="{chart.left + 28}" y="{down + 4}">{words}</text>')
    height = chart.height + 16 * len(rows) + 32
    # Programs other than browsers know no CSS variables.
    rules = re.sub(r"var\(--(\w+)\)", lambda name: _COLOURS[name[1]][0], _RULES)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -24 {chart.width} {height}" width="{chart.width}" '
        f'height="{height}"><title>{escape(chart.title)}</title><style>{rules}</style>'
        f'<rect y="-24" width="100%" height="100%" fill="#fff"/>'
        f'<text x="{chart.width / 2}" y="-8" class="name mid">{escape(chart.title)}</text>'
        f"{_drawing(chart)}{''.join(rows)}</svg>\n"
    )


def style() -> str:
    """Rules of a page with charts: its colours as variables, light and dark, and how charts look."""
    light, dark = (" ".join(f"--{name}: {pair[i]};" for name, pair in _COLOURS.items()) for i in (0, 1))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{_RULES}"


def legend(series: Sequence[Series]) -> str:
    """The list of series below a chart."""
    rows = "".join(
        f"<li>{swatch(item.style, item.line)}<span>{escape(item.name)}</span> <small>{escape(item.note)}</small></li>"
        for item in series
    )
    return f'<ul class="legend">{rows}</ul>'


def swatch(style: int | None, line: bool = True) -> str:
    """The short line, or else the point, that stands for a style."""
    look = _style(style)
    symbol = f'<path class="line {look}" d="M0 4H22"/>'
    if not line:
        symbol = f'<circle class="dot {look}" cx="11" cy="4" r="5"/>'
    return f'<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true">{symbol}</svg>'


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round tick values (1, 2 or 5 times a power of ten apart) that cover [low, high]; low < high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def nice_axis(label: str, low: float, high: float) -> Axis:
    """A linear axis that covers [low, high] between round ticks; low < high."""
    ticks = nice_ticks(low, high)
    return Axis(label, ticks[0], ticks[-1], ticks)


def log_axis(label: str, low: float, high: float) -> Axis:
    """A logarithmic axis around [low, high], ticks at 1, 2, 5, 10, ...; both positive."""
    steps = [m * 10.0**e for e in range(-6, 13) for m in (1, 2, 5)]
    start = max(step for step in steps if step <= low * 0.95)
    stop = min(step for step in steps if step >= high * 1.15)
    return Axis(label, start, stop, [step for step in steps if start <= step <= stop], log=True)


def _drawing(chart: Chart) -> str:
    parts = [_frame(chart)]
    if chart.reference:
        (x0, y0), (x1, y1) = (chart.at(*end) for end in chart.reference)
        parts.append(f'<path class="chance" d="M{x0} {y0}L{x1} {y1}"/>')
    parts += [_series(series, chart) for series in chart.series]
    for x, y, text in chart.texts:
        across, down = chart.at(x, y)
        parts.append(f'<text x="{across + 6}" y="{down + 4}" class="tick">{escape(text)}</text>')
    return "".join([*parts, _names(chart)])


def _frame(chart: Chart) -> str:
    right, bottom = chart.width - RIGHT, chart.height - BOTTOM
    parts = []
    for tick, text in chart.x.texts().items():
        across, _ = chart.at(tick, chart.y.low)
        parts.append(f'<path class="grid" d="M{across} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{across}" y="{bottom + 15}" class="tick mid">{escape(text)}</text>')
    for tick, text in chart.y.texts().items():
        _, down = chart.at(chart.x.low, tick)
        parts.append(f'<path class="grid" d="M{chart.left} {down}H{right}"/>')
        parts.append(f'<text x="{chart.left - 6}" y="{down + 4}" class="tick end">{escape(text)}</text>')
    across, down = (chart.left + right) / 2, (TOP + bottom) / 2
    parts.append(f'<text x="{across}" y="{chart.height - 6}" class="axis mid">{escape(chart.x.label)}</text>')
    if chart.y.label:
        turned = f"translate(11 {down}) rotate(-90)"
        parts.append(f'<text transform="{turned}" class="axis mid">{escape(chart.y.label)}</text>')
    return "".join(parts)


def _series(series: Series, chart: Chart) -> str:
    known = [math.isfinite(a) and math.isfinite(b) for a, b in zip(series.x, series.y, strict=True)]
    spots = [chart.at(a, b) if ok else None for a, b, ok in zip(series.x, series.y, known, strict=True)]
    parts = []
    if series.line and any(known):
        path = "".join(
            f"{'L' if i and spots[i - 1] else 'M'}{spot[0]:g} {spot[1]:g}" for i, spot in enumerate(spots) if spot
        )
        parts.append(f'<path class="line {_style(series.style)}" d="{path}"/>')
    bars = [
        f"M{chart.at(ends[0], y)[0]} {spot[1]}H{chart.at(ends[1], y)[0]}"
        for ends, y, spot in zip(series.x_interval, series.y, spots, strict=False)
        if ends and spot
    ]
    bars += [
        f"M{spot[0]} {chart.at(x, ends[1])[1]}V{chart.at(x, ends[0])[1]}"
        for ends, x, spot in zip(series.y_interval, series.x, spots, strict=False)
        if ends and spot
    ]
    parts += [f'<path class="bar {_style(series.style)}" d="{bar}"/>' for bar in bars]
    if series.radius:
        hints = series.hints or [""] * len(spots)
        points = "".join(
            _point(series.shape, *spot, series.radius, hint) for spot, hint in zip(spots, hints, strict=True) if spot
        )
        parts.append(f'<g class="dot {_style(series.style)}">{points}</g>')
    if series.mark is not None:
        across, down = chart.at(*series.mark)
        parts.append(
            f'<circle class="mark {_style(series.style)}" cx="{across}" cy="{down}" r="5" data-mark="{series.key}"/>'
        )
    return "".join(parts)


def _point(shape: str, x: float, y: float, r: float, hint: str = "") -> str:
    if shape == "circle":
        tag, where = "circle", f'cx="{x}" cy="{y}" r="{r}"'
    else:
        path = {
            "square": f"M{x - r:g} {y - r:g}h{2 * r:g}v{2 * r:g}h-{2 * r:g}z",
            "diamond": f"M{x:g} {y - r:g}l{r:g} {r:g}l-{r:g} {r:g}l-{r:g} -{r:g}z",
            "triangle": f"M{x:g} {y - r:g}l{r:g} {2 * r:g}h-{2 * r:g}z",
        }[shape]
        tag, where = "path", f'd="{path}"'
    return f"<{tag} {where}><title>{escape(hint)}</title></{tag}>" if hint else f"<{tag} {where}/>"


def _names(chart: Chart) -> str:
    """Names beside the last points; one that would cover another moves up, or else down."""
    parts, taken = [], []
    for series in chart.series:
        if not (series.text and len(series.x)):
            continue
        across, down = chart.at(series.x[-1], series.y[-1])
        width = 7.0 * len(series.name)
        flip = across + 9 + width > chart.width - RIGHT
        x = across + (-9 if flip else 9)
        start = x - width if flip else x

        def free(y: float, start: float = start, end: float = start + width) -> bool:
            return all(abs(y - other) >= LINE or end <= a or start >= b for a, b, other in taken)

        heights = [down - 7 - LINE * step for step in range(20) if down - 7 - LINE * step > TOP + 8]
        heights += [down + 14 + LINE * step for step in range(20)]
        y = round(next(filter(free, heights), down - 7), 1)
        taken.append((start, start + width, y))
        side = "name end" if flip else "name"
        parts.append(f'<text class="{side}" x="{x:g}" y="{y}">{escape(series.name)}</text>')
    return "".join(parts)


def _style(number: int | None) -> str:
    return "gray" if number is None else f"s{number % STYLES}"
