"""AUROC against latency as a self-contained SVG file, one point for each runtime and precision."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.charts import SHAPES, Axis, Chart, Series, log_axis, nice_axis, standalone

PRECISIONS = ("fp32", "bf16", "int8")


def plot(rows: Sequence[Mapping[str, Any]], title: str, auroc_of: str = "") -> str:
    """Draw the rows that have an AUROC.

    Args:
        rows: "model", "runtime", "precision", "auroc" and "latency_ms_p50" of each.
        title: Heading.
        auroc_of: The images that AUROC was measured on, for the label of the axis.

    Returns:
        An SVG document; colour is the precision, shape the runtime, a thin line joins the rows of one model.
    """
    shown = sorted((row for row in rows if row["auroc"] is not None), key=lambda row: row["latency_ms_p50"])
    if not shown:
        nothing = [(0.05, 0.9, "no AUROC is known: give --data")]
        return standalone(Chart(title, (), Axis(ticks=()), Axis(ticks=()), texts=nothing))
    models, runtimes, precisions = (
        list(dict.fromkeys(row[key] for row in shown)) for key in ("model", "runtime", "precision")
    )
    shapes = {runtime: SHAPES[i % len(SHAPES)] for i, runtime in enumerate(runtimes)}
    series = []
    for model in models:
        of_model = [row for row in shown if row["model"] == model]
        x, y = ([row[key] for row in of_model] for key in ("latency_ms_p50", "auroc"))
        series.append(Series(model, None, x, y, text=True))
    for row in shown:
        latency, auroc, kind = row["latency_ms_p50"], row["auroc"], f"{row['runtime']} {row['precision']}"
        hint = f"{row['model']}, {kind}: {latency:.2f} ms, {auroc:.3f}"
        look = {"style": PRECISIONS.index(row["precision"]), "shape": shapes[row["runtime"]]}
        series.append(Series(kind, x=[latency], y=[auroc], line=False, radius=5, hints=[hint], **look))
    latencies, aurocs = [row["latency_ms_p50"] for row in shown], [row["auroc"] for row in shown]
    legend = [Series(name, None, (), (), line=False, shape=shape) for name, shape in shapes.items()]
    legend += [Series(name, PRECISIONS.index(name), (), (), line=False, shape="square") for name in precisions]
    return standalone(
        Chart(
            title,
            series,
            log_axis("milliseconds for one image (median)", min(latencies), max(latencies)),
            nice_axis(f"AUROC on {auroc_of}" if auroc_of else "AUROC", min(aurocs) - 0.005, max(aurocs) + 0.005),
            legend=legend,
            width=720,
            height=400,
            left=58,
        )
    )
