"""The moving average of a network's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of parameters and floating-point buffers.

        a ← d_t a + (1 - d_t) w,   d_t = min(d, (1 + t) / (10 + t))

    The decay grows with the number t of updates, so that the random start is soon forgotten (Tarvainen & Valpola
    2017, "Mean teachers are better role models", with the ramp in use since; ``ModelEmaV3`` of timm with
    ``warmup_gamma=9`` and ``warmup_power=1`` gives the same weights, but does not save t).

    Args:
        module: Whose weights are averaged.
        decay: d in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.values = {name: tensor.detach().clone() for name, tensor in _floats(module).items()}
        self._buffers = [name for name, _ in module.named_buffers() if name in self.values]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        current = _floats(module)
        for name, value in self.values.items():
            value.lerp_(current[name], 1 - decay)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Within the block the module has the averaged weights; changes made to them there are kept in the average."""
        self._exchange(module)
        try:
            yield
        finally:
            self._exchange(module)

    @torch.no_grad()
    def _exchange(self, module: nn.Module) -> None:
        for name, tensor in _floats(module).items():
            own = tensor.detach().clone()
            tensor.copy_(self.values[name])
            self.values[name].copy_(own)

    def state_dict(self) -> dict[str, object]:
        """Averages and number of updates."""
        return {"values": self.values, "updates": self.updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over what `state_dict` returned."""
        values, updates = state["values"], state["updates"]
        assert isinstance(values, dict)
        assert isinstance(updates, int)
        for name, tensor in self.values.items():
            tensor.copy_(values[name])
        self.updates = updates

    def per_process(self) -> dict[str, Tensor]:
        """Averages of batch statistics, of which every process has its own."""
        return {name: self.values[name] for name in self._buffers}


def _floats(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
