"""The results page of a recipe: figures, gains, commands, machine and times."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_common.gain import over_seeds
from cxr_data.machine import cpu_name, memory
from cxr_data.markdown import table
from cxr_data.models.header import provenance
from cxr_data.models.model_files import set_aside
from cxr_recipes.differences import difference, points
from cxr_recipes.figure import figure
from cxr_recipes.recipe import METRICS, Recipe

Models = Mapping[str, Mapping[str, Any]]


def page(recipe: Recipe, run: Path, commands: Sequence[str], record: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    done = _finished(run)
    sections = [
        f"# {recipe.title}",
        recipe.about.strip(),
        f"Written by `reproduce {recipe.name}` (scale {record['scale']}), not by hand. {record['note']}".rstrip(),
    ]
    reports = {folder: json.loads((run / folder / "metrics.json").read_text("utf-8")) for folder in recipe.reports}
    for folder, title in recipe.reports.items():
        report = reports[folder]
        validation = {name: _validation(run, done, model) for name, model in report["models"].items()}
        sections += _report(recipe, folder, title, report, validation)
    sections += [
        _losses({title: reports[folder]["models"] for folder, title in recipe.reports.items()}),
        recipe.differs and "## Why ours may differ from the paper's\n\n" + recipe.differs.strip(),
        done and "## Training\n\n" + _training(done),
        "## Commands\n\n" + _commands(commands, record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def chart(recipe: Recipe, metrics: Path) -> str:
    """The figure of a report as SVG: every gain of the recipe as a pair of models; empty where there is none."""
    document = json.loads(metrics.read_text("utf-8"))
    models = document["models"]
    rows = [
        (title, [a for a, _ in pairs], [b for _, b in pairs])
        for title, pairs in paired(recipe, by_seed(models), models)
    ]
    defined = [row for row in rows if all(models[n]["overall"]["auroc"]["value"] is not None for n in row[1] + row[2])]
    teacher = "teacher" if "teacher" in models else None
    return figure(defined, models, "auroc", teacher, document["images"]) if defined else ""


def _finished(run: Path) -> dict[str, dict[str, Any]]:
    """``done.json`` of every training by its folder below the run, without those a --restart has set aside."""
    files = [file for file in sorted(run.rglob("done.json")) if not set_aside(file.parent)]
    return {str(file.parent.relative_to(run)): json.loads(file.read_text("utf-8")) for file in files}


def _validation(run: Path, done: Mapping[str, Mapping[str, Any]], model: Mapping[str, Any]) -> float | None:
    folder = os.path.relpath(Path(model["file"]["path"]).parent, run)
    return done.get(folder, {}).get("val_auroc")


def _report(
    recipe: Recipe, folder: str, title: str, report: Mapping[str, Any], validation: Mapping[str, float | None]
) -> list[str]:
    """The sections of one report: cohort, figures, gains, the paper's values, confusion matrices, size and speed."""
    models = report["models"]
    groups = by_seed(models)
    partly = any("labels" in model["overall"][metric] for model in models.values() for metric in METRICS)
    bracketed = ", or of as many of them as have the figure, their number in brackets" if partly else ""
    return [
        f"## Results on {title}\n\n" + _cohort(report),
        f"{report['headline']}{bracketed}. Over several seeds: mean ± half-width of the 95 % t interval; over one: "
        f"value and 95 % interval of {report['intervals']['resamples']} bootstrap resamples of patients. Epoch, "
        "temperature and threshold were chosen on validation images. Intervals over seeds cover the draw of the seed "
        "(weights, order, views), not that of the patients; students that share teachers are not independent of one "
        "another."
        "\n\n" + _figures(groups, models),
        _gains(recipe, groups, models, validation),
        _published(recipe.published.get(folder, {}), groups, models),
        _confusion(groups, models, report["labels"]),
        _corruptions(groups, models),
        _speed(groups, models),
    ]


def _losses(models_on: Mapping[str, Models]) -> str:
    """AUROC of the models on one set of images after the other, and what they lose from the first; empty for one."""
    first, *others = models_on or [""]
    files = [{(name, model["file"]["sha256"]) for name, model in models.items()} for models in models_on.values()]
    shared = {name for name, _ in set.intersection(*files)} if others else set()
    groups = by_seed(name for name in models_on.get(first, ()) if name in shared)
    if not groups:
        return ""
    rows: list[list[object]] = []
    for group, names in groups.items():
        cells = [_cell([models_on[title][name]["overall"]["auroc"] for name in names]) for title in models_on]
        lost = [
            _gain([difference(models_on[title][name], models_on[first][name], "auroc") for name in names])
            for title in others
        ]
        rows.append([group, *cells, *lost])
    heads = ["model", *(f"AUROC, {title}" for title in models_on), *(f"difference, {title}" for title in others)]
    about = f"Differences from the AUROC on {first}, in percentage points; over several seeds mean and 95 % t interval."
    return "\n".join(["## From one cohort to the other", "", about, "", *table(heads, rows)])


def machine() -> str:
    """Processor, cores, memory and accelerator of this machine, and what the programs were."""
    ours = provenance()
    versions = ", ".join(f"{name} {ours['versions'][name]}" for name in ("python", "torch", "timm"))
    revision = (ours["git"] or "?")[:12]
    return f"{cpu_name()}, {os.cpu_count()} cores, {memory() / 2**30:.0f} GiB; {versions}; revision {revision}"


def by_seed(models: Iterable[str]) -> dict[str, list[str]]:
    """Models that differ in their seed alone, by their common name."""
    groups: dict[str, list[str]] = {}
    for name in models:
        groups.setdefault(re.sub(r"-seed\d+$", "", name), []).append(name)
    return groups


def _cohort(report: Mapping[str, Any]) -> str:
    cohort = report["cohort"]
    labels = cohort["labels"]
    rows = [
        [split, counts["images"], counts["patients"], *(counts["positive"][label] for label in labels)]
        for split, counts in cohort["splits"].items()
    ]
    about = f"{cohort['name']}, {cohort['task']}, fingerprint `{cohort['fingerprint'][:16]}`."
    return "\n".join([*table(["split", "images", "patients", *labels], rows), "", about])


def _figures(groups: Mapping[str, list[str]], models: Models) -> str:
    rows = []
    for group, names in groups.items():
        grouped = [models[name] for name in names]
        cells = [_cell([model["overall"][metric] for model in grouped]) + _over(grouped, metric) for metric in METRICS]
        rows.append([group, len(names), *cells])
    return "\n".join(table(["model", "seeds", *METRICS.values()], rows))


def _cell(entries: Sequence[Mapping[str, Any]]) -> str:
    values = [entry["value"] for entry in entries]
    if any(value is None for value in values):
        return "undefined"
    if len(values) > 1:
        mean, half = over_seeds(values)
        return f"{mean:.4f} ± {half:.4f}"
    low, high = entries[0]["low"], entries[0]["high"]
    return f"{values[0]:.4f}" + ("" if low is None else f" [{low:.4f}, {high:.4f}]")


def _over(models: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Say in brackets over how many labels a metric is averaged, where it is not all of them in every model."""
    counts = {model["overall"][metric].get("labels", len(model.get("labels", ()))) for model in models}
    if not any("labels" in model["overall"][metric] for model in models):
        return ""
    least, most = min(counts), max(counts)
    return f" ({least if least == most else f'{least} to {most}'})"


def _gains(
    recipe: Recipe, groups: Mapping[str, list[str]], models: Models, validation: Mapping[str, float | None]
) -> str:
    if not recipe.gains:
        return ""
    rows: list[list[object]] = []
    for title, pairs in paired(recipe, groups, models):
        better = sum((difference(models[a], models[b], "auroc") or 0) > 0 for a, b in pairs)
        rows.append(
            [
                title,
                len(pairs),
                _gain([points(validation.get(a), validation.get(b)) for a, b in pairs]),
                *(_gain([difference(models[a], models[b], metric) for a, b in pairs]) for metric in METRICS),
                f"{better} of {len(pairs)}",
            ]
        )
        if paper := recipe.published_gains.get(title):
            rows.append(["the paper's", "", "", *(f"{paper[m]:+.2f}" if m in paper else "" for m in METRICS), ""])
    if not rows:
        return ""
    about = (
        "Difference of the same seed with and without, in percentage points. Several seeds: mean and 95 % t interval "
        "of the paired differences. Where an interval contains 0, the difference is within seed-to-seed variation. "
        "Methods are chosen by the first column, on validation images."
    )
    heads = ["gain of", "pairs", "validation AUROC", *METRICS.values(), "AUROC better in"]
    return "\n".join(["### Gains", "", about, "", *table(heads, rows)])


def paired(
    recipe: Recipe, groups: Mapping[str, list[str]], models: Iterable[str]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Pair the models with and without what each gain compares, by seed; without the gains of other scales."""
    pairs_of = []
    for title, (with_it, without) in recipe.gains.items():
        matches = [(name, without + name.removeprefix(with_it)) for name in groups.get(with_it, [])]
        if pairs := [(name, match) for name, match in matches if match in models]:
            pairs_of.append((title, pairs))
    return pairs_of


def _gain(differences: Sequence[float | None]) -> str:
    known = [difference for difference in differences if difference is not None]
    if len(known) < 2:
        return f"{known[0]:+.2f}" if known else "undefined"
    mean, half = over_seeds(known)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def _published(paper: Mapping[str, Mapping[str, float]], groups: Mapping[str, list[str]], models: Models) -> str:
    if not paper:
        return ""
    rows: list[list[object]] = []
    for group, metrics in paper.items():
        for metric, value in metrics.items():
            entries = [models[name]["overall"][metric] for name in groups.get(group, [])]
            here = [entry["value"] for entry in entries]
            gap = f"{float(np.mean(here)) - value:+.4f}" if entries and None not in here else ""
            rows.append([group, METRICS[metric], value, _cell(entries) if entries else "", gap])
    return "\n".join(["### Beside the paper", "", *table(["model", "metric", "paper", "here", "difference"], rows)])


def _confusion(groups: Mapping[str, list[str]], models: Models, labels: Sequence[str]) -> str:
    matrices_of = {group: [models[name]["confusion_matrix"] for name in names] for group, names in groups.items()}
    if any(matrix is None for matrices in matrices_of.values() for matrix in matrices):
        return ""
    sums = {group: np.sum(matrices, axis=0) for group, matrices in matrices_of.items()}
    lines = ["### Confusion matrices", ""]
    if len(labels) == 2:
        lines += ["Images by what they are and what they were taken for; over several seeds, the sum.", ""]
        heads = ["model", *(f"{true} as {decided}" for true in labels for decided in labels)]
        return "\n".join([*lines, *table(heads, [[group, *matrix.ravel()] for group, matrix in sums.items()])])
    lines.append("Rows: what the images are; columns: what they were taken for; over several seeds, the sum.")
    for group, matrix in sums.items():
        rows = [[true, *counts] for true, counts in zip(labels, matrix, strict=True)]
        lines += ["", *table([group, *labels], rows)]
    return "\n".join(lines)


def _corruptions(groups: Mapping[str, list[str]], models: Models) -> str:
    """What the models lose on corrupted copies of the images; empty where that was not evaluated."""
    kinds_of: dict[str, list[Any]] = {
        group: [models[name].get("corruptions") for name in names] for group, names in groups.items()
    }
    if not all(all(of_models) for of_models in kinds_of.values()):
        return ""
    first = next(iter(kinds_of.values()))[0]
    rows: list[list[object]] = []
    for i, kind in enumerate(first):
        losses = [[of_model[i]["difference"]["value"] for of_model in of_models] for of_models in kinds_of.values()]
        cells = [_gain([None if value is None else 100 * value for value in values]) for values in losses]
        rows.append([f"{kind['name']}, {kind['strength']}", *cells])
    about = (
        "Difference of AUROC from the images as they are, in percentage points; over several seeds mean and 95 % t "
        "interval. Temperatures and thresholds stay as they are."
    )
    return "\n".join(["### Corrupted copies", "", about, "", *table(["copies", *kinds_of], rows)])


def _speed(groups: Mapping[str, list[str]], models: Models) -> str:
    rows = []
    for group, names in groups.items():
        size, speed = models[names[0]]["size"], models[names[0]]["speed"]
        timed = ["not timed", "not timed", "not measured"]
        if speed:
            timed = [
                f"{speed['latency_ms_p50']:.1f}, {speed['latency_ms_p99']:.1f} ms",
                f"{speed['images_per_second']:.0f} images/s",
                f"{speed['peak_bytes'] / 1e6:.0f} MB",
            ]
        sizes = f"{size['parameters'] / 1e6:.2f} M", f"{size['macs'] / 1e6:.0f} M", f"{size['bytes'] / 1e6:.1f} MB"
        rows.append([group, *sizes, *timed])
    about = "PyTorch in fp32 on the CPU, measured in alternation in one process; one model of each kind."
    heads = ["model", "parameters", "MACs", "file", "latency, batch 1 (p50, p99)", "throughput", "peak memory"]
    return "\n".join(["### Size and speed", "", about, "", *table(heads, rows)])


def _training(done: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for stage, end in done.items():
        area = end.get("val_auroc")
        rows.append(
            [
                stage,
                f"{end.get('epochs', '')} ({end.get('best_epoch', '')})",
                "" if area is None else f"{area:.4f}",
                f"{end.get('seconds', 0):.0f} s",
                f"{end.get('images_per_second', 0):.0f}",
                f"{end.get('peak_memory_gib', 0):.1f} GiB",
                f"{end.get('device', '')}, {end.get('precision', '')}",
            ]
        )
    heads = ["stage", "epochs (best)", "validation AUROC", "time", "images/s", "peak memory", "device, precision"]
    return "\n".join(table(heads, rows))


def _commands(commands: Sequence[str], record: Mapping[str, Any]) -> str:
    side_by_side = record["jobs"]
    how = "one after the other" if side_by_side == 1 else f"up to {side_by_side} of a kind side by side"
    return "\n".join([f"On {record['machine']}; {how}.", "", "```sh", *commands, "```"])
