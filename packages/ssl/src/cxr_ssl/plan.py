"""Automatic settings that all methods share: every rule is a function of the cohort and the batch, not the machine."""

from dataclasses import dataclass

from cxr_common.training.schedules import warmup_cosine


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


def make_plan(
    images: int,
    *,
    batch_size: int,
    optimizer: str,
    processes: int = 1,
    accumulate: int = 1,
    epochs: int | None = None,
    warmup: float | None = None,
    lr: float | None = None,
    weight_decay: float = 0.0,
    weight_decay_end: float | None = None,
) -> Plan:
    """Decide every setting: what is given stays, the rest follows the rules below.

    Args:
        images: Training images, at least 2.
        batch_size: Images of a step over all processes; cut to the number of images and to equal shares.
        optimizer: "adamw", "larc", "lars" or "sgd".
        processes: Processes that share a batch.
        accumulate: Parts in which each process takes its share.
        epochs: Epochs; None chooses.
        warmup: Epochs of rising learning rate; None is a tenth of the run.
        lr: Peak learning rate; None chooses.
        weight_decay: At the first step.
        weight_decay_end: At the last; None keeps it.
    """
    from cxr_common.training.loader import global_batch  # imports NumPy, which --help does without

    batch = global_batch(batch_size, images, processes * accumulate)
    steps = max(images // batch, 1)
    epochs = epochs_for(steps) if epochs is None else epochs
    return Plan(
        global_batch=batch,
        steps=steps,
        epochs=epochs,
        warmup_steps=epochs * steps // 10 if warmup is None else round(warmup * steps),
        lr=lr_for(optimizer, batch) if lr is None else lr,
        weight_decay=weight_decay,
        weight_decay_end=weight_decay if weight_decay_end is None else weight_decay_end,
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
