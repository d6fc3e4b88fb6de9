"""Training in several processes: reductions, batch statistics, and decisions that all processes take together."""

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


def share_batch_statistics(module: nn.Module, accelerator: "Accelerator") -> None:
    """Convert BatchNorm to SyncBatchNorm where several GPUs share a training; in place, names unchanged.

    Args:
        module: The network; must not be a BatchNorm itself.
        accelerator: Tells device and number of processes.
    """
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        convert_sync_batchnorm(module)  # torch's own loses the activation that timm keeps within a BatchNormAct2d


def align_gradients(module: nn.Module, accelerator: "Accelerator") -> None:
    """Have gradients come with the strides of their weights, where several processes share a training.

    DistributedDataParallel warns of a gradient whose strides are not those of its bucket, which are the weight's. Along
    a dimension of size 1 (1x1 convolutions, one input channel) strides mean nothing, and channels-last convolutions
    return now these, now others: they are rewritten, nothing is copied.

    Args:
        module: Whose trainable parameters are meant, in the memory format it is trained in.
        accelerator: Tells the number of processes; with one, nothing is done.
    """
    if accelerator.num_processes == 1:
        return
    for parameter in module.parameters():
        if parameter.requires_grad and 1 in parameter.shape:
            parameter.register_hook(functools.partial(_with_strides, parameter.stride()))


def _with_strides(strides: tuple[int, ...], gradient: Tensor) -> Tensor:
    own = gradient.stride()
    alike = all(n == 1 or a == b for n, a, b in zip(gradient.shape, own, strides, strict=True))
    return gradient.as_strided(gradient.shape, strides) if alike and own != strides else gradient


@torch.no_grad()
def average_buffers(module: nn.Module, accelerator: "Accelerator") -> None:
    """Replace batch statistics by their mean over processes, so that all processes evaluate the same network."""
    if accelerator.num_processes == 1:
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.copy_(all_reduce_sum(buffer, accelerator) / accelerator.num_processes)


def all_reduce_sum(value: Tensor, accelerator: "Accelerator") -> Tensor:
    """The sum of a tensor over all processes, which must call this together."""
    if accelerator.num_processes == 1:
        return value
    result: Any = accelerator.reduce(value.to(accelerator.device), "sum")
    return result


def gather_per_process(values: Mapping[str, Tensor], accelerator: "Accelerator") -> dict[str, Tensor]:
    """The values of every process, by name, (P, ...) of P processes, which must call this together."""
    gathered: dict[str, Any] = {
        name: accelerator.gather(value[None].to(accelerator.device)) for name, value in values.items()
    }
    return gathered


@torch.no_grad()
def restore_per_process(
    values: Mapping[str, Tensor], gathered: Mapping[str, Tensor], accelerator: "Accelerator"
) -> None:
    """Copy what `gather_per_process` returned for this process back into its tensors.

    Of another number of processes than now: what was divided over them (embeddings of a queue) is divided anew, batch
    statistics ("buffer NAME", "average NAME") are averaged, and sums are shared out equally, so that their total stays.
    """
    for name, value in values.items():
        value.copy_(_own_part(name, gathered[name], value, accelerator))


def _own_part(name: str, gathered: Tensor, own: Tensor, accelerator: "Accelerator") -> Tensor:
    before, now, rank = len(gathered), accelerator.num_processes, accelerator.process_index
    if before == now:
        return gathered[rank]
    pairs = enumerate(zip(gathered.shape[1:], own.shape, strict=True))
    if divided := [axis for axis, (old, new) in pairs if old != new]:
        return torch.cat(list(gathered), dim=divided[0]).chunk(now, dim=divided[0])[rank]
    if not own.is_floating_point():  # counts of steps, alike in all
        return gathered[0]
    return gathered.mean(0) if name.startswith(("buffer ", "average ")) else gathered.sum(0) / now


def broadcast_from_main(figures: dict[str, float | None], accelerator: "Accelerator") -> dict[str, float | None]:
    """The main process's figures in all processes, so that decisions made on them are the same everywhere.

    Kernels may differ between processes, and so may the last digit of a figure.
    """
    if accelerator.num_processes == 1:
        return figures
    from accelerate.utils import broadcast

    values = [math.nan if value is None else value for value in figures.values()]
    sent: Any = broadcast(torch.tensor(values, dtype=torch.float64, device=accelerator.device))
    return {name: None if math.isnan(value) else value for name, value in zip(figures, sent.tolist(), strict=True)}


def any_process(flag: bool, accelerator: "Accelerator") -> bool:
    """Whether the flag is set in any process; all must call this together."""
    if accelerator.num_processes == 1:
        return flag
    return bool(all_reduce_sum(torch.tensor(float(flag), device=accelerator.device), accelerator))


def highest_signal(received: int, accelerator: "Accelerator") -> int:
    """The highest number of a signal that any process received, 0 for none; all must call this together."""
    if accelerator.num_processes == 1:
        return received
    numbers: Any = accelerator.gather(torch.tensor([received], device=accelerator.device))
    return int(numbers.max())
