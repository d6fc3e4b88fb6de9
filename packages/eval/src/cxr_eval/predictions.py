"""What each model answers for each image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from cxr_common.inference import outputs
from cxr_common.models.small_maps import fast_layout
from cxr_data.errors import BadInput
from cxr_data.models.decisions import decide, probabilities
from cxr_data.models.header import Header


@dataclass(frozen=True)
class Answers:
    """One model's answers, labels in the order of the comparison.

    Attributes:
        probabilities: (N, L) in [0, 1], calibrated as the model's file says.
        decisions: (N, L) bool, with the thresholds of the model's file.
        uncalibrated: (N, L) probabilities without that; None for a file that stores no calibration.
        temperature: The temperature of the model's file; None where it stores none, or a slope for each label.
    """

    probabilities: NDArray[np.float64]
    decisions: NDArray[np.bool_]
    uncalibrated: NDArray[np.float64] | None = None
    temperature: float | None = None


def predict(
    network: nn.Module,
    pixels: NDArray[np.uint8],
    size: int,
    *,
    rows: NDArray[np.int64] | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    on_batch: Callable[[int], object] | None = None,
) -> NDArray[np.float32]:
    """Logits of whole images, computed in channels-last layout with the next batch prepared meanwhile.

    Args:
        network: Takes (B, 1, size, size) uint8, gives (B, L); moved to the device, in eval mode afterwards.
        pixels: (N, P, P) uint8, usually the cohort's memory map.
        size: Edge the network takes.
        rows: (M,) rows wanted, in this order; all when None.
        batch_size: Images of a forward.
        device: Where to compute.
        precision: Arithmetic of the forward; float32 is not rounded to TF32 on a GPU either.
        on_batch: Told the number of images after each batch.

    Returns:
        (M, L) float32.
    """
    fast_layout(network).to(device).eval()
    wanted = np.arange(len(pixels)) if rows is None else rows

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        options: dict[str, Any] = {"batch_size": batch_size, "precision": precision, "on_batch": on_batch}
        return outputs(network, pixels, wanted, size, **options)


def answers(logits: NDArray[np.float32], header: Header, labels: Sequence[str], name: str) -> Answers:
    """Probabilities and decisions from logits, by the temperature and thresholds the model's file carries.

    Args:
        logits: (N, len(header.labels)).
        header: The model's header.
        labels: Labels of the comparison, all of them in ``header.labels``.
        name: Name of the model, for messages.

    Returns:
        The answers, columns in the order of ``labels``.

    Raises:
        BadInput: A logit is not a finite number.
    """
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise BadInput(
            f"finite answers of model {name}",
            f"NaN or infinity for {int(broken.sum())} of {len(logits)} images",
            do="its training diverged, or the precision is too low: try --precision fp32",
        )
    task = header.task or "multilabel"
    columns = [header.labels.index(label) for label in labels]
    p = probabilities(logits, task, header.calibration)
    decisions = decide(p, header.thresholds, task)[:, columns]
    if not header.calibration:
        return Answers(p[:, columns], decisions)
    return Answers(
        p[:, columns],
        decisions,
        probabilities(logits, task)[:, columns],
        header.calibration.get("temperature"),
    )


def table(
    rows: pl.DataFrame, labels: Sequence[str], targets: NDArray[np.float32], by_model: Mapping[str, Answers]
) -> pl.DataFrame:
    """The table of ``predictions.parquet``: one row per image.

    Columns: image; patient, numbered in order of appearance (a table of one's own may name them); split;
    ``target:LABEL`` (1, 0, or null where unknown); and for every model ``probability:MODEL:LABEL`` and
    ``decision:MODEL:LABEL``.

    Args:
        rows: The cohort's rows with image, patient and split.
        labels: Names of the L labels.
        targets: (N, L) in {0, 1, NaN}.
        by_model: Answers by model name.
    """
    patients = rows["patient"].unique(maintain_order=True)
    number = rows["patient"].replace_strict(patients, range(1, len(patients) + 1), return_dtype=pl.Int64)
    columns = [rows["image"], number.alias("patient"), rows["split"]]
    columns += [
        pl.Series(f"target:{label}", targets[:, i].astype(np.float32)).fill_nan(None) for i, label in enumerate(labels)
    ]
    for name, answer in by_model.items():
        for i, label in enumerate(labels):
            columns.append(pl.Series(f"probability:{name}:{label}", answer.probabilities[:, i].astype(np.float32)))
            columns.append(pl.Series(f"decision:{name}:{label}", answer.decisions[:, i]))
    return pl.DataFrame(columns)
