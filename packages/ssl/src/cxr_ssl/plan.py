"""Automatic settings that all methods share: every rule is a function of the cohort and the batch, not the machine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_common.training.schedules import warmup_cosine

if TYPE_CHECKING:
    from cxr_ssl.config import PretrainConfig


@dataclass(frozen=True)
class Plan:
    """The settings of a run once everything is decided, but for those of its method.

    Attributes:
        global_batch: Images of a step over all processes.
        steps: Steps of an epoch.
        epochs: Epochs.
        warmup_steps: First steps in which the learning rate rises.
        lr: Peak learning rate.
        weight_decay: At the first step.
        weight_decay_end: At the last.
    """

    global_batch: int
    steps: int
    epochs: int
    warmup_steps: int
    lr: float
    weight_decay: float
    weight_decay_end: float

    @property
    def all_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, from 0: linear from a twentieth of the peak, then a cosine to a thousandth."""
        return warmup_cosine(
            step,
            steps=self.all_steps,
            warmup_steps=self.warmup_steps,
            peak=self.lr,
            start=self.lr / 20,
            end=self.lr / 1000,
        )

    def weight_decay_at(self, step: int) -> float:
        """Weight decay of a step, from 0: a cosine from the first to the last."""
        return warmup_cosine(step, steps=self.all_steps, peak=self.weight_decay, end=self.weight_decay_end)


def make_plan(config: "PretrainConfig", images: int, processes: int = 1) -> Plan:
    """Decide every setting but those of the method: what is given stays, the rest follows the rules below.

    Args:
        config: What is asked for; None is automatic.
        images: Training images, at least 2; a batch of more is cut to them, and to equal shares.
        processes: Processes that share a batch.
    """
    from cxr_common.training.loader import global_batch  # imports NumPy, which --help does without

    batch = global_batch(config.batch_size, images, processes * config.accumulate)
    steps = max(images // batch, 1)
    epochs = epochs_for(steps) if config.epochs is None else config.epochs
    return Plan(
        global_batch=batch,
        steps=steps,
        epochs=epochs,
        warmup_steps=epochs * steps // 10 if config.warmup is None else round(config.warmup * steps),
        lr=lr_for(config.optimizer, batch) if config.lr is None else config.lr,
        weight_decay=config.weight_decay,
        weight_decay_end=config.weight_decay if config.weight_decay_end is None else config.weight_decay_end,
    )


def epochs_for(steps: int) -> int:
    """Epochs for epochs of ``steps`` steps: about 600 steps in all, but from 5 to 100 epochs.

    Steps, not epochs, are what small cohorts lack. On 3,650 paediatric radiographs (SwAV, ResNet-18, batch 64) the
    linear probe had clearly left random features behind after 170 steps, with the prototypes fixed for most of them,
    and had gained as much again after 690; 80 steps, the first half of them with fixed prototypes, are hardly a
    start. 800 images in batches of 32 get 24 epochs, some minutes of a laptop. On large cohorts it is images that
    count: 100,000 get 5 epochs, which already show a network four million crops. It keeps improving for hundreds of
    epochs; ``--epochs`` says how many.
    """
    return min(max(round(600 / steps), 5), 100)


def lr_for(optimizer: str, global_batch: int) -> float:
    """Peak learning rate.

    LARS, LARC and SGD: .6 for a batch of 256, in proportion (the published recipe of SwAV). AdamW: 1e-3 for a batch
    of 64, with the square root of the batch, as the noise of Adam's normalised steps asks for (Malladi et al. 2022).
    """
    if optimizer == "adamw":
        return 1e-3 * (global_batch / 64) ** 0.5
    return 0.6 * global_batch / 256
