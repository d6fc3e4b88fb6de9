"""One training in several processes: what they share, what each keeps for itself, and when all must come together."""

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


def is_main() -> bool:
    """Whether this process is the one that writes and speaks, by what its launcher told it; needs no engine."""
    return os.environ.get("RANK", "0") == "0"


def global_batch(batch_size: int, images: int, processes: int) -> int:
    """Images of a step over all processes: equal parts of at least 2, as batch statistics need.

    Args:
        batch_size: Images wanted.
        images: Images there are.
        processes: Number of processes.
    """
    return max(min(batch_size, images) // processes, 2) * processes


def share_batch_statistics(module: nn.Module, accelerator: "Accelerator") -> None:
    """Make BatchNorm see the images of all processes, where GPUs share a training; in place, names unchanged.

    Args:
        module: No BatchNorm itself.
        accelerator: The engine.
    """
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        convert_sync_batchnorm(module)  # torch's own loses the activation that timm keeps within a BatchNormAct2d


@torch.no_grad()
def average_buffers(module: nn.Module, accelerator: "Accelerator") -> None:
    """Give every process the mean of the processes' batch statistics, so that all evaluate one network."""
    if accelerator.num_processes == 1:
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.copy_(added(buffer, accelerator) / accelerator.num_processes)


def added(value: Tensor, accelerator: "Accelerator") -> Tensor:
    """The sum of a tensor over all processes."""
    result: Any = accelerator.reduce(value, "sum")
    return result


def gathered(values: Mapping[str, Tensor], accelerator: "Accelerator") -> dict[str, Tensor]:
    """What each process has of its own, by name, (P, ...) of P processes; all must come here together."""
    found: dict[str, Any] = {name: accelerator.gather(value[None]) for name, value in values.items()}
    return found


@torch.no_grad()
def give_back(values: Mapping[str, Tensor], everyones: Mapping[str, Tensor], accelerator: "Accelerator") -> None:
    """Put what `gathered` found of this process back into its tensors."""
    for name, value in values.items():
        value.copy_(everyones[name][accelerator.process_index])


def as_main_says(figures: dict[str, float | None], accelerator: "Accelerator") -> dict[str, float | None]:
    """The main process's figures in all of them: what is decided by figures is then decided alike everywhere.

    Each process computes them with kernels of its own choice, and a last digit may differ.
    """
    if accelerator.num_processes == 1:
        return figures
    from accelerate.utils import broadcast

    values = [math.nan if value is None else value for value in figures.values()]
    told: Any = broadcast(torch.tensor(values, dtype=torch.float64, device=accelerator.device))
    return {name: None if math.isnan(value) else value for name, value in zip(figures, told.tolist(), strict=True)}


def anyone(requested: bool, step: int, accelerator: "Accelerator") -> bool:
    """Whether any process was asked to stop; all must leave after the same step.

    Args:
        requested: Whether this one was.
        step: The step just done; several processes ask each other after every tenth.
        accelerator: The engine.
    """
    if accelerator.num_processes == 1:
        return requested
    if step % 10:
        return False
    return bool(added(torch.tensor(float(requested), device=accelerator.device), accelerator))
