"""The figure of a recipe: every student alone and distilled, and the teacher, with intervals, size and latency."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_common.gain import over_seeds

ALONE, DISTILLED, TEACHER = "#8a8f98", "#1f5fbf", "#c77700"


def figure(
    rows: Sequence[tuple[str, Sequence[str], Sequence[str]]], models: Mapping[str, Mapping[str, Any]], metric: str
) -> str:
    """Draw pairs of models, without and with what is compared, as one SVG.

    Args:
        rows: One row per comparison: its title, names of the models with it (one per seed), and names without it.
        models: Models of a metrics.json by name.
        metric: Metric shown, a key of "overall", in [0, 1].

    Returns:
        The SVG; the same input gives the same bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "cxr", "svg.fonttype": "none", "font.size": 9}):
        canvas = Figure(figsize=(8.2, 0.9 + 0.62 * len(rows)), layout="constrained")
        axes, text = canvas.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
        for place, (title, with_it, without) in enumerate(rows):
            for names, colour, label, shift in ((without, ALONE, "without", 0.16), (with_it, DISTILLED, "with", -0.16)):
                value, low, high = _interval([models[name]["overall"][metric] for name in names])
                axes.plot([low, high], [place - shift] * 2, color=colour, linewidth=2, solid_capstyle="round")
                axes.plot(
                    [value], [place - shift], "o", color=colour, markersize=6, label=label if place == 0 else None
                )
            text.text(0, place, _cost(models[with_it[0]]), va="center")
            axes.text(0.005, place - 0.42, title, transform=axes.get_yaxis_transform(), va="center", weight="bold")
        axes.set_ylim(len(rows) - 0.4, -0.75)
        axes.set_yticks([])
        axes.set_xlabel(f"{metric.upper()}, with 95 % interval")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False)
        text.axis("off")
        text.set_title("parameters · latency, batch 1", fontsize=9, loc="left")
        written = io.StringIO()
        canvas.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def _interval(entries: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Mean and interval over seeds; of a single model, its own interval over patients."""
    values = [entry["value"] for entry in entries]
    if len(values) > 1:
        mean, half = over_seeds(values)
        return mean, mean - half, mean + half
    low, high = entries[0]["low"], entries[0]["high"]
    return values[0], values[0] if low is None else low, values[0] if high is None else high


def _cost(model: Mapping[str, Any]) -> str:
    speed = model["speed"]
    latency = f" · {speed['latency_ms_p50']:.1f} ms" if speed else ""
    return f"{model['size']['parameters'] / 1e6:.1f} M{latency}"
