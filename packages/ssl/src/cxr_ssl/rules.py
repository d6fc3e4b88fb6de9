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
        freeze_steps: First steps in which the prototypes stay fixed.
        warmup_steps: First steps in which the learning rate rises.
        lr: Peak learning rate.
    """

    global_batch: int
    steps: int
    epochs: int
    embedding: int
    prototypes: int
    queue: int
    freeze_steps: int
    warmup_steps: int
    lr: float


def plan(
    images: int,
    *,
    batch_size: int,
    optimizer: str,
    processes: int = 1,
    epochs: int = 0,
    embedding: int = 0,
    prototypes: int = 0,
    queue: int | None = None,
    freeze: float | None = None,
    lr: float = 0.0,
) -> Plan:
    """Settle every setting: what is given stays, the rest follows the rules below.

    Args:
        images: Training images, at least 2.
        batch_size: Images of a step over all processes; cut to the number of images and to equal shares.
        optimizer: "adamw", "lars" or "sgd".
        processes: Processes that share a batch.
        epochs: Epochs, or 0.
        embedding: D, or 0.
        prototypes: K, or 0.
        queue: Length in global batches, or None.
        freeze: Epochs with fixed prototypes, or None.
        lr: Peak learning rate, or 0.

    Returns:
        The plan.
    """
    global_batch = max(min(batch_size, images) // processes, 2) * processes
    steps = max(images // global_batch, 1)
    epochs = epochs or epochs_for(steps)
    embedding = embedding or embedding_for(images)
    prototypes = prototypes or prototypes_for(images, embedding)
    total = epochs * steps
    return Plan(
        global_batch=global_batch,
        steps=steps,
        epochs=epochs,
        embedding=embedding,
        prototypes=prototypes,
        queue=queue_for(global_batch, prototypes, steps, epochs) if queue is None else queue,
        freeze_steps=freeze_steps_for(steps, epochs) if freeze is None else round(freeze * steps),
        warmup_steps=total // 10,
        lr=lr or lr_for(optimizer, global_batch),
    )


def epochs_for(steps: int) -> int:
    """Epochs for epochs of ``steps`` steps: about 80 steps in all, but from 2 to 100 epochs.

    80 steps are where the linear probe first clearly leaves random features behind: a first look that a
    laptop finishes in minutes. It keeps improving for hundreds of epochs; whoever has the machine says how
    many.
    """
    return min(max(round(80 / steps), 2), 100)


def embedding_for(images: int) -> int:
    """D: 64, and the published 128 from 50,000 images on."""
    return 64 if images < 50_000 else 128


def prototypes_for(images: int, embedding: int) -> int:
    """K: one prototype to 16 images, but at least 4.7 D and at most the published 3000.

    The lower bound keeps K far above D (300 for D = 64, 600 for D = 128); the paper found K between 3000 and
    100,000 alike on ImageNet, where 3000 means 427 images to a prototype.
    """
    least = round(4.7 * embedding, -2)
    return int(min(max(images // 16, least), 3000))


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

    LARS and SGD: .6 for a batch of 256, in proportion (the published recipe). AdamW: 1e-3 for a batch of 64,
    with the square root of the batch, as the noise of Adam's normalised steps asks for (Malladi et al. 2022).
    """
    if optimizer == "adamw":
        return 1e-3 * (global_batch / 64) ** 0.5
    return 0.6 * global_batch / 256
