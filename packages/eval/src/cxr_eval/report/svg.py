"""Small charts as inline SVG: lines and points on two axes, coloured by the page's style sheet.

Colours, fonts and line styles come from CSS classes (``s0`` … ``s5`` for the models), so that a chart
follows the page into dark mode and onto paper.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

WIDTH, HEIGHT = 400, 340
_LINE = 14
"""Height of a line of text."""
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 42


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: What it shows, with its unit.
        low: Smallest value.
        high: Largest value.
        ticks: Values with a tick and a grid line.
        log: Logarithmic scale; low must be positive.
    """

    label: str
    low: float = 0.0
    high: float = 1.0
    ticks: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.8, 1)
    log: bool = False

    def place(self, value: float) -> float:
        """Position of a value along the axis, 0 at low and 1 at high."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Series:
    """What one model contributes to a chart.

    Attributes:
        name: Name in the legend.
        style: Number of its colour and dash.
        x: Values, (K,).
        y: Values, (K,).
        note: Shown after the name in the legend.
        points: Draw points instead of a line.
        dots: Draw a dot at every value of the line.
        y_interval: (low, high) of each point.
        text: Write the name beside the last point.
        mark: Position of a movable marker.
        key: Identifies the marker to the page's script.
    """

    name: str
    style: int
    x: Sequence[float] | NDArray[np.float64]
    y: Sequence[float] | NDArray[np.float64]
    note: str = ""
    points: bool = False
    dots: bool = False
    y_interval: Sequence[tuple[float, float]] = field(default=())
    text: bool = False
    mark: tuple[float, float] | None = None
    key: str = ""


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: Its name, also for screen readers.
        series: What to draw, one entry a model.
        x: Horizontal axis.
        y: Vertical axis.
        reference: Ends of a dotted line to compare with: no information, perfect calibration.
        legend: List the series below the chart.
    """

    title: str
    series: Sequence[Series]
    x: Axis
    y: Axis
    reference: tuple[tuple[float, float], tuple[float, float]] | None = None
    legend: bool = True


def figure(chart: Chart) -> Markup:
    """Draw a chart for the page, as a ``<figure>``."""
    plot = f"{LEFT} {TOP} {WIDTH - LEFT - RIGHT} {HEIGHT - TOP - BOTTOM}"
    parts = [
        Markup('<figure class="chart"><figcaption>{}</figcaption>').format(chart.title),
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-plot="{}">').format(
            WIDTH, HEIGHT, _spoken(chart.title, chart.series), plot
        ),
        _body(chart),
        Markup("</svg>"),
    ]
    if chart.legend:
        parts.append(legend(chart.series))
    return Markup("").join([*parts, Markup("</figure>")])


def standalone(chart: Chart) -> str:
    """Draw a chart as an SVG file of its own: light colours, title above, legend below."""
    rows = list(chart.series) if chart.legend else []
    legend = Markup("").join(
        Markup('<path class="line s{}" d="M{} {}h22"/><text class="name" x="{}" y="{}">{} {}</text>').format(
            one.style, LEFT, HEIGHT + 12 + 16 * i, LEFT + 28, HEIGHT + 16 + 16 * i, one.name, one.note
        )
        for i, one in enumerate(rows)
    )
    return document(chart.title, Markup("").join([_body(chart), legend]), WIDTH, HEIGHT + 16 * len(rows) + 8)


def document(title: str, body: Markup, width: int, height: int) -> str:
    """An SVG file.

    Args:
        title: Written above the drawing.
        body: The drawing, from (0, 0).
        width: Its width.
        height: Its height.

    Returns:
        The file's text.
    """
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -24 {} {}" width="{}" height="{}"><title>{}</title>'
            '<style>{}</style><rect y="-24" width="100%" height="100%" fill="#fff"/>'
            '<text x="{}" y="-8" class="title mid">{}</text>{}</svg>\n'
        ).format(width, height + 24, width, height + 24, title, Markup(_style()), width / 2, title, body)
    )


def _style() -> str:
    """The page's rules for charts with its light colours written out: other programs know no CSS variables."""
    colours = ("#1762a8", "#c2500a", "#2b7a4b", "#7a3f9d", "#8a6a00", "#0c7489")
    dashes = (None, "7 3", "2 2.5", "9 3 2 3", "12 4", "5 2 1 2 1 2")
    rules = [
        "text{font:11px sans-serif;fill:#5b6470}.title{font-size:13px;fill:#1b1f24}.name{font-size:12px;fill:#1b1f24}"
        ".mid{text-anchor:middle}.end{text-anchor:end}.grid{stroke:#e2e6ea;fill:none}"
        ".chance{stroke:#5b6470;stroke-dasharray:2 4;fill:none}.line{fill:none;stroke-width:1.8}"
        ".bar{fill:none;stroke-width:1.6}.dot,.mark{stroke:#fff;stroke-width:1.5}"
    ]
    for i, (colour, dash) in enumerate(zip(colours, dashes, strict=True)):
        rules.append(f".line.s{i},.bar.s{i}{{stroke:{colour}}}.dot.s{i},.mark.s{i}{{fill:{colour}}}")
        rules.append(f".line.s{i}{{stroke-dasharray:{dash}}}" if dash else "")
    return "".join(rules)


def _body(chart: Chart) -> Markup:
    parts = [_frame(chart.x, chart.y)]
    if chart.reference:
        (x0, y0), (x1, y1) = (_at(chart.x, chart.y, *end) for end in chart.reference)
        parts.append(Markup('<path class="chance" d="M{} {}L{} {}"/>').format(x0, y0, x1, y1))
    parts += [_drawn(one, chart.x, chart.y) for one in chart.series]
    parts.append(_names(chart))
    return Markup("").join(parts)


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
    width, height = 120, 12

    def at(number: float) -> float:
        return round(width / 2 + max(-1.0, min(1.0, number / reach)) * (width / 2 - 4), 1)

    side = "away" if low > 0 or high < 0 else "around"
    return Markup(
        '<svg class="interval {}" viewBox="0 0 {} {}" aria-hidden="true"><path class="zero" d="M{} 0V{}"/>'
        '<path d="M{} 6H{}"/><circle cx="{}" cy="6" r="3"/></svg>'
    ).format(side, width, height, width / 2, height, at(low), at(high), at(value))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round tick values (1, 2 or 5 times a power of ten apart) that cover [low, high]; low < high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_axis(label: str, low: float, high: float) -> Axis:
    """A logarithmic axis around [low, high], ticks at 1, 2, 5, 10, ...; both positive."""
    steps = [m * 10.0**e for e in range(-6, 13) for m in (1, 2, 5)]
    start = max(step for step in steps if step <= low * 0.95)
    stop = min(step for step in steps if step >= high * 1.15)
    return Axis(label, start, stop, [step for step in steps if start <= step <= stop], log=True)


def _at(x: Axis, y: Axis, a: float, b: float) -> tuple[float, float]:
    return (
        round(LEFT + x.place(a) * (WIDTH - LEFT - RIGHT), 1),
        round(HEIGHT - BOTTOM - y.place(b) * (HEIGHT - TOP - BOTTOM), 1),
    )


def _frame(x: Axis, y: Axis) -> Markup:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in x.ticks:
        across, _ = _at(x, y, tick, y.low)
        parts.append(Markup('<path class="grid" d="M{} {}V{}"/>').format(across, TOP, bottom))
        parts.append(Markup('<text x="{}" y="{}" class="tick mid">{:g}</text>').format(across, bottom + 15, tick))
    for tick in y.ticks:
        _, down = _at(x, y, x.low, tick)
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, down, right))
        parts.append(Markup('<text x="{}" y="{}" class="tick end">{:g}</text>').format(LEFT - 6, down + 4, tick))
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(Markup('<text x="{}" y="{}" class="axis mid">{}</text>').format(middle_x, HEIGHT - 6, x.label))
    parts.append(
        Markup('<text transform="translate(11 {}) rotate(-90)" class="axis mid">{}</text>').format(middle_y, y.label)
    )
    return Markup("").join(parts)


def _drawn(one: Series, x: Axis, y: Axis) -> Markup:
    spots = [_at(x, y, a, b) for a, b in zip(one.x, one.y, strict=True)]
    parts = []
    if spots and not one.points:
        path = "M" + "L".join(f"{a:g} {b:g}" for a, b in spots)
        parts.append(Markup('<path class="line s{}" d="{}"/>').format(one.style, path))
    for (low, high), (across, _) in zip(one.y_interval, spots, strict=False):
        top, end = _at(x, y, x.low, high)[1], _at(x, y, x.low, low)[1]
        parts.append(Markup('<path class="bar s{}" d="M{} {}V{}"/>').format(one.style, across, top, end))
    if one.points or one.dots:
        radius = 5 if one.points else 2.5
        parts += [
            Markup('<circle class="dot s{}" cx="{}" cy="{}" r="{}"/>').format(one.style, *s, radius) for s in spots
        ]
    if one.mark is not None:
        across, down = _at(x, y, *one.mark)
        parts.append(
            Markup('<circle class="mark s{}" cx="{}" cy="{}" r="5" data-mark="{}"/>').format(
                one.style, across, down, one.key
            )
        )
    return Markup("").join(parts)


def _names(chart: Chart) -> Markup:
    """Names beside the last points; one that would overprint another moves up, at the top down."""
    parts, taken = [], []
    for one in chart.series:
        if not (one.text and len(one.x)):
            continue
        across, down = _at(chart.x, chart.y, one.x[-1], one.y[-1])
        flip = across > WIDTH * 0.6
        x, width = across + (-9 if flip else 9), 7.0 * len(one.name)
        start = x - width if flip else x

        def free(y: float, start: float = start, end: float = start + width) -> bool:
            return all(abs(y - other) >= _LINE or end <= a or start >= b for a, b, other in taken)

        heights = [down - 7 - _LINE * step for step in range(20) if down - 7 - _LINE * step > TOP + 8]
        heights += [down + 14 + _LINE * step for step in range(20)]
        y = round(next(filter(free, heights), down - 7), 1)
        taken.append((start, start + width, y))
        parts.append(
            Markup('<text class="name {}" x="{}" y="{}">{}</text>').format("end" if flip else "", x, y, one.name)
        )
    return Markup("").join(parts)


def legend(series: Sequence[Series]) -> Markup:
    """The list of models below a chart."""
    rows = [
        Markup("<li>{}<span>{}</span> <small>{}</small></li>").format(swatch(one.style), one.name, one.note)
        for one in series
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(rows))


def swatch(style: int) -> Markup:
    """The short line that stands for a model's colour and dash."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true"><path class="line s{}" d="M0 4H22"/></svg>'
    ).format(style)


def _spoken(title: str, series: Sequence[Series]) -> Markup:
    return escape(title + ": " + ", ".join(f"{one.name} {one.note}".strip() for one in series))
