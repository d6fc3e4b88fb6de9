"""``benchmark-model``: measure models in every runtime, and write the table and the chart.

``benchmark.json`` (schema 1) holds ``rows``, one for each model, runtime and precision: "model", "runtime",
"precision", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99" (one image), "speedup" (median of the same model in
eager float32 PyTorch over this one), "runs", "images_per_second" with its "batch", "peak_bytes", "bytes" (of the file),
"macs", "auroc", "auroc_of"; and ``machine``, ``threads``, ``versions``, ``notes``, ``provenance``. What was not
measured is null.
"""

import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from cxr_data import timing
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.terminal import say, wide_console
from cxr_data.errors import BadInput
from cxr_data.files import write_json, write_text
from cxr_data.machine import cpu_name, usable_cores
from cxr_data.models.header import Header, made_now
from cxr_data.models.metrics import auroc, macro
from cxr_deploy import cohort as images_of
from cxr_deploy.benchmark.entries import EAGER, Entry, entries, model_files, versions
from cxr_deploy.benchmark.plot import plot
from cxr_deploy.config import BenchmarkConfig
from cxr_deploy.extras import installed
from cxr_deploy.runtimes import Run

SCHEMA = 1


def benchmark(config: BenchmarkConfig) -> Path:
    """Time every model in every runtime and write benchmark.json and benchmark.svg.

    Raises:
        BadInput: No model, one that cannot run, or an unusable cohort.
    """
    files = model_files(config.models, config.runs_dir, config.run)
    folder = Path(config.out) if config.out else Path(config.runs_dir) / config.run / "benchmark"
    if folder.is_file():
        raise BadInput("a folder", "a file", where=folder, do="choose another --out")
    threads = config.threads or usable_cores()
    with tempfile.TemporaryDirectory(prefix="cxr-benchmark-") as scratch:
        rows, notes = entries(files, Path(scratch))
        images = _images(rows, config)
        machine = f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
        say(f"benchmark-model: {len(rows)} rows, {machine}")
        with _torch_threads(threads):
            runs = {row.name: row.load(threads) for row in rows}
            functions = {row.name: (runs[row.name], row.header.input.size) for row in rows}
            timed = timing.side_by_side(functions, config.seconds)
            scores = {row.name: _auroc(row, runs[row.name], images, config.split) for row in rows}
        memory = _peaks(rows, threads) if config.memory else {}
        document = {
            "schema": SCHEMA,
            "threads": threads,
            "machine": cpu_name(),
            "versions": versions(),
            "rows": [_row(row, timed, scores, memory) for row in rows],
            "notes": [*notes, *filter(None, [timing.disturbed(timed)])],
            "provenance": made_now(config),
        }
    for row in document["rows"]:
        eager = timed.get(f"{row['model']}: {EAGER[0]} {EAGER[1]}")
        row["speedup"] = eager["latency_ms_p50"] / row["latency_ms_p50"] if eager else None
    write_json(folder / "benchmark.json", document)
    scored = "; ".join(dict.fromkeys(row["auroc_of"] for row in document["rows"] if row["auroc"] is not None))
    write_text(folder / "benchmark.svg", plot(document["rows"], machine, scored))
    _show(document)
    say(f"wrote {folder / 'benchmark.json'} and {folder / 'benchmark.svg'}")
    return folder


def _row(row: Entry, timed: Mapping[str, Any], scores: Mapping[str, Any], memory: Mapping[str, int]) -> dict[str, Any]:
    value, of = scores[row.name]
    return {
        "model": row.model,
        "architecture": row.header.architecture,
        "input_size": row.header.input.size,
        "runtime": row.runtime,
        "precision": row.precision,
        **timed[row.name],
        "peak_bytes": memory.get(row.name),
        "bytes": row.file.stat().st_size,
        "macs": _macs(row.header),
        "auroc": value,
        "auroc_of": of,
    }


def _images(entries: Sequence[Entry], config: BenchmarkConfig) -> dict[str, tuple[Cohort, NDArray[np.int64]]]:
    """Cohort and rows to measure the AUROC of each model on; empty where no cohort is named."""
    chosen: dict[str, tuple[Cohort, NDArray[np.int64]]] = {}
    for row in entries if config.data else ():
        if row.model in chosen:
            continue
        cohort = images_of.open_for(row.header, config.data, row.file)
        if cohort.task is None:
            raise BadInput("a cohort with labels", "one without", where=cohort.source)
        chosen[row.model] = cohort, cohort.rows(config.split)
        if not len(chosen[row.model][1]):
            raise BadInput(
                f"{config.split} images", "none in this cohort", where=cohort.source, do="choose another --split"
            )
    return chosen


def _auroc(
    row: Entry, run: Run, images_by_model: Mapping[str, tuple[Cohort, NDArray[np.int64]]], split: str
) -> tuple[float | None, str | None]:
    """AUROC of a row and what it was measured on."""
    if row.model not in images_by_model:
        return row.auroc, None if row.auroc is None else row.auroc_of
    cohort, rows = images_by_model[row.model]
    answers = []
    for start in range(0, len(rows), 32):
        images = images_of.pixels(cohort, rows[start : start + 32], row.header.input.size)
        answers.append(run(images)["probabilities"])
    values = auroc(images_of.targets(cohort, rows, row.header), np.concatenate(answers))
    mean = macro(values)
    return (mean if np.isfinite(mean) else None), f"{split} images of {cohort.name}"


def _peaks(rows: Sequence[Entry], threads: int) -> dict[str, int]:
    say(f"  peak memory, in {len(rows)} processes of their own")
    arguments = {row.name: (str(row.file), row.runtime, row.precision, str(threads)) for row in rows}
    return timing.peak_memories(
        "cxr_deploy.benchmark.memory", arguments, do="run it again; --memory false leaves this out"
    )


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """The threads of PyTorch, which are those of the process; nothing where it is not installed."""
    if not installed("export"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _counted(architecture: str, labels: int, channels: int, size: int) -> int:
    from cxr_common.models import cost
    from cxr_common.models.zoo import GrayNetwork, build

    return cost.macs(GrayNetwork(build(architecture, labels, channels=channels, size=size), 0.5, 0.25), size)


def _macs(header: Header) -> int | None:
    """Multiply-accumulates of one image; None where PyTorch, which counts them, is not installed."""
    if not installed("export"):
        return None
    return _counted(header.architecture, len(header.labels), header.input.channels, header.input.size)


def _show(document: Mapping[str, Any]) -> None:
    """Print the table."""
    console = wide_console()
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None)
    titles = ("ms p50", "p95", "p99", "times eager", "images/s", "peak MB", "file MB", "MACs", "AUROC")
    for title in ("model", "runtime", "precision"):
        table.add_column(title)
    for title in titles:
        table.add_column(title, justify="right")
    for row in document["rows"]:
        table.add_row(
            row["model"],
            row["runtime"],
            row["precision"],
            *(f"{row[f'latency_ms_{p}']:.2f}" for p in ("p50", "p95", "p99")),
            "-" if row["speedup"] is None else f"{row['speedup']:.2f}",
            f"{row['images_per_second']:.0f} ({row['batch']})",
            "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}",
            f"{row['bytes'] / 1e6:.1f}",
            "-" if row["macs"] is None else f"{row['macs'] / 1e9:.2f} G",
            "-" if row["auroc"] is None else f"{row['auroc']:.3f}",
        )
    console.print(table)
    for note in document["notes"]:
        say(f"note: {note}")
