"""What a training leaves behind: the best weights with their header, and the summary of the run."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_common import checkpoint
from cxr_common.models.zoo import GrayNetwork
from cxr_common.training.run_folder import RunFolder
from cxr_data import decisions
from cxr_data.cohort import Cohort
from cxr_data.command import config_dict
from cxr_distill.config import DistillConfig, TrainConfig
from cxr_distill.data import labelled_task

MODEL = "model.safetensors"
"""Name of a stage's weights file."""

# What a result does not depend on: names, places (hashes of what lies there do count) and conveniences.
INCIDENTAL = {"run", "runs_dir", "name", "workers", "restart", "control", "data", "teacher", "start", "seeds"}
# What a run without a teacher does not depend on either.
GUIDING = {"loss", "task_weight", "temperature", "stage", "student", "teachers", "teacher_views"}

# Options that records of older run folders lack, and what these runs did.
LATER: dict[str, Any] = {
    name: config_dict(DistillConfig())[name] for name in ("mode", "imbalance", "optim", "decision")
}
LATER |= {"teachers": "mean", "teacher_views": 0}


def identity(
    config: TrainConfig, architecture: str, cohort: Cohort, parents: tuple[dict[str, str], ...], guided: bool
) -> dict[str, Any]:
    """What the result depends on; a control is the same whatever its teacher would have been told."""
    skipped = INCIDENTAL if guided else INCIDENTAL | GUIDING
    return {
        "stage": "distill" if guided else "finetune",
        "architecture": architecture,
        "config": {k: v for k, v in config_dict(config).items() if k not in skipped},
        "parents": {p["role"]: p["sha256"] for p in parents},
        "cohort": cohort.fingerprint,
    }


def conclude(
    config: TrainConfig,
    architecture: str,
    cohort: Cohort,
    network: GrayNetwork,
    logits: NDArray[np.float32],
    best: dict[str, Any],
    parents: tuple[dict[str, str], ...],
    run: RunFolder,
    summary: dict[str, Any],
) -> None:
    """Write model.safetensors and mark the run as finished (in the main process).

    Args:
        config: The command's config.
        architecture: Name in the zoo.
        cohort: Labelled cohort.
        network: With the best weights.
        logits: (N_val, L) of the network on the validation images: calibration and thresholds are fitted on them.
        best: "epoch" of the best weights and their validation figures "val".
        parents: Provenance of the files this run is made from.
        run: The run folder.
        summary: More figures for done.json.
    """
    if not run.main:
        return
    header = _header(config, architecture, cohort, network, logits, best, parents)
    digest = checkpoint.save(Path(run.path) / MODEL, network, header)
    run.finish({"sha256": digest, "best_epoch": best["epoch"], **best["val"], **summary})


def _header(
    config: TrainConfig,
    architecture: str,
    cohort: Cohort,
    network: GrayNetwork,
    logits: NDArray[np.float32],
    best: dict[str, Any],
    parents: tuple[dict[str, str], ...],
) -> checkpoint.Header:
    """Header of the best weights, with calibration and thresholds fitted on validation data."""
    task, wanted = labelled_task(cohort), config.decision
    targets = cohort.targets[cohort.rows("val")]
    calibration = decisions.fit_calibration(logits, targets, task, wanted.calibration)
    probabilities = decisions.probabilities(logits, task, calibration)
    return checkpoint.Header(
        kind="model",
        architecture=architecture,
        input=network.describe_input(config.size, cohort.pixel_mapping),
        task=task,
        labels=cohort.labels,
        thresholds=decisions.fit_thresholds(probabilities, targets, task, wanted.thresholds, wanted.sensitivity),
        calibration=calibration or None,
        config=config_dict(config),
        parents=parents,
        cohort=cohort.describe(),
        seed=config.seed,
        metrics={"epoch": best["epoch"], **best["val"]},
        **checkpoint.provenance(),
    )
