"""What a network answers on validation images, and how near a student without labels comes to its encoders there."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_common import inference
from cxr_common.models.features import feature_shapes
from cxr_common.models.zoo import GrayNetwork
from cxr_common.training.accelerator import arithmetic
from cxr_distill.cached_outputs import FlatFeatures, split_features
from cxr_distill.config import TrainConfig
from cxr_distill.data import TrainingSet
from cxr_distill.losses import Outputs
from cxr_distill.student import Student
from cxr_distill.teachers import Seen, Teachers

if TYPE_CHECKING:
    from accelerate import Accelerator


def validation_logits(
    network: GrayNetwork,
    data: TrainingSet,
    config: TrainConfig,
    accelerator: "Accelerator",
    precision: torch.dtype | None = None,
) -> NDArray[np.float32]:
    """Logits of the validation images.

    Args:
        network: The same in all processes, on the device.
        data: The training set.
        config: Tells size and workers.
        accelerator: All processes must call this together; the images are divided over them.
        precision: Arithmetic of the forwards; None is that of training.

    Returns:
        (N_val, L) float32.
    """
    return inference.distributed_outputs(
        network,
        data.cohort.pixels,
        data.val_rows,
        config.input_size,
        accelerator,
        precision=precision or arithmetic(accelerator),
        workers=config.workers,
    )


@torch.no_grad()
def feature_losses(
    student: Student, teachers: Teachers, data: TrainingSet, config: TrainConfig, accelerator: "Accelerator"
) -> dict[str, float | None]:
    """Weighted losses on the encoders' features of all validation images, mean over batches, over all processes.

    Returns:
        "val_loss", and "val_auroc", which is None.
    """
    with_batch = feature_shapes(student.network, student.feature_names, config.input_size)
    shapes = {name: shape[1:] for name, shape in with_batch.items()}
    pixels, rows = data.cohort.pixels, data.val_rows
    options: dict[str, Any] = {"precision": arithmetic(accelerator), "workers": config.workers}
    flat = inference.distributed_outputs(FlatFeatures(student), pixels, rows, config.input_size, accelerator, **options)
    own, losses = split_features(flat, shapes), teachers.distillation.losses
    total = 0.0
    for start in range(0, len(rows), config.batch_size):
        part = slice(start, start + config.batch_size)
        parts = [_part(values, part, accelerator) for values in teachers.features]
        seen = [teachers.standardised(number, values) for number, values in enumerate(parts)]
        nothing = seen[0].logits
        mine = Outputs(nothing, _part(own, part, accelerator))
        terms = teachers.terms(mine, Seen(None, tuple(seen)), nothing, student.adapters)
        total += len(nothing) / len(rows) * sum(weight * float(terms[loss.name]) for loss, weight in losses.items())
    return {"val_loss": total, "val_auroc": None}


def _part(values: Mapping[str, NDArray[np.float32]], part: slice, accelerator: "Accelerator") -> dict[str, Tensor]:
    return {name: torch.from_numpy(x[part]).to(accelerator.device) for name, x in values.items()}
