"""The state of a training: everything a resumed run needs to continue to the same bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from cxr_common.training.processes import all_reduce_sum, gather_per_process, restore_per_process
from cxr_common.training.resume import rng_state, set_rng_state

if TYPE_CHECKING:
    from accelerate import Accelerator

Network = TypeVar("Network", bound=nn.Module)


class Stateful(Protocol):
    """A part of a training that has state of its own, beside network and optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take over what `state_dict` returned."""
        ...


@dataclass(frozen=True)
class Best:
    """The best epoch so far.

    Attributes:
        epoch: Counted from 1.
        score: What epochs are compared by, higher is better; None where nothing can be compared.
        figures: Metrics of that epoch.
        weights: State dict of the network after that epoch, on the CPU.
    """

    epoch: int
    score: tuple[float, ...] | None
    figures: dict[str, Any]
    weights: dict[str, Tensor]


@dataclass
class TrainState(Generic[Network]):
    """All that training changes.

    Attributes:
        network: The module that is trained, whole.
        model: The same, wrapped where several processes share the training.
        optimizer: Its optimiser.
        accelerator: Device, precision and processes.
        parts: Further parts with state of their own, by name.
        epoch: Finished epochs.
        step: Finished steps of the current epoch.
        images: Images trained on, over all processes.
        seconds: Time spent, over all starts of the run.
        best: The best epoch so far.
    """

    network: Network
    model: nn.Module
    optimizer: Any
    accelerator: "Accelerator"
    parts: dict[str, Stateful] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    best: Best | None = None

    SAVED: ClassVar[tuple[str, ...]] = ("epoch", "step", "images", "seconds")
    """Fields with plain values that are saved as they are; a subclass adds its own."""

    def end_epoch(self) -> None:
        """Move on to the first step of the next epoch."""
        self.epoch += 1
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything that a resumed run needs; all processes must call this together."""
        scaler = self.accelerator.scaler
        return _copied(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else {},  # fp16
                "rng": rng_state(),
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "per_process": gather_per_process(self._per_process(), self.accelerator),
                "best": None if self.best is None else dict(vars(self.best)),
                **{name: getattr(self, name) for name in self.SAVED},
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        state = _copied(state)  # the optimiser would keep working in the given tensors
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        restore_per_process(self._per_process(), state["per_process"], self.accelerator)
        set_rng_state(state["rng"])
        self.best = None if state["best"] is None else Best(**state["best"])
        for name in self.SAVED:
            setattr(self, name, state[name])

    def _per_process(self) -> dict[str, Tensor]:
        """Tensors that differ between processes: batch statistics, and what the parts say."""
        tensors = {f"buffer {name}": buffer for name, buffer in self.network.named_buffers()}
        for name, part in self.parts.items():
            own = getattr(part, "per_process", None)
            tensors |= {f"{name} {key}": tensor for key, tensor in (own() if own else {}).items()}
        return tensors


def keep_if_best(
    best: Best | None,
    network: nn.Module,
    *,
    epoch: int,
    score: Sequence[float] | None,
    figures: dict[str, Any],
) -> Best:
    """The better of the best epoch so far and this one; without scores the later one.

    Args:
        best: The best epoch so far.
        network: The network as it is after this epoch.
        epoch: This epoch, counted from 1.
        score: Compared entry by entry; on equal scores the earlier epoch stays.
        figures: Metrics of this epoch.
    """
    if best is not None and best.score is not None and score is not None and tuple(score) <= best.score:
        return best
    weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    return Best(epoch, None if score is None else tuple(score), figures, weights)


class MetricMeans:
    """Means of what the steps of an epoch return, over steps and processes.

    Sums stay on the device until the epoch ends. They are float32, each process has its own, and they are part of
    the resume state.
    """

    def __init__(self) -> None:
        """Start without any metric."""
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, metrics: Mapping[str, Tensor], *, optional: Sequence[str] = ()) -> None:
        """Take in one step.

        Args:
            metrics: Name -> scalar; every process must add the same names in the same step.
            optional: Names whose NaN values are left out; any other NaN makes the mean NaN.
        """
        for name, value in metrics.items():
            value = value.detach().float()
            counted = torch.ones_like(value)
            if name in optional:
                counted = value.isfinite().float()
                value = torch.where(value.isfinite(), value, 0)
            both = torch.stack([value, counted])
            self.sums[name] = self.sums[name].to(both.device) + both if name in self.sums else both

    def means(self, accelerator: "Accelerator") -> dict[str, float]:
        """The means so far, the same in all processes, which must call this together; NaN where nothing counted."""
        means = {}
        for name, both in self.sums.items():
            total, count = all_reduce_sum(both, accelerator).tolist()
            means[name] = total / count if count else float("nan")
        return means

    def reset(self) -> None:
        """Begin an epoch."""
        self.sums = {}

    def state_dict(self) -> dict[str, Any]:
        """The sums of this process."""
        return {"sums": dict(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.sums = dict(state["sums"])

    def per_process(self) -> dict[str, Tensor]:
        """Every process has its own sums."""
        return self.sums


def _copied(tree: Any) -> Any:
    """The same dicts and lists with copies of their tensors."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return type(tree)((key, _copied(value)) for key, value in tree.items())
    if isinstance(tree, list | tuple):
        return type(tree)(_copied(value) for value in tree)
    return tree
