"""Results of a run: the backbone, under our names and torchvision's, pictures, and a summary."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from cxr_common import checkpoint
from cxr_common.models.foreign import to_torchvision
from cxr_common.training.accelerator import arithmetic
from cxr_common.training.options import without_conduct
from cxr_common.training.run_folder import RunFolder
from cxr_data.cohorts.cohort import Cohort
from cxr_data.errors import BadInput
from cxr_data.files import whole_file, write_text
from cxr_data.models.header import portable
from cxr_ssl.config import PretrainConfig
from cxr_ssl.picture_page import page
from cxr_ssl.pictures import maps
from cxr_ssl.state import TrainState


def write_results(
    config: PretrainConfig,
    cohort: Cohort,
    parents: tuple[dict[str, str], ...],
    state: TrainState,
    run: RunFolder,
    facts: dict[str, Any],
) -> list[Path]:
    """Write the backbone, the pictures and the summary, in the main process; marks the run as finished.

    Returns:
        The files with the backbone, and the page of pictures.
    """
    best, accelerator = state.best, state.accelerator
    assert best is not None
    header = checkpoint.Header(
        kind="backbone",
        architecture=config.architecture,
        input=state.method.backbone.describe_input(config.input_size, cohort.pixel_mapping),
        config=portable(without_conduct(config)),
        parents=parents,
        cohort=cohort.describe(),
        seed=config.seed,
        metrics={"epoch": best.epoch, **best.figures},
        **checkpoint.provenance(),
    )
    written = write_backbone(run.path, best.weights, header, checkpoint.trained_on(cohort, parents))
    written.append(_write_pictures(config, cohort, state, run))
    summary = {
        "backbone": written[0].name,
        "pictures": written[-1].name,
        "best_epoch": best.epoch,
        "probe_auroc_before": before(run),
        **best.figures,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        **facts,
    }
    run.finish(summary, keep_state=config.keep_state)
    return written


def write_backbone(
    folder: Path, weights: dict[str, Tensor], about: checkpoint.Header, trained_on: checkpoint.TrainingImages
) -> list[Path]:
    """Write ``backbone.safetensors`` and, for a ResNet, ``backbone_torchvision.safetensors``."""
    written = [folder / "backbone.safetensors"]
    checkpoint.save(written[0], weights, about, training_images=trained_on)
    try:
        renamed = to_torchvision(weights)
    except BadInput:  # a network that torchvision does not have
        return written
    written.append(folder / "backbone_torchvision.safetensors")
    notes = {name: json.dumps(getattr(about.input, name)) for name in ("mean", "std", "size")}
    with whole_file(written[1]) as file:
        file.write(checkpoint.to_bytes(renamed, notes))
    return written


def _write_pictures(config: PretrainConfig, cohort: Cohort, state: TrainState, run: RunFolder) -> Path:
    """Write ``pictures.html``; the backbone takes the weights that were kept."""
    precision = arithmetic(state.accelerator)
    assert state.best is not None
    # The method's part is of the last weights, which heads and prototypes belong to.
    part = state.method.page_part(cohort, config.input_size, seed=config.seed, precision=precision)
    backbone, best = state.method.backbone, state.best
    backbone.network.load_state_dict(best.weights)
    facts = {
        "cohort": f"{cohort.name}, {len(cohort.rows('train'))} training images",
        "method": f"{config.method}: {state.method.description()}",
        "network": f"{config.architecture}, {config.input_size} px",
        "weights kept": f"epoch {best.epoch}",
    }
    score = best.figures["probe_auroc"]
    if score is not None:
        facts["linear probe on validation images"] = f"AUROC {score:.4f}"
    path = run.path / "pictures.html"
    title = f"Pretraining: {config.run}/{config.name}"
    drawn = maps(backbone, cohort, config.input_size, seed=config.seed, precision=precision)
    write_text(path, page(title, facts, part, drawn, run.lines()))
    return path


def before(run: RunFolder) -> float | None:
    """The linear probe before the first epoch."""
    return next((line["probe_auroc"] for line in run.lines() if line["epoch"] == 0), None)
