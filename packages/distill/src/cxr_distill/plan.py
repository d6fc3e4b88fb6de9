"""What is chosen automatically: batch, epochs and learning rate."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

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


def planned(config: TrainConfig, images: int, start: Start, processes: int = 1) -> Plan:
    """What is chosen automatically, for a number of training images.

    Args:
        config: The command's config.
        images: Training images.
        start: Files of starting weights.
        processes: Number of processes.
    """
    batch_size = global_batch(config.batch_size, images, processes)
    steps = len(epoch_order(images, config.seed, 0, batch_size))
    peak = config.lr or automatic_lr(start) * (batch_size / 64) ** 0.5
    return Plan(batch_size, steps, config.epochs or automatic_epochs(steps), peak)


def automatic_lr(start: Start) -> float:
    """Peak learning rate for 64 images a step.

    Args:
        start: Files of starting weights.

    Returns:
        1e-3 from random weights and from our backbones, 3e-4 from a classifier or foreign weights. A backbone
        pretrained without labels has yet to learn what they are: at 3e-4 it ended lower on the phantom's validation
        images.
    """

    def pretrained_here(path: Path) -> bool:
        return checkpoint.is_ours(path) and checkpoint.describe(path).kind == "backbone"

    return 1e-3 if all(source is None or pretrained_here(source.path) for source in start) else 3e-4


def automatic_epochs(steps: int) -> int:
    """Epochs for a cohort of ``steps`` steps: about 600 steps in all, but from 8 to 30 epochs."""
    return int(np.clip(round(600 / steps), 8, 30))
