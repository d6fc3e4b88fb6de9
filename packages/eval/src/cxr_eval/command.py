"""The command ``evaluate``: models and a cohort in, one report out.

``metrics.json`` is described in docs/metrics.md and typed in ``cxr_eval.document``. It is what the page, the table, the
plots and the model cards are made from.
"""

import csv
import dataclasses
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from numpy.typing import NDArray

from cxr_common.checkpoint import Header, load
from cxr_common.training.accelerator import has_bf16, uses_cuda
from cxr_data import open_cohort, pixel_size_for, timing
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.suggestions import suggest
from cxr_data.command_line.terminal import counting, say
from cxr_data.errors import BadInput
from cxr_data.files import sha256, whole_folder, write_json, write_text
from cxr_data.folders import refuse_other_files
from cxr_data.machine import cpu_name
from cxr_data.models import model_files
from cxr_data.models.decisions import in_use
from cxr_data.models.header import made_now
from cxr_eval import corruptions, entries, results, speed, subgroups
from cxr_eval.config import EvaluateConfig
from cxr_eval.document import SCHEMA, checked
from cxr_eval.explain.explanations import explain
from cxr_eval.metrics.records import METRICS
from cxr_eval.models import Match, aligned_targets, controls, match_labels, relation, teachers
from cxr_eval.notes import counted_images, met_in_training, notes, seen_in_training
from cxr_eval.predictions import Answers, answers, predict, table
from cxr_eval.report import build, card
from cxr_eval.terminal import summary

OURS = frozenset(
    {"metrics.json", "metrics.csv", "predictions.parquet", "config.yaml", "index.html", "plots", "model_cards"}
)


def run(config: EvaluateConfig) -> Path:
    """Compare models on one split of a cohort and write the report folder.

    Raises:
        BadInput: No model, a backbone, labels that do not match, an unusable cohort, or a folder that
            cannot be written to.
    """
    paths = model_files.find(config.models, config.runs_dir, config.run)
    files = dict(zip(model_files.names(paths), paths, strict=True))
    headers = model_files.read_headers(files)
    folder = Path(config.runs_dir) / config.run / config.name
    refuse_other_files(folder, OURS, earlier="an earlier report", option="--name")
    cohorts = _open(config, headers, files)
    cohort = next(iter(cohorts.values()))
    rows = _rows(cohorts, config.split)
    if cohort.task is None:
        raise BadInput("a cohort with labels", "one without", where=cohort.source)
    match = match_labels(headers, cohort.task, cohort.labels)
    targets = aligned_targets(cohort.targets[rows], cohort.labels, match)
    groupings = subgroups.groupings(cohort.table[rows], config.subgroups)
    met = met_in_training(files, headers, cohorts, rows)
    seen = seen_in_training(met)
    for sentence in seen:
        say(f"evaluate: warning: {sentence}")

    device = "cuda" if uses_cuda() else "cpu"
    low = config.precision == "bf16" or (config.precision == "auto" and has_bf16(device == "cuda"))
    precision = torch.bfloat16 if low else torch.float32
    networks, given = _answers(config, files, match, cohorts, rows, device, precision)

    groups = cohort.groups[rows]
    units, patients = len(np.unique(groups)), cohort.table["patient"][rows].n_unique()
    together = f" ({patients}, those who share an identical image as one)" if patients > units else ""
    say(f"evaluate: intervals from {units} patients{together}" if config.resamples else "evaluate: no intervals")
    document = measure(config, match, targets, given, groups, groupings, headers, files)
    told = (networks, headers, cohorts, given, match, targets, rows)
    if config.corruptions:
        forward: Any = {"batch_size": config.batch_size, "device": device, "precision": precision}
        for name, lost in corruptions.measure(*told, intervals=config.resamples > 0, **forward).items():
            document["models"][name]["corruptions"] = lost

    def explain_now() -> dict[str, Any] | None:
        options = {"resamples": config.resamples, "seed": config.seed}
        return explain(config.explain, *told, **options) if config.explain else None

    speeds, explained = _measured_while(explain_now, config, files, headers, networks)
    if explained:
        document["explanations"] = {key: explained[key] for key in ("method", "levels", "scores", "curves")}
    for name, path in files.items():
        document["models"][name] |= {"size": speed.size(*networks[name], path), "speed": speeds.get(name)}
        document["models"][name]["training_images"] = met[name]
        document["models"][name]["cohort"] = relation(headers[name], cohorts[pixel_size_for(networks[name][1])])
    warnings = filter(None, [timing.disturbed(speeds)])
    document |= {
        "images": len(rows),
        "patients": int(cohort.table["patient"].gather(rows).n_unique()),
        "cohort": {
            **cohort.describe(),
            "shared_patients": {f"{one} and {other}": n for (one, other), n in cohort.shared_groups.items()},
            "notes": list(cohort.notes),
            "broken": len(cohort.broken),
        },
        "notes": [*seen, *match.notes, *notes(config.split, headers, cohorts, match), *warnings],
        "provenance": _provenance(config, device, low),
    }
    document = checked(document)
    with whole_folder(folder) as beside:
        predictions = table(cohort.table[rows], match.labels, targets, given)
        write_report(beside, document, targets, given, predictions, explained)
    summary(document)
    say(f"wrote {folder / 'index.html'}")
    students = [*document["gains"], *document["noninferiority"]]
    say(suggest("export-model", files[students[0] if students else next(iter(files))].parent))
    return folder / "index.html"


def _measured_while(
    explain_now: Callable[[], dict[str, Any] | None],
    config: EvaluateConfig,
    files: Mapping[str, Path],
    headers: Mapping[str, Header],
    networks: Mapping[str, tuple[torch.nn.Module, int]],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
    """Time of each network, its memory, which other processes measure during a call, and what the call returned."""
    like = _first_of_kind(headers) if config.speed else {}
    first = dict.fromkeys(like.values())
    timed: dict[str, dict[str, Any]] = {}
    if first:
        say(f"evaluate: time and memory of {len(first)} network{'s' if len(first) > 1 else ''}")
        timed = speed.measure({name: networks[name] for name in first}, threads=config.threads)
    with ThreadPoolExecutor(1) as pool:
        started = {name: (str(files[name]), str(config.threads)) for name in timed}
        do = "run it again; --speed false leaves this out"
        held = pool.submit(timing.peak_memories, "cxr_eval.memory", started, do=do)
        explained = explain_now()
    return {name: timed[other] | {"peak_bytes": held.result()[other]} for name, other in like.items()}, explained


def _answers(
    config: EvaluateConfig,
    files: Mapping[str, Path],
    match: Match,
    cohorts: Mapping[int, Cohort],
    rows: NDArray[np.int64],
    device: str,
    precision: torch.dtype,
) -> tuple[dict[str, tuple[torch.nn.Module, int]], dict[str, Answers]]:
    """Every network with its input size, and its answers for the rows."""
    networks: dict[str, tuple[torch.nn.Module, int]] = {}
    given: dict[str, Answers] = {}
    for name, path in files.items():
        network, header = load(path, kind="model")
        size = header.input.size
        cohort = cohorts[pixel_size_for(size)]
        title = f"evaluate: {name} on {counted_images(len(rows), config.split)} of {cohort.name}"
        with counting(title, len(rows)) as advance:
            logits = predict(
                network,
                cohort.pixels,
                size,
                rows=rows,
                batch_size=config.batch_size,
                device=device,
                precision=precision,
                on_batch=advance,
            )
        given[name] = answers(logits, header, match.labels, name)
        networks[name] = (network, size)
    return networks, given


def _first_of_kind(headers: Mapping[str, Header]) -> dict[str, str]:
    """The model that is measured for each: weights of several seeds take equally long, so one of them is enough."""
    kinds = {name: (header.architecture, header.input.size, len(header.labels)) for name, header in headers.items()}
    first = {kind: name for name, kind in reversed(kinds.items())}
    return {name: first[kind] for name, kind in kinds.items()}


def _provenance(config: EvaluateConfig, device: str, low: bool) -> dict[str, Any]:
    return {
        **made_now(config),
        "command": command(config),
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "precision": "bf16" if low else "fp32",
    }


def measure(
    config: EvaluateConfig,
    match: Match,
    targets: NDArray[np.float32],
    given: Mapping[str, Answers],
    patients: NDArray,
    groupings: Sequence[subgroups.Grouping],
    headers: Mapping[str, Header],
    files: Mapping[str, Path],
) -> dict[str, Any]:
    """The part of metrics.json that follows from answers: figures, intervals, tests and subgroups.

    Args:
        config: Resamples, seed, margin.
        match: Task and labels.
        targets: (N, L) in {0, 1, NaN}.
        given: Answers by model name.
        patients: (N,) patient of each image.
        groupings: Columns to report by.
        headers: Headers by model name.
        files: Weights files by model name.
    """
    patient, draws = results.draws_of(patients, config.resamples, config.seed)
    described = {name: _file(path, headers[name]) for name, path in files.items()}
    hashes = {name: file["sha256"] for name, file in described.items()}
    measured = results.measure(
        match.task,
        match.labels,
        targets,
        given,
        patient,
        draws,
        margin=config.margin,
        teachers=teachers(headers, hashes),
        controls=controls(headers),
    )
    columns = results.reported(match.task, match.labels)
    shown = [match.labels[i] for i in columns]
    by_group = subgroups.measure(groupings, shown, columns, targets, given, patient, draws)
    return {
        "schema": SCHEMA,
        "task": match.task,
        "split": config.split,
        "labels": list(match.labels),
        "headline": results.headline(match.task, match.labels),
        "intervals": {
            "level": entries.LEVEL,
            "resamples": config.resamples,
            "unit": "patient",
            "least_patients": entries.LEAST_OF_CLASS,
            "methods": {name: metric.interval for name, metric in METRICS.items()},
            "seed": config.seed,
        },
        "models": {
            name: {
                "file": described[name],
                "thresholds": _thresholds(headers[name], match),
                **measured["models"][name],
                "subgroups": by_group["models"][name],
            }
            for name in files
        },
        "differences": measured["differences"],
        "gains": measured["gains"],
        "noninferiority": measured["noninferiority"],
        "subgroups": {"columns": by_group["columns"], "gaps": by_group["gaps"]},
    }


def write_report(
    folder: Path,
    document: Mapping[str, Any],
    targets: NDArray[np.float32],
    given: Mapping[str, Answers],
    predictions: pl.DataFrame,
    explanations: Mapping[str, Any] | None = None,
) -> None:
    """Write everything of a report into a folder.

    Args:
        folder: Existing folder.
        document: The content of metrics.json.
        targets: (N, L) in {0, 1, NaN}.
        given: Answers by model name.
        predictions: The table of predictions.parquet.
        explanations: What ``report.build.render`` shows of explanations, where there are any.
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
    page, plots = build.render(document, targets, given, explanations)
    write_text(folder / "index.html", page)
    for name, drawing in plots.items():
        write_text(folder / "plots" / f"{name}.svg", drawing)
    for name, text_of in card.cards(document).items():
        write_text(folder / "model_cards" / name / "README.md", text_of)


def command(config: EvaluateConfig) -> str:
    """The command line that gives this config, as a person would type it."""
    words = ["uv", "run", "evaluate", *config.models]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name == "models" or value == default:
            continue
        words.append(f"--{field.name}")
        words += [str(item) for item in value] if isinstance(value, list) else [_typed(value)]
    return shlex.join(words)


def _typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _open(config: EvaluateConfig, headers: Mapping[str, Header], files: Mapping[str, Path]) -> dict[int, Cohort]:
    """The cohort, once for every stored pixel size the models need."""
    first = next(iter(headers))
    data = model_files.cohort_of(headers[first], config.data, files[first], wanted="a cohort to evaluate on")
    sizes = dict.fromkeys(pixel_size_for(header.input.size) for header in headers.values())
    return {size: open_cohort(data, pixel_size=size) for size in sizes}


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


def _thresholds(header: Header, match: Match) -> dict[str, float] | None:
    """Decision threshold by label; None where the most probable class decides."""
    if match.task == "multiclass" and len(match.labels) > 2:
        return None
    values = in_use(header.thresholds, len(header.labels))
    return {label: values[header.labels.index(label)] for label in match.labels}


def _file(path: Path, header: Header) -> dict[str, Any]:
    return {
        "path": str(path),
        "sha256": sha256(path),
        "architecture": header.architecture,
        "input_size": header.input.size,
        "labels": list(header.labels),
        "fitted_thresholds": bool(header.thresholds) and None not in header.thresholds,
        "temperature": (header.calibration or {}).get("temperature"),
        "parents": [dict(parent) for parent in header.parents],
        "licence": header.licence,
        "ancestors": [dict(ancestor) for ancestor in header.ancestors],
        "cohort": {key: (header.cohort or {}).get(key) for key in ("name", "source", "fingerprint")},
        "config": header.config,
        "seed": header.seed,
        "versions": header.versions,
        "git": header.git,
    }
