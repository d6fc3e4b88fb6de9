"""What is chosen automatically: batch, epochs and learning rate."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from cxr_common import checkpoint
from cxr_common.models.pretrained import Start
from cxr_common.training.loader import epoch_order, global_batch
from cxr_common.training.schedules import warmup_cosine
from cxr_distill.config import TrainConfig


@dataclass(frozen=True)
class Plan:
    """Settings of a training that follow from config and cohort.

    Attributes:
        batch_size: Images of a step over all processes.
        steps: Steps of an epoch.
        epochs: Epochs.
        peak_lr: Peak learning rate.
    """

    batch_size: int
    steps: int
    epochs: int
    peak_lr: float

    def lr_at(self, step: int) -> float:
        """Learning rate of a step of the run, from 0: half an epoch of warm-up, then a cosine to 0."""
        warmup = max(self.steps // 2, 1)
        return warmup_cosine(
            step, steps=self.epochs * self.steps, warmup_steps=warmup, peak=self.peak_lr, start=self.peak_lr / 20
        )


def planned(config: TrainConfig, images: int, start: Start, network: nn.Module | None, processes: int = 1) -> Plan:
    """What is chosen automatically, for a number of training images.

    Args:
        config: The command's config.
        images: Training images.
        start: Files of starting weights.
        network: What is trained, with fresh weights; None for one that is trained on.
        processes: Number of processes.
    """
    batch_size = global_batch(config.batch_size, images, processes)
    steps = len(epoch_order(images, config.seed, 0, batch_size))
    peak = config.lr or automatic_lr(start, network) * (batch_size / 64) ** 0.5
    return Plan(batch_size, steps, config.epochs or automatic_epochs(steps), peak)


def automatic_lr(start: Start, network: nn.Module | None = None) -> float:
    """Peak learning rate for 64 images a step.

    Returns:
        1e-3 from random weights and from our backbones, 3e-4 from a classifier or foreign weights. A backbone
        pretrained without labels has yet to learn what they are: at 3e-4 it ended lower on the phantom's validation
        images. From random weights more where a network's weights begin larger than a ResNet-18's
        (:func:`step_for_weights`).
    """

    def pretrained_here(path: Path) -> bool:
        return checkpoint.is_ours(path) and checkpoint.describe(path).kind == "backbone"

    if network is not None and not any(start):
        return step_for_weights(network)
    return 1e-3 if all(source is None or pretrained_here(source.path) for source in start) else 3e-4


def step_for_weights(network: nn.Module) -> float:
    """Peak learning rate in proportion to the weights that a network begins with, from 1e-3 for a ResNet-18 up.

    AdamW moves every weight by about the learning rate, and where BatchNorm follows a convolution only the step
    relative to its weights counts (van Laarhoven 2017, arXiv 1706.05350). MobileNets and EfficientNets begin with
    weights four times as large as a ResNet-18's: on radiographs of three classes, 64 px, a MobileNetV2 reached a
    validation AUROC of .760 in four epochs at 1e-3, .818 in three at 4e-3, and an EEEA-Net-C2 .807 in two epochs at
    1e-3, .814 at 4e-3, .741 at 1e-2.

    Returns:
        .025 times the geometric mean of the root mean squares of its convolutions' weights, at least 1e-3; 1e-3 for a
        network without BatchNorm.
    """
    layers = list(network.modules())
    sizes = [float(layer.weight.detach().square().mean()) for layer in layers if isinstance(layer, nn.Conv2d)]
    if not sizes or not min(sizes) or not any(isinstance(layer, nn.BatchNorm2d) for layer in layers):
        return 1e-3
    return max(1e-3, round(0.025 * math.exp(0.5 * float(np.log(sizes).mean())), 5))


def automatic_epochs(steps: int) -> int:
    """Epochs for a cohort of ``steps`` steps: about 600 steps in all, but from 8 to 30 epochs."""
    return int(np.clip(round(600 / steps), 8, 30))
