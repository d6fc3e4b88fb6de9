"""AUROC against latency, one dot a runtime and precision, as an SVG file that stands alone."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cxr_eval.report.svg import Axis, log_axis, nice_ticks

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 40, 52
COLOURS = {"fp32": "#3b6fb6", "bf16": "#c77c11", "int8": "#2a8f5b"}
SHAPES = ("circle", "square", "diamond", "triangle")


def plot(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Draw the rows that have an AUROC.

    Args:
        rows: "model", "runtime", "precision", "auroc" and "latency_ms_p50" of each.
        title: Heading.

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
    x = log_axis(
        "milliseconds for one image (median)",
        min(row["latency_ms_p50"] for row in shown),
        max(row["latency_ms_p50"] for row in shown),
    )
    values = [row["auroc"] for row in shown]
    ticks = nice_ticks(min(values) - 0.005, max(values) + 0.005)
    y = Axis("AUROC", ticks[0], ticks[-1], ticks)
    runtimes = list(dict.fromkeys(row["runtime"] for row in shown))
    parts = [head, _frame(x, y)]
    for model in dict.fromkeys(row["model"] for row in shown):
        spots = [_at(x, y, row["latency_ms_p50"], row["auroc"]) for row in shown if row["model"] == model]
        spots.sort()
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#bbb"/>')
        right = spots[-1][0] > WIDTH * 0.75
        parts.append(
            f'<text x="{spots[-1][0] + (-9 if right else 9):.1f}" y="{spots[-1][1] - 9:.1f}" fill="#222" '
            f'text-anchor="{"end" if right else "start"}">{escape(model)}</text>'
        )
    for row in shown:
        shape = SHAPES[runtimes.index(row["runtime"]) % len(SHAPES)]
        said = (
            f"{row['model']}, {row['runtime']} {row['precision']}: {row['latency_ms_p50']:.2f} ms, {row['auroc']:.3f}"
        )
        mark = _mark(shape, *_at(x, y, row["latency_ms_p50"], row["auroc"]), COLOURS[row["precision"]])
        parts.append(f"<g>{mark}<title>{escape(said)}</title></g>")
    parts.append(_legend(runtimes, list(dict.fromkeys(row["precision"] for row in shown))))
    return "".join([*parts, "</svg>\n"])


def _at(x: Axis, y: Axis, a: float, b: float) -> tuple[float, float]:
    return LEFT + x.place(a) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y.place(b) * (HEIGHT - TOP - BOTTOM)


def _frame(x: Axis, y: Axis) -> str:
    parts = []
    for tick in x.ticks:
        across, down = _at(x, y, tick, y.low)
        parts.append(f'<path d="M{across:.1f} {TOP}V{down:.1f}" stroke="#eee"/>')
        parts.append(f'<text x="{across:.1f}" y="{down + 16:.1f}" text-anchor="middle" fill="#555">{tick:g}</text>')
    for tick in y.ticks:
        across, down = _at(x, y, x.low, tick)
        parts.append(f'<path d="M{LEFT} {down:.1f}H{WIDTH - RIGHT}" stroke="#eee"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end" fill="#555">{tick:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle" fill="#222">{escape(x.label)}</text>')
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>')
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
    names = [(SHAPES[i % len(SHAPES)], "#777", name) for i, name in enumerate(runtimes)]
    names += [("square", COLOURS[name], name) for name in precisions]
    top = HEIGHT - BOTTOM - 18 * len(names)
    parts = []
    for i, (shape, colour, name) in enumerate(names):
        down = top + 18 * i
        parts.append(_mark(shape, WIDTH - RIGHT - 190, down, colour))
        parts.append(f'<text x="{WIDTH - RIGHT - 178}" y="{down + 4}" fill="#333">{escape(name)}</text>')
    return "".join(parts)
