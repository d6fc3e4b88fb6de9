"""Hugging Face Accelerate, set up the same way for every command."""

import inspect
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cxr_data.errors import BadInput, require_known
from cxr_data.machine import cpu_has_bf16, peak_memory

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def start(precision: str = "auto", seed: int = 0, *, deterministic: bool = False) -> "Accelerator":
    """An accelerator on what is there: CPU, one GPU, or the processes of ``accelerate launch``.

    Args:
        precision: "fp32", "bf16", "fp16", or "auto": bf16 where the device computes in it, else fp32. On GPUs of
            NVIDIA, convolutions and products of fp32 are rounded to TF32, ten bits of mantissa.
        seed: Seeds torch in every process alike.
        deterministic: On a GPU, compute to the same bits every time, and fp32 without TF32; slower. torch warns of an
            operation that it has no such kernel for. On a CPU runs are deterministic anyway.

    Returns:
        The accelerator; wrap forwards in its ``autocast()``.

    Raises:
        BadInput: Unknown precision, one this device cannot do sensibly, or sharded weights.
    """
    from accelerate import Accelerator

    require_known("precision", precision, PRECISIONS)
    _refuse_sharding()
    cuda = uses_cuda()
    if precision == "fp16" and not cuda:
        raise BadInput(
            "a precision this device computes in",
            "fp16 on a CPU (hundreds of times slower)",
            do="--precision bf16",
        )
    if precision == "auto":
        precision = "bf16" if has_bf16(cuda) else "fp32"
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    accelerator.ddp_handler = _ddp_settings()  # type: ignore[assignment] - declared as None
    torch.manual_seed(seed)
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = not deterministic
        torch.backends.cudnn.allow_tf32 = not deterministic
        torch.backends.cudnn.benchmark = not deterministic
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
    return accelerator


def uses_cuda() -> bool:
    """Whether to compute on a GPU: there is one, and ``ACCELERATE_USE_CPU`` does not forbid it."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return torch.cuda.is_available() and not on_cpu


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor in page-locked memory where it will go to a GPU, so that copying it need not wait; else itself."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def _refuse_sharding() -> None:
    """Refuse launchers that divide the weights: every loop here reads and saves whole ones."""
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true", "yes"):
            raise BadInput(
                "the whole network in each process (accelerate launch --multi_gpu)",
                f"{name}, which divides it",
                where="accelerate's config",
                do="turn it off with `accelerate config`; --accumulate and --checkpointing of ssl-pretrain save memory",
            )


def _ddp_settings() -> "DistributedDataParallelKwargs":
    """Buffers (batch statistics) are synchronised by SyncBN or at the end, not before every forward."""
    from accelerate.utils import DistributedDataParallelKwargs
    from torch.nn.parallel import DistributedDataParallel

    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15

    class Kwargs(DistributedDataParallelKwargs):
        def to_kwargs(self) -> dict[str, Any]:  # accelerate knows the old name alone
            return {**super().to_kwargs(), name: False}

    return Kwargs(gradient_as_bucket_view=True)


def has_bf16(cuda: bool) -> bool:
    """Whether the device has bf16 arithmetic (on a CPU: AVX512-BF16 or AMX), not just emulation."""
    if cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_bf16()


def arithmetic(accelerator: "Accelerator") -> torch.dtype:
    """The dtype its ``autocast()`` computes in."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)


def peak_memories() -> dict[str, float]:
    """Largest memory of this process so far, GiB: "peak_memory_gib" and, of a GPU, "peak_gpu_memory_gib"."""
    peaks = {"peak_memory_gib": peak_memory()}
    if torch.cuda.is_available():
        peaks["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated()
    return {name: round(value / 2**30, 2) for name, value in peaks.items()}
