"""The last epochs in 8 bits: a finished network, its batch normalisation folded, trained on the grid it will run on."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_common import checkpoint, inference
from cxr_common.models.eight_bits import in_eight_bits, observing
from cxr_common.models.zoo import GrayNetwork
from cxr_data.cohorts.cohort import Cohort
from cxr_distill.cached_outputs import evenly_spread
from cxr_distill.config import TrainConfig
from cxr_distill.plan import Plan
from cxr_distill.results import beside

SEEN = 256
"""Training images that show the first ranges."""
SHARE_OF_LR = 0.1
"""Peak learning rate, as a share of the float training's."""


def stage_folder(float_model: Path, config: TrainConfig) -> Path:
    """Folder of the 8-bit network made from a model: NAME-8bit, or NAME-ptq where only ranges are taken."""
    return beside(float_model.parent, "ptq" if config.bits_epochs == 0 else "8bit")


def started(float_model: Path, config: TrainConfig, cohort: Cohort, rows: NDArray[np.int64]) -> GrayNetwork:
    """The finished network in 8 bits, its ranges those of training images as they are stored."""
    network = in_eight_bits(checkpoint.load(float_model, kind="model")[0], config.input_size, config.weight_bits)
    network = network.to(memory_format=torch.channels_last)
    shown = rows[evenly_spread(len(rows), SEEN)]
    with observing(network):
        inference.outputs(network, cohort.pixels, shown, config.input_size, workers=config.workers)
    return network


def planned(config: TrainConfig, plan: Plan) -> Plan:
    """Epochs and learning rate in 8 bits, from those of the float training."""
    automatic = max(1, round(plan.epochs / 4))
    epochs = automatic if config.bits_epochs is None else config.bits_epochs
    return dataclasses.replace(plan, epochs=epochs, peak_lr=plan.peak_lr * SHARE_OF_LR)
