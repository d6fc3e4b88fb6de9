"""Losses are computed in float32, whatever precision the networks run in."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(formula: Callable[P, R]) -> Callable[P, R]:
    """Run a formula with half-precision tensors widened to float32 and autocast switched off.

    bfloat16 keeps 8 bits of a number: enough for a convolution, not for the difference of two nearly equal
    log-probabilities. Float64 is left as it is, so that a formula can be checked against NumPy.

    Args:
        formula: A function of tensors, or of lists or tuples of tensors.

    Returns:
        The same function; its result is float32 (float64 where float64 was given).
    """

    @functools.wraps(formula)
    def widened(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((tensor.device.type for tensor in map(_first_tensor, args) if tensor is not None), "cpu")
        with torch.autocast(device_type=device, enabled=False):
            wide = {name: _widen(value) for name, value in kwargs.items()}
            return formula(*map(_widen, args), **wide)  # type: ignore[arg-type] - same arguments, wider

    return widened


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices in the full precision of their dtype, in the forward and in the backward pass.

    Networks may train with products rounded to TF32 (10 bits of mantissa) on NVIDIA GPUs, or to bfloat16 on CPUs;
    that setting belongs to the process and reaches every float32 product, those of a loss included.

    Args:
        a: (..., N, M).
        b: (..., M, K), of the same number of dimensions, or a matrix (M, K).

    Returns:
        a b, (..., N, K).
    """
    result: Tensor = _Product.apply(a, b)  # type: ignore[assignment] - untyped
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(a, b)
        with full_precision(), torch.autocast(a.device.type, enabled=False):
            return a @ b

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        of_a = of_b = None
        with full_precision():
            if ctx.needs_input_grad[0]:
                of_a = gradient @ b.mT
            if ctx.needs_input_grad[1]:
                of_b = a.mT @ gradient
                if of_b.ndim > b.ndim:
                    of_b = of_b.flatten(0, of_b.ndim - 3).sum(dim=0)
        return of_a, of_b


@contextmanager
def full_precision() -> Iterator[None]:
    """Within the block float32 products are not rounded to TF32 or bfloat16."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def double(x: Tensor) -> Tensor:
    """The tensor in float64, where the device has it (Apple GPUs do not)."""
    return x if x.device.type == "mps" else x.double()


def _first_tensor(value: object) -> Tensor | None:
    if isinstance(value, list | tuple):
        return next((item for item in value if isinstance(item, Tensor)), None)
    return value if isinstance(value, Tensor) else None


def _widen(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    if isinstance(value, list | tuple):
        return [_widen(item) for item in value]
    return value
