"""AUROC against latency, one dot for each runtime and precision, as an SVG file that stands alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 900, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 230, 40, 52
COLOURS = {"fp32": "#3b6fb6", "bf16": "#c77c11", "int8": "#2a8f5b"}
SHAPES = ("circle", "square", "diamond", "triangle")
LINE = 14
"""Height of a line of text."""

Scale = tuple[Callable[[float], float], list[float]]
"""Position on the picture of a value, and the values with a grid line."""


def plot(rows: Sequence[Mapping[str, Any]], title: str, auroc_of: str = "") -> str:
    """Draw the rows that have an AUROC.

    Args:
        rows: "model", "runtime", "precision", "auroc" and "latency_ms_p50" of each.
        title: Heading.
        auroc_of: The images that AUROC was measured on, for the label of the axis.

    Returns:
        An SVG document; colour is the precision, shape the runtime, a thin line joins the rows of one model.
    """
    shown = [row for row in rows if row["auroc"] is not None]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="12">'
        f'<title>{escape(title)}</title><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{LEFT}" y="22" font-size="15" fill="#222">{escape(title)}</text>'
    )
    if not shown:
        return head + f'<text x="{LEFT}" y="80" fill="#222">no AUROC is known: give --data</text></svg>\n'
    x = _log_scale([row["latency_ms_p50"] for row in shown])
    y = _linear_scale([row["auroc"] for row in shown])
    spots = {id(row): (x[0](row["latency_ms_p50"]), y[0](row["auroc"])) for row in shown}
    runtimes = list(dict.fromkeys(row["runtime"] for row in shown))
    models = list(dict.fromkeys(row["model"] for row in shown))
    parts = [head, _frame(x, y, f"AUROC on {auroc_of}" if auroc_of else "AUROC")]
    ends = {}
    for model in models:
        line = sorted(spots[id(row)] for row in shown if row["model"] == model)
        ends[model] = line[-1]
        joined = " ".join(f"{across:.1f},{down:.1f}" for across, down in line)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="#bbb"/>')
    for row in shown:
        shape = SHAPES[runtimes.index(row["runtime"]) % len(SHAPES)]
        spoken = (
            f"{row['model']}, {row['runtime']} {row['precision']}: {row['latency_ms_p50']:.2f} ms, {row['auroc']:.3f}"
        )
        mark = _mark(shape, *spots[id(row)], COLOURS[row["precision"]])
        parts.append(f"<g>{mark}<title>{escape(spoken)}</title></g>")
    parts.append(_names(ends))
    parts.append(_legend(runtimes, list(dict.fromkeys(row["precision"] for row in shown))))
    return "".join([*parts, "</svg>\n"])


def _log_scale(values: Sequence[float]) -> Scale:
    steps = [digit * 10.0**power for power in range(-6, 13) for digit in (1, 2, 5)]
    low = max(step for step in steps if step <= min(values) * 0.95)
    high = min(step for step in steps if step >= max(values) * 1.15)
    width = WIDTH - LEFT - RIGHT

    def place(value: float) -> float:
        return LEFT + width * math.log(value / low) / math.log(high / low)

    return place, [step for step in steps if low <= step <= high]


def _linear_scale(values: Sequence[float]) -> Scale:
    rough = (max(values) - min(values) + 0.01) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)
    first, last = math.floor((min(values) - 0.005) / step), math.ceil((max(values) + 0.005) / step)
    ticks = [round(number * step, 12) for number in range(first, last + 1)]

    def place(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    return place, ticks


def _frame(x: Scale, y: Scale, label: str) -> str:
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in x[1]:
        across = x[0](tick)
        parts.append(f'<path d="M{across:.1f} {TOP}V{bottom}" stroke="#eee"/>')
        parts.append(f'<text x="{across:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{tick:g}</text>')
    for tick in y[1]:
        down = y[0](tick)
        parts.append(f'<path d="M{LEFT} {down:.1f}H{right}" stroke="#eee"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end" fill="#555">{tick:g}</text>')
    across, down = (LEFT + right) / 2, (TOP + bottom) / 2
    below = "milliseconds for one image (median)"
    parts.append(f'<text x="{across}" y="{HEIGHT - 14}" text-anchor="middle" fill="#222">{below}</text>')
    parts.append(f'<text transform="translate(16 {down}) rotate(-90)" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _names(ends: Mapping[str, tuple[float, float]]) -> str:
    """The name of every model above its slowest row; names that would overprint move up."""
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for model, (across, down) in sorted(ends.items(), key=lambda item: -item[1][1]):
        left = across > (LEFT + WIDTH - RIGHT) / 2
        width = 7.0 * len(model)
        start = across - 9 - width if left else across + 9
        height = down - 9
        while any(abs(height - y) < LINE and start < b and start + width > a for a, b, y in taken):
            height -= LINE
        taken.append((start, start + width, height))
        anchor = "end" if left else "start"
        x = across + (-9 if left else 9)
        parts.append(f'<text x="{x:.1f}" y="{height:.1f}" fill="#222" text-anchor="{anchor}">{escape(model)}</text>')
    return "".join(parts)


def _mark(shape: str, x: float, y: float, colour: str) -> str:
    paths = {
        "circle": f"M{x - 5:.1f} {y:.1f}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
        "square": f"M{x - 4.5:.1f} {y - 4.5:.1f}h9v9h-9z",
        "diamond": f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z",
        "triangle": f"M{x:.1f} {y - 6:.1f}l6 10h-12z",
    }
    return f'<path d="{paths[shape]}" fill="{colour}" stroke="#fff"/>'


def _legend(runtimes: Sequence[str], precisions: Sequence[str]) -> str:
    """Shapes and colours, right of the data."""
    names = [(SHAPES[i % len(SHAPES)], "#777", name) for i, name in enumerate(runtimes)]
    names += [("square", COLOURS[name], name) for name in precisions]
    left, parts = WIDTH - RIGHT + 18, []
    for i, (shape, colour, name) in enumerate(names):
        down = TOP + 10 + 18 * i
        parts.append(_mark(shape, left, down, colour))
        parts.append(f'<text x="{left + 12}" y="{down + 4}" fill="#333">{escape(name)}</text>')
    return "".join(parts)
