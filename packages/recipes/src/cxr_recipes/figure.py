"""The figure of a recipe: each pair of models with its gain, and the teacher, with intervals, size and latency."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_common.gain import over_seeds
from cxr_recipes.differences import difference

ALONE, DISTILLED, TEACHER = "#8a8f98", "#1f5fbf", "#c77700"

Models = Mapping[str, Mapping[str, Any]]


def figure(
    rows: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    models: Models,
    metric: str,
    teacher: str | None = None,
    images: int | None = None,
) -> str:
    """Draw pairs of models, without and with what is compared, as one SVG.

    Args:
        rows: One row per comparison: its title, names of the models with it (one per seed), and names without it, in
            the same order of seeds.
        models: Models of a metrics.json by name.
        metric: Metric shown, a key of "overall", in [0, 1].
        teacher: A model drawn as a line across all rows.
        images: Number of images evaluated, for the axis.

    Returns:
        The SVG; the same input gives the same bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "cxr", "svg.fonttype": "none", "font.size": 9}):
        canvas = Figure(figsize=(8.6, 1.0 + 0.68 * len(rows)), layout="constrained", facecolor="white")
        axes, text = canvas.subplots(1, 2, sharey=True, width_ratios=[1.7, 1])
        if teacher:
            value = models[teacher]["overall"][metric]["value"]
            axes.axvline(value, color=TEACHER, linewidth=1.5, linestyle="--", label=f"teacher {value:.3f}", zorder=0)
        for place, (title, with_it, without) in enumerate(rows):
            for names, colour, label, shift in ((without, ALONE, "without", 0.16), (with_it, DISTILLED, "with", -0.16)):
                value, low, high = _interval([models[name]["overall"][metric] for name in names])
                axes.plot([low, high], [place - shift] * 2, color=colour, linewidth=2, solid_capstyle="round")
                axes.plot(
                    [value], [place - shift], "o", color=colour, markersize=6, label=label if place == 0 else None
                )
            text.text(0, place - 0.14, _gain(models, metric, with_it, without), va="center", weight="bold")
            text.text(0, place + 0.2, _cost(models[with_it[0]]), va="center", color="#555")
            axes.text(0.005, place - 0.42, title, transform=axes.get_yaxis_transform(), va="center", weight="bold")
        axes.set_ylim(len(rows) - 0.4, -0.75)
        axes.set_yticks([])
        on = "" if images is None else f" on {images:,} test images"
        axes.set_xlabel(f"{metric.upper()}{on}, mean and 95 % interval")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "left", "right"]].set_visible(False)
        canvas.legend(loc="outside lower left", frameon=False, ncols=3)
        text.axis("off")
        text.set_title("gain of the same seed [95 % interval]", fontsize=9, loc="left")
        written = io.StringIO()
        canvas.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def _gain(models: Models, metric: str, with_it: Sequence[str], without: Sequence[str]) -> str:
    """Difference in percentage points, paired by seed."""
    each = [difference(models[a], models[b], metric) for a, b in zip(with_it, without, strict=True)]
    values = [value for value in each if value is not None]
    if not values:
        return "gain undefined"
    if len(values) < 2:
        return f"{values[0]:+.1f} points (one seed)"
    mean, half = over_seeds(values)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}] points, {len(values)} seeds"


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
    latency = f", {speed['latency_ms_p50']:.1f} ms an image" if speed else ""
    return f"{model['size']['parameters'] / 1e6:.1f} M parameters{latency}"
