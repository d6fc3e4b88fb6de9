"""The same training from several seeds, and what it reaches on average."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cxr_common.gain import over_seeds
from cxr_data.files import write_json
from cxr_data.machine import is_main
from cxr_distill.config import DistillConfig, FinetuneConfig
from cxr_distill.results import BACKBONE
from cxr_distill.stages import GAIN, stage_name

C = TypeVar("C", FinetuneConfig, DistillConfig)


def each_seed(config: C, stage: Callable[[C], Path]) -> list[Path]:
    """Run a stage once for every seed, each in its own folder, and say what came out.

    Args:
        config: The stage's config; without ``seeds`` the stage runs as it is, with ``seed``.
        stage: `stages.finetune` or `stages.distill`.

    Returns:
        Paths of the models. With several seeds NAME-seeds.json lies beside their folders, which are NAME-seed0,
        NAME-seed1, ...

    Raises:
        BadInput: As the stage.
    """
    if not config.seeds:
        return [stage(config)]
    name, main = stage_name(config), is_main()
    models = []
    for seed in config.seeds:
        if main:
            print(f"seed {seed}:", flush=True)
        models.append(stage(dataclasses.replace(config, seed=seed, seeds=[], name=f"{name}-seed{seed}")))
    if main:
        _summarise(config, name, models)
    return models


def _summarise(config: FinetuneConfig | DistillConfig, name: str, models: list[Path]) -> None:
    """Write and say means and intervals over the seeds."""
    figures = [_figures(model.parent, isinstance(config, DistillConfig) and config.control) for model in models]
    summary: dict[str, Any] = {"seeds": list(config.seeds), "level": 0.95}
    for key in figures[0]:
        values = [of_seed[key] for of_seed in figures]
        mean, half = over_seeds([math.nan if value is None else value for value in values])
        summary[key] = {
            "values": values,
            "mean": None if math.isnan(mean) else mean,
            "half_width": None if math.isnan(half) else half,
        }
        if math.isnan(mean):
            print(f"{name}: {key} undefined")
        else:
            interval = "" if math.isnan(half) else f" ± {half:.4f} (95 % t interval of the mean)"
            print(f"{name}, {len(models)} seeds: {key} {mean:.4f}{interval}")
    write_json(models[0].parent.with_name(f"{name}-seeds.json"), summary)


def _figures(folder: Path, control: bool) -> dict[str, float | None]:
    """What one seed reached on validation images: AUROC and its gain over the control; of features alone, the loss."""
    done = json.loads((folder / "done.json").read_text("utf-8"))
    alone = (folder / BACKBONE).exists()
    figures = {"val_loss": done["val_loss"]} if alone else {"val_auroc": done.get("val_auroc")}
    if control:
        figures["gain"] = json.loads((folder / GAIN).read_text("utf-8"))["gain"]
    return figures
