"""Losses are computed in float32, whatever precision the networks run in."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

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
        device = next((found.device.type for found in map(_first_tensor, args) if found is not None), "cpu")
        with torch.autocast(device_type=device, enabled=False):
            wide = {name: _widen(value) for name, value in kwargs.items()}
            return formula(*map(_widen, args), **wide)  # type: ignore[arg-type] - same arguments, wider

    return widened


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
