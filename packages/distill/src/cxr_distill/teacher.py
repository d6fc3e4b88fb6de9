"""The teacher: loaded first, frozen, never stored with the student."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cxr_common import checkpoint
from cxr_common.errors import BadInput
from cxr_common.models.taps import features
from cxr_common.models.zoo import GrayNetwork
from cxr_distill.losses import Outputs


@dataclass(frozen=True)
class Teacher:
    """A frozen classifier whose answers are in the cohort's label order.

    Attributes:
        network: In eval mode, without gradients.
        header: What its file says of it; ``header.input.size`` is the size it sees images at.
        order: Position of each of the cohort's labels among the teacher's logits.
        stages: Feature maps it is asked for.
    """

    network: GrayNetwork
    header: checkpoint.Header
    order: Tensor
    stages: tuple[str, ...] = ()

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Outputs:
        """Answer for a batch.

        Args:
            pixels: (B, 1, S, S) uint8 at the teacher's own size.

        Returns:
            Logits (B, L) in the cohort's order, the features asked for, and the classifier's weight.
        """
        logits, maps = features(self.network, pixels, self.stages)
        return Outputs(logits[:, self.order], maps, classifier_weight(self.network, self.order))


def load_teacher(path: str | Path, labels: Sequence[str], task: str, stages: Sequence[str] = ()) -> Teacher:
    """Load and freeze a teacher for a cohort.

    Args:
        path: A model file.
        labels: The cohort's labels; the teacher must know them all (order and extra ones do not matter
            in a multi-label task; classes must be the same set).
        task: The cohort's task.
        stages: Feature maps wanted.

    Raises:
        BadInput: Not a classifier, or one of other labels or another task.
    """
    network, header = checkpoint.load(path, kind="model")
    check_labels(header, labels, task, path)
    network.requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    order = torch.tensor([header.labels.index(label) for label in labels])
    return Teacher(network, header, order, tuple(stages))


def check_labels(header: checkpoint.Header, labels: Sequence[str], task: str, path: str | Path) -> None:
    """Refuse a model that cannot answer for these labels."""
    if header.task != task:
        raise BadInput(f"a {task} model", f"a {header.task} one", where=path, do="use a cohort of the same task")
    missing = [label for label in labels if label not in header.labels]
    extra = [label for label in header.labels if label not in labels] if task == "multiclass" else []
    if missing or extra:
        raise BadInput(
            f"a model of the cohort's labels {', '.join(labels)}",
            f"one of {', '.join(header.labels)}",
            where=path,
            do="use the cohort it was trained on, or train one on this cohort: finetune --data ...",
        )


def classifier_weight(network: GrayNetwork, order: Tensor | None = None) -> Tensor | None:
    """Weight (L, C) of the last linear layer, where the network ends in one."""
    get_classifier = getattr(network.network, "get_classifier", None)
    weight = getattr(get_classifier(), "weight", None) if callable(get_classifier) else None
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    return weight if order is None else weight[order]
