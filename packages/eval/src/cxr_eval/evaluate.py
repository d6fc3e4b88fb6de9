"""The stage: models and a cohort in, one report out.

``metrics.json`` (schema 1) holds

- ``task``, ``split``, ``images``, ``patients``, and ``labels``, the order of every list;
- ``headline``: what the "overall" figures are (the label of a two-class task, else a macro average);
- ``cohort``: ``Cohort.describe()``, its notes, and the number of broken images;
- ``intervals``: ``{"level", "resamples", "unit", "seed"}``;
- ``models``: name -> ``file`` (what the weights file says of itself), ``size`` and ``speed`` (see
  ``cxr_eval.speed``; speed is null when not timed), ``thresholds`` by label (null where the most probable
  class decides), and the metrics of ``cxr_eval.results.measure``: ``overall``, ``macro``, ``micro``,
  ``weighted``, ``labels``, ``confusion_matrix``;
- ``differences``: model -> paired differences to the first model;
- ``notes``: sentences a reader must know; ``provenance``: versions, git revision, config, time, device.

A metric is ``{"value", "low", "high"}``; what does not exist is null, with a ``reason`` or ``interval_reason``.
"""

import csv
import datetime
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from numpy.typing import NDArray

from cxr_common.checkpoint import Header, load, provenance
from cxr_common.cohorts import open_cohort, pixel_size_for
from cxr_common.cohorts.cohort import Cohort
from cxr_common.command import config_dict
from cxr_common.errors import BadInput
from cxr_common.files import not_writable, sha256, write_json, write_text
from cxr_common.training.accelerator import has_bf16
from cxr_eval import models as found
from cxr_eval import results, speed
from cxr_eval.config import EvaluateConfig
from cxr_eval.predictions import Answers, answers, predict, table
from cxr_eval.report import build
from cxr_eval.terminal import counting, say, summary

SCHEMA = 1
OURS = frozenset({"metrics.json", "metrics.csv", "predictions.parquet", "config.yaml", "index.html"})


def evaluate(config: EvaluateConfig) -> Path:
    """Compare models on one split of a cohort and write the report folder.

    Args:
        config: What to compare on what.

    Returns:
        The report's index.html.

    Raises:
        BadInput: No model, a backbone, labels that do not match, an unusable cohort, or a folder that
            cannot be written to.
    """
    paths = found.find(config.models, config.runs_dir, config.run)
    files = dict(zip(found.names(paths), paths, strict=True))
    headers = found.read_headers(files)
    folder = Path(config.runs_dir) / config.run / config.name
    check_folder(folder)
    cohorts = _open(config, headers, files)
    cohort = next(iter(cohorts.values()))
    rows = _rows(cohorts, config.split)
    if cohort.task is None:
        raise BadInput("a cohort with labels", "one without", where=cohort.source)
    match = found.match_labels(headers, cohort.task, cohort.labels)
    targets = found.aligned_targets(cohort.targets[rows], cohort.labels, match)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    low = config.precision == "bf16" or (config.precision == "auto" and has_bf16(device == "cuda"))
    networks: dict[str, tuple[torch.nn.Module, int]] = {}
    given: dict[str, Answers] = {}
    for name, path in files.items():
        network, header = load(path, kind="model")
        size = header.input.size
        title = f"evaluate: {name} on {len(rows)} {config.split} images of {cohort.name}"
        with counting(title, len(rows)) as advance:
            logits = predict(
                network,
                cohorts[pixel_size_for(size)].pixels,
                size,
                rows=rows,
                batch_size=config.batch_size,
                device=device,
                precision=torch.bfloat16 if low else torch.float32,
                on_batch=advance,
            )
        given[name] = answers(logits, header, match.labels, name)
        networks[name] = (network, size)

    measured = results.measure(
        match.task,
        match.labels,
        targets,
        given,
        cohort.groups[rows],
        resamples=config.resamples,
        seed=config.seed,
    )
    timed = {}
    if config.speed:
        say(f"evaluate: timing {len(networks)} model{'s' if len(networks) > 1 else ''}")
        timed = speed.measure(networks, threads=config.threads)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "task": match.task,
        "split": config.split,
        "labels": list(match.labels),
        "headline": results.headline(match.task, match.labels),
        "images": len(rows),
        "patients": int(cohort.table["patient"].gather(rows).n_unique()),
        "intervals": {
            "level": results.LEVEL,
            "resamples": config.resamples,
            "unit": "patient",
            "seed": config.seed,
        },
        "cohort": {**cohort.describe(), "notes": list(cohort.notes), "broken": len(cohort.broken)},
        "models": {
            name: {
                "file": _file(path, headers[name]),
                "size": speed.size(*networks[name], path),
                "speed": timed.get(name),
                "thresholds": _thresholds(headers[name], match),
                **measured["models"][name],
            }
            for name, path in files.items()
        },
        "differences": measured["differences"],
        "notes": [*match.notes, *_notes(config, headers, cohorts, match), *filter(None, [speed.disturbed(timed)])],
        "provenance": {
            **provenance(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "config": config_dict(config),
            "device": torch.cuda.get_device_name() if device == "cuda" else speed.cpu_name(),
            "precision": "bf16" if low else "fp32",
        },
    }
    with whole_folder(folder) as beside:
        predictions = table(cohort.table[rows], match.labels, targets, given)
        write_report(beside, document, targets, given, predictions)
    summary(document)
    say(f"wrote {folder / 'index.html'}")
    return folder / "index.html"


def write_report(
    folder: Path,
    document: Mapping[str, Any],
    targets: NDArray[np.float32],
    given: Mapping[str, Answers],
    predictions: pl.DataFrame,
) -> None:
    """Write metrics.json, metrics.csv, predictions.parquet, config.yaml and index.html into a folder.

    Args:
        folder: Existing folder.
        document: The content of metrics.json.
        targets: (N, L) in {0, 1, NaN}.
        given: Answers by model name.
        predictions: The table of predictions.parquet.
    """
    write_json(folder / "metrics.json", document)
    text = io.StringIO()
    columns = ["model", "scope", "label", "metric", "value", "low", "high", "reason"]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results.as_rows(document))
    write_text(folder / "metrics.csv", text.getvalue())
    predictions.write_parquet(folder / "predictions.parquet")
    write_text(folder / "config.yaml", yaml.safe_dump(document["provenance"]["config"], sort_keys=False))
    write_text(folder / "index.html", build.render(document, targets, given))


def check_folder(folder: Path) -> None:
    """See that a report may be written: nothing there, or an earlier report.

    Raises:
        BadInput: The folder holds other files, or is a file.
    """
    if folder.exists():
        others = sorted({path.name for path in folder.iterdir()} - OURS) if folder.is_dir() else [folder.name]
        if others:
            raise BadInput(
                "a new folder, or an earlier report",
                f"other files ({', '.join(others[:5])})",
                where=folder,
                do="choose another --name",
            )


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes its name only once all its files are written; an earlier one is replaced.

    Args:
        folder: The folder to write.

    Yields:
        The folder beside it to write into.

    Raises:
        BadInput: It cannot be written to.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise not_writable(folder.parent, error) from error
    try:
        yield beside
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _open(config: EvaluateConfig, headers: Mapping[str, Header], files: Mapping[str, Path]) -> dict[int, Cohort]:
    """The cohort, once for every stored pixel size the models need."""
    first = next(iter(headers))
    data = config.data or headers[first].config.get("data") or (headers[first].cohort or {}).get("source")
    if not data:
        raise BadInput(
            "a cohort to evaluate on", "none named in the model's file", where=files[first], do="give --data"
        )
    sizes = dict.fromkeys(pixel_size_for(header.input.size) for header in headers.values())
    return {size: open_cohort(str(data), pixel_size=size) for size in sizes}


def _rows(cohorts: Mapping[int, Cohort], split: str) -> NDArray[np.int64]:
    """The rows of a split, which must be the same images at every pixel size."""
    first = next(iter(cohorts.values()))
    rows = first.rows(split)
    if len(rows) == 0:
        raise BadInput(f"{split} images", "none in this cohort", where=first.source, do="choose another --split")
    images = first.table["image"].gather(rows)
    for other in cohorts.values():
        if not other.table["image"].gather(other.rows(split)).equals(images) or len(other) != len(first):
            raise BadInput(
                "the same images at every input size",
                f"others at {other.pixel_size} px",
                where=first.source,
                do="prepare the cohort again, or compare models of one input size",
            )
    return rows


def _thresholds(header: Header, match: found.Match) -> dict[str, float] | None:
    """Decision threshold by label; None where the most probable class decides."""
    if match.task == "multiclass" and len(match.labels) > 2:
        return None
    values = header.thresholds or [0.5] * len(header.labels)
    return {label: float(values[header.labels.index(label)]) for label in match.labels}


def _file(path: Path, header: Header) -> dict[str, Any]:
    return {
        "path": str(path),
        "sha256": sha256(path),
        "architecture": header.architecture,
        "input_size": header.input.size,
        "labels": list(header.labels),
        "fitted_thresholds": bool(header.thresholds),
        "temperature": (header.calibration or {}).get("temperature"),
        "parents": [dict(parent) for parent in header.parents],
        "cohort": {key: (header.cohort or {}).get(key) for key in ("name", "source", "fingerprint")},
        "config": header.config,
        "seed": header.seed,
        "versions": header.versions,
        "git": header.git,
    }


def _notes(
    config: EvaluateConfig, headers: Mapping[str, Header], cohorts: Mapping[int, Cohort], match: found.Match
) -> list[str]:
    notes = []
    if config.split != "test":
        notes.append(f"These are {config.split} images, not test images: the figures may flatter the models.")
    for name, header in headers.items():
        cohort = cohorts[pixel_size_for(header.input.size)]
        trained = (header.cohort or {}).get("fingerprint")
        if trained is None:
            notes.append(f"{name}: its file does not say what it was trained on.")
        elif trained != cohort.fingerprint and header.cohort is not None:
            notes.append(
                f"{name} was trained on another state of the data ({header.cohort.get('name')}): an external "
                "evaluation, unless the two share patients."
            )
        if header.input.pixels and header.input.pixels != cohort.pixel_mapping:
            notes.append(
                f"{name} was trained on pixels mapped as {_plain(header.input.pixels)}, the cohort's are "
                f"{_plain(cohort.pixel_mapping)}."
            )
        if not header.thresholds and not (match.task == "multiclass" and len(match.labels) > 2):
            notes.append(f"{name}: no threshold was fitted; 0.5 decides.")
    return notes


def _plain(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(mapping.items()))
