"""Which parameters an optimiser treats how."""

from typing import Any

from torch import nn


def groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: weight decay for matrices and kernels, none for norms, biases and other vectors.

    Args:
        module: Whose trainable parameters are meant.
        weight_decay: Decay of the first group.

    Returns:
        Two groups (an empty one is left out) for any torch optimiser.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.ndim > 1]
    others = [p for p in trainable if p.ndim <= 1]
    wanted = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in wanted if group["params"]]


def set_lr(optimizer: Any, lr: float) -> None:
    """Set the learning rate of every group, times the group's own ``lr_scale`` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
