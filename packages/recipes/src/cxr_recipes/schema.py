"""Validation of recipe files: everything unknown is refused before anything runs."""

from collections.abc import Iterable
from typing import Any

from cxr_data.errors import BadInput, require_known

COMMANDS = ("cxr-data", "ssl-pretrain", "finetune", "distill", "evaluate", "export-model")
FIELDS = ("title", "about", "data", "scales", "stages", "reports", "gains", "published", "published_gains", "differs")
METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
}
"""Metrics of the results page and their column titles."""


def check(values: Any, where: str) -> None:
    """Refuse an invalid recipe.

    Args:
        values: The YAML file's content.
        where: The file.

    Raises:
        BadInput: A field or a stage is missing, unknown or of another kind.
    """
    if not isinstance(values, dict) or not {"title", "scales", "stages"} <= values.keys():
        found = f"the fields {', '.join(map(str, values))}" if isinstance(values, dict) else repr(values)
        raise BadInput("a recipe with title, scales and stages", found, where=where)
    _known("field of a recipe", values, FIELDS, where)
    for name in ("title", "about", "data", "differs"):
        _text(values.get(name, ""), f"{where}, {name}")
    _scales(values["scales"], f"{where}, scales")
    if not isinstance(values["stages"], list) or not values["stages"]:
        raise BadInput("a list of stages", repr(values["stages"]), where=f"{where}, stages", do="- finetune --size 64")
    for number, stage in enumerate(values["stages"], 1):
        _stage(stage, f"{where}, stage {number}")
    for title in _mapping(values.get("reports", {}), "folder: what it was evaluated on", f"{where}, reports").values():
        _text(title, f"{where}, reports")
    gains = _mapping(values.get("gains", {}), "title: [with, without]", f"{where}, gains")
    for pair in gains.values():
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise BadInput("a pair [with, without] of models", repr(pair), where=f"{where}, gains")
    _published(values, gains, where)


def _scales(scales: Any, where: str) -> None:
    if not _mapping(scales, "scale: values for the placeholders", where):
        raise BadInput("at least one scale", "none", where=where, do="cpu: {}")
    for name, values in scales.items():
        _mapping(values, "placeholder: value", f"{where}, {name}")
        _text(values.get("data", ""), f"{where}, {name}, data")


def _stage(stage: Any, where: str) -> None:
    if isinstance(stage, str):
        stage = {"command": stage}
    if isinstance(stage, dict):
        _known("field of a stage", stage, ("command", "for"), where)
    if not isinstance(stage, dict) or not isinstance(stage.get("command"), str) or not stage["command"].strip():
        raise BadInput("a command, or a stage with one", repr(stage), where=where, do="command: finetune --size 64")
    _known("command of a recipe", stage["command"].split()[:1], COMMANDS, where)
    _mapping(stage.get("for", {}), "placeholder: list of its values", f"{where}, for")


def _published(values: dict[str, Any], gains: dict[str, Any], where: str) -> None:
    published = _mapping(values.get("published", {}), "report: models", f"{where}, published")
    _known("report of the recipe", published, values.get("reports", ["report"]), f"{where}, published")
    for report, models in published.items():
        for model, metrics in _mapping(models, "model: metrics", f"{where}, published, {report}").items():
            _metrics(metrics, f"{where}, published, {report}, {model}")
    published_gains = _mapping(values.get("published_gains", {}), "gain: metrics", f"{where}, published_gains")
    _known("gain of the recipe", published_gains, gains, f"{where}, published_gains")
    for gain, metrics in published_gains.items():
        _metrics(metrics, f"{where}, published_gains, {gain}")


def _metrics(metrics: Any, where: str) -> None:
    _known("metric", _mapping(metrics, "metric: number", where), METRICS, where)
    for value in metrics.values():
        if not isinstance(value, int | float):
            raise BadInput("a number", repr(value), where=where)


def _known(kind: str, names: Iterable[Any], known: Iterable[str], where: str) -> None:
    for name in names:
        require_known(kind, name, known, where)


def _mapping(value: Any, of: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"a mapping ({of})", repr(value), where=where)
    for key in value:
        _text(key, where)
    return value


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise BadInput("text", repr(value), where=where, do="put quotes around what shall not be read as a number")
