"""What is chosen automatically, and why.

Every rule is a function of the cohort and the batch, none of the machine. The reasons come from the SwAV
paper and from runs on paediatric radiographs (ResNet-18, 64/32 and 96/48 px). Radiographs look alike, and
small settings collapse to uniform codes within an epoch, for two reasons that the rules rule out:

- K not far above D: the embedding moves into the directions that the prototypes do not span, where every
  score is 0. Freezing the prototypes does not help. K = 100 with D = 128 collapsed, K = 300 with D = 64
  learned at once.
- Prototypes that move too early fall together, embeddings and prototypes chasing one another. With the
  prototypes frozen for some epochs the embedding spreads over them first.
"""

from dataclasses import dataclass

from cxr_common.training.processes import global_batch
from cxr_common.training.schedules import warmup_cosine
from cxr_data.errors import BadInput

FREEZE_ENOUGH = 100
"""Steps with fixed prototypes that have been enough for ResNets on small cohorts."""


@dataclass(frozen=True)
class Plan:
    """The settings of a run once everything is decided.

    Attributes:
        global_batch: Images of a step over all processes.
        steps: Steps of an epoch.
        epochs: Epochs.
        embedding: D, width of the embedding.
        prototypes: K, number of prototypes.
        queue: Length of the queue in global batches.
        queue_from: Step from which the queue is filled.
        epsilon: Smoothness of the codes.
        freeze_steps: First steps in which the prototypes stay fixed.
        warmup_steps: First steps in which the learning rate rises.
        lr: Peak learning rate.
        weight_decay: At the first step.
        weight_decay_end: At the last.
    """

    global_batch: int
    steps: int
    epochs: int
    embedding: int
    prototypes: int
    queue: int
    queue_from: int
    epsilon: float
    freeze_steps: int
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


def plan(
    images: int,
    *,
    batch_size: int,
    optimizer: str,
    processes: int = 1,
    accumulate: int = 1,
    epochs: int = 0,
    embedding: int = 0,
    prototypes: int = 0,
    queue: int | None = None,
    queue_start: float | None = None,
    epsilon: float = 0.05,
    freeze: int | None = None,
    warmup: float | None = None,
    lr: float = 0.0,
    weight_decay: float = 0.0,
    weight_decay_end: float | None = None,
) -> Plan:
    """Settle every setting: what is given stays, the rest follows the rules below.

    Args:
        images: Training images, at least 2.
        batch_size: Images of a step over all processes; cut to the number of images and to equal shares.
        optimizer: "adamw", "larc", "lars" or "sgd".
        processes: Processes that share a batch.
        accumulate: Parts in which each process takes its share.
        epochs: Epochs, or 0.
        embedding: D, or 0.
        prototypes: K, or 0.
        queue: Length in global batches, or None.
        queue_start: Epochs after which the queue is filled, or None.
        epsilon: Smoothness of the codes.
        freeze: Steps with fixed prototypes, or None.
        warmup: Epochs of rising learning rate, or None.
        lr: Peak learning rate, or 0.
        weight_decay: At the first step.
        weight_decay_end: At the last, or None.

    Returns:
        The plan.
    """
    shares = processes * accumulate
    batch = global_batch(batch_size, images, shares)
    steps = max(images // batch, 1)
    epochs = epochs or epochs_for(steps)
    embedding = embedding or embedding_for(images)
    prototypes = prototypes or prototypes_for(images, embedding)
    return Plan(
        global_batch=batch,
        steps=steps,
        epochs=epochs,
        embedding=embedding,
        prototypes=prototypes,
        queue=queue_for(batch, prototypes, steps, epochs) if queue is None else queue,
        queue_from=min(15 * steps, epochs * steps // 2) if queue_start is None else round(queue_start * steps),
        epsilon=epsilon,
        freeze_steps=freeze_steps_for(steps, epochs) if freeze is None else freeze,
        warmup_steps=epochs * steps // 10 if warmup is None else round(warmup * steps),
        lr=lr or lr_for(optimizer, batch),
        weight_decay=weight_decay,
        weight_decay_end=weight_decay if weight_decay_end is None else weight_decay_end,
    )


def epochs_for(steps: int) -> int:
    """Epochs for epochs of ``steps`` steps: about 600 steps in all, but from 5 to 100 epochs.

    Steps, not epochs, are what small cohorts lack. On 3,650 paediatric radiographs (ResNet-18, batch 64) the linear
    probe had clearly left random features behind after 170 steps, with the prototypes fixed for most of them, and
    had gained as much again after 690; 80 steps, the first half of them with fixed prototypes, are hardly a start.
    800 images in batches of 32 get 24 epochs, some minutes of a laptop. On large cohorts it is images that count:
    100,000 get 5 epochs, which already show a network four million views. It keeps improving for hundreds of epochs;
    whoever has the machine says how many.
    """
    return min(max(round(600 / steps), 5), 100)


def embedding_for(images: int) -> int:
    """D: 64, and the published 128 from 50,000 images on."""
    return 64 if images < 50_000 else 128


def prototypes_for(images: int, embedding: int) -> int:
    """K: one prototype to 16 images, but at least 4.7 D and at most the published 3000.

    The lower bound keeps K far above D (300 for D = 64, 600 for D = 128); the paper found K between 3000 and
    100,000 alike on ImageNet, where 3000 means 427 images to a prototype.
    """
    least = max(round(4.7 * embedding, -2), fewest_prototypes(embedding))
    return int(min(max(images // 16, least), 3000))


def fewest_prototypes(embedding: int) -> int:
    """K from which on no embedding of D dimensions was seen to hide between the prototypes: 4 D."""
    return 4 * embedding


def queue_for(global_batch: int, prototypes: int, steps: int, epochs: int) -> int:
    """Length of the queue in global batches.

    Without one, Sinkhorn can only balance the batch. The paper adds a queue of 3840 to its batch of 256 for
    3000 prototypes, from epoch 15 of 400 on: batch and queue together are 1.4 K. Old embeddings only agree
    with new ones when the network changes slowly, so runs of few epochs go without.
    """
    if epochs < 15 or global_batch >= prototypes:
        return 0
    return min(-(-prototypes * 14 // (10 * global_batch)) - 1, steps // 2)


def freeze_steps_for(steps: int, epochs: int) -> int:
    """Steps with fixed prototypes: half of a short run, at most 1000 steps.

    The paper: 313 steps with a batch of 4096, 5005 (one epoch) with 256.
    """
    return min(steps * epochs // 2, max(1000, steps))


def lr_for(optimizer: str, global_batch: int) -> float:
    """Peak learning rate.

    LARS, LARC and SGD: .6 for a batch of 256, in proportion (the published recipe). AdamW: 1e-3 for a batch of 64,
    with the square root of the batch, as the noise of Adam's normalised steps asks for (Malladi et al. 2022).
    """
    if optimizer == "adamw":
        return 1e-3 * (global_batch / 64) ** 0.5
    return 0.6 * global_batch / 256


def misgivings(plan: Plan) -> list[str]:
    """What in a plan has been seen to collapse on radiographs, each with what to do; the surest first."""
    found = []
    if plan.prototypes < fewest_prototypes(plan.embedding):
        found.append(
            f"{plan.prototypes} prototypes for an embedding of {plan.embedding} dimensions: it may hide where no "
            f"prototype points; --prototypes {fewest_prototypes(plan.embedding)} or more"
        )
    # Half an epoch of some fifty steps was too short, three epochs of fifty were enough.
    enough = min(FREEZE_ENOUGH, plan.all_steps // 3)
    if plan.freeze_steps < enough:
        found.append(
            f"prototypes fixed for only {plan.freeze_steps} steps: they may fall together before the embedding has "
            f"spread over them; --freeze {enough} or more"
        )
    if plan.queue and plan.queue_from + plan.queue > plan.all_steps:
        found.append(
            f"a queue that is full after {plan.queue_from + plan.queue} of {plan.all_steps} steps and so is never "
            "used; a shorter --queue, an earlier --schedule.queue_start or more --epochs"
        )
    return found


def refuse_hopeless(plan: Plan) -> None:
    """Refuse what must collapse: no more prototypes than the embedding has dimensions.

    Every direction off the prototypes' span then scores 0 with all of them, and the embedding moves there; freezing
    does not help.

    Raises:
        BadInput: It is so.
    """
    if plan.prototypes <= plan.embedding:
        raise BadInput(
            "more prototypes than the embedding has dimensions",
            f"{plan.prototypes} prototypes and {plan.embedding} dimensions, which collapses to uniform codes",
            where="--prototypes",
            do=f"--prototypes {fewest_prototypes(plan.embedding)} or more, or a smaller --embedding",
        )
