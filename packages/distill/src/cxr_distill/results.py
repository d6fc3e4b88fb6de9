"""Results of a training: the best weights with their header, and the summary of the run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_common import checkpoint
from cxr_common.models.zoo import GrayNetwork
from cxr_common.training.curves import curves, page
from cxr_common.training.options import without_conduct
from cxr_common.training.run_folder import EXTENDED, RunFolder, experiment
from cxr_common.training.state import Best
from cxr_data.cohorts.chunk_cache import shuffle_identity
from cxr_data.cohorts.cohort import Cohort
from cxr_data.files import write_text
from cxr_data.models import decisions
from cxr_data.models.header import identities, portable
from cxr_data.models.licences import trail
from cxr_distill.config import Decision, EightBitSettings, TeachingSettings, TrainConfig, TrainingSettings
from cxr_distill.data import TrainingSet, labelled_task
from cxr_distill.validation import validation_logits

if TYPE_CHECKING:
    from accelerate import Accelerator

MODEL = "model.safetensors"
"""Name of a classifier's weights file."""

BACKBONE = "backbone.safetensors"
"""Name of the weights file of a student that learnt features alone."""

FLOAT = "float"
"""Role of the float model among the parents of one in 8 bits."""

CURVES_APART = ("epoch", "loss", "val_loss", "val_auroc", "agreement", "teacher_kl", "lr", "penalty")
"""Numbers of the log that are no terms of the loss."""

LOSS_NAMES = {"loss": "training", "val_loss": "validation", "task": "labels"}
"""Name in the log -> legend."""


def beside(folder: Path, kind: str) -> Path:
    """A folder of another kind beside this one: NAME-KIND, or NAME-KIND-seed0, as evaluation and recipes look for."""
    name, seed, number = folder.name.rpartition("-seed")
    return folder.with_name(f"{name}-{kind}{seed}{number}" if name else f"{folder.name}-{kind}")


def identity(
    config: TrainConfig,
    architecture: str,
    cohort: Cohort,
    parents: tuple[dict[str, str], ...],
    *,
    epochs: int,
    guided: bool,
) -> dict[str, Any]:
    """What the result depends on; a student without teachers is the same whatever they would have been."""
    in_bits = {"bits": experiment(config, EightBitSettings)} if any(p["role"] == FLOAT for p in parents) else {}
    return in_bits | {
        "stage": "distill" if guided else "finetune",
        "architecture": architecture,
        "epochs": epochs,
        "config": experiment(config, TrainingSettings, *([TeachingSettings] if guided else [])),
        "parents": identities(parents),
        "cohort": cohort.fingerprint,
        **shuffle_identity(cohort),
    }


def conclude(
    config: TrainConfig,
    architecture: str,
    data: TrainingSet,
    accelerator: "Accelerator",
    run: RunFolder,
    parents: tuple[dict[str, str], ...],
    network: GrayNetwork,
    best: Best,
    facts: dict[str, Any],
) -> None:
    """Write model.safetensors (backbone.safetensors) and mark the run as finished; all processes call this together.

    Calibration and thresholds are fitted on validation images, on logits computed in float32 as `predict` computes
    them.
    """
    cohort = data.cohort
    logits = validation_logits(network, data, config, accelerator, torch.float32) if data.task else None
    if run.main:
        extended = {EXTENDED: list(run.extended)} if run.extended else {}
        header = checkpoint.Header(
            kind="backbone" if logits is None else "model",
            architecture=architecture,
            input=network.describe_input(config.input_size, cohort.pixel_mapping),
            **({} if logits is None else _decisions(config.decision, cohort, logits, run.path.name)),
            config=portable(without_conduct(config)),
            parents=parents,
            licence=config.licence,
            cohort=cohort.describe(),
            seed=config.seed,
            bits=getattr(network.network, "bits", None),
            metrics={"epoch": best.epoch, **best.figures, **extended},
            **checkpoint.provenance(),
        )
        file = weights_file(run.path, cohort)
        digest = checkpoint.save(file, network, header, training_images=checkpoint.trained_on(cohort, parents))
        above = checkpoint.describe(file).ancestors
        for line in trail(config.licence, above) if above else []:
            print(f"{run.path.name}: {line}", flush=True)
        write_curves(run)
        summary = {
            "sha256": digest,
            "best_epoch": best.epoch,
            **best.figures,
            "train_images": len(data.rows),
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
            **facts,
        }
        run.finish(summary, keep_state=config.keep_state)
    accelerator.wait_for_everyone()


def _decisions(wanted: Decision, cohort: Cohort, logits: NDArray[np.float32], name: str) -> dict[str, Any]:
    """Calibration and thresholds fitted on validation data, as a header has them; prints what could not be fitted."""
    rows, task, labels = cohort.rows("val"), labelled_task(cohort), cohort.labels
    targets, patients = cohort.targets[rows], cohort.groups[rows]
    for note in decisions.not_fitted(logits, targets, labels, task, wanted.calibration, patients):
        print(f"{name}: warning: {note}", flush=True)
    several = decisions.of_several_patients(targets, patients)
    calibration = decisions.fit_calibration(
        logits, targets if task == "multiclass" else several, task, wanted.calibration
    )
    fitted_on = decisions.probabilities(logits, task, calibration)
    thresholds = decisions.fit_thresholds(fitted_on, several, task, wanted.thresholds, wanted.sensitivity)
    return {"task": task, "labels": labels, "thresholds": thresholds, "calibration": calibration or None}


def weights_file(folder: Path, cohort: Cohort) -> Path:
    """The file that a training on this cohort writes."""
    return Path(folder) / (BACKBONE if cohort.task is None else MODEL)


def write_curves(run: RunFolder) -> None:
    """Write the learning curves of the run to ``curves.html``."""
    log = run.lines()
    names = dict.fromkeys(name for line in log for name in line)
    losses = [name for name in names if name not in CURVES_APART and not name.endswith("_share")]
    charts = {
        "Validation AUROC": {"val_auroc": "mean over labels"},
        "Loss": {name: LOSS_NAMES.get(name, name) for name in ("loss", "val_loss") if name in names},
        "Losses before their weights": {name: LOSS_NAMES.get(name, name) for name in losses},
        "Shares of the gradient": {name: name.removesuffix("_share") for name in names if name.endswith("_share")},
        "Beside the teacher": {"agreement": "share of equal decisions", "teacher_kl": "divergence (nats)"},
        "Learning rate": {"lr": "learning rate"},
    }
    shown = [curves(title, chart, log) for title, chart in charts.items() if set(chart) & set(names)]
    text = "<p class='quiet'>Over epochs; in mode linear over penalties. Numbers: metrics.jsonl.</p>"
    body = f"{text}<div class='row'>{''.join(shown)}</div>"
    write_text(run.path / "curves.html", page(f"Learning curves: {run.path.name}", body))
