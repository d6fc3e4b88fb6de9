"""The state of a pretraining, the network that is pretrained, and its optimiser."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import nn

from cxr_common.models.pretrained import Start, build_pretrained
from cxr_common.models.small_maps import fast_layout
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.parameters import groups
from cxr_common.training.state import TrainState as CommonState
from cxr_data.errors import BadInput
from cxr_ssl.method import Method
from cxr_ssl.plan import Plan

SMALLEST_DECAY = 1e-30
"""Weight decay of layers that lightly's LARS scales: it takes 0 to mean that a layer is not to be scaled."""


@dataclass(kw_only=True)
class TrainState(CommonState):
    """All that training changes, and the plan it follows.

    Attributes:
        method: The method at work; `network` is its module.
        plan: The plan; a recovery from collapse may change it.
        accumulate: Parts in which a step takes its batch.
        recoveries: Names of the recoveries from collapse that the run follows.
        changes: Fields of plan and settings that differ from the first ones, by recoveries or an extension.
        healthy: State at the end of the last healthy epoch; None where a collapse would stop the run.
    """

    method: Method
    plan: Plan
    accumulate: int = 1
    recoveries: list[str] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)
    healthy: dict[str, Any] | None = None

    SAVED: ClassVar[tuple[str, ...]] = (*CommonState.SAVED, "recoveries", "changes")

    def __post_init__(self) -> None:
        """The method has state of its own."""
        self.parts = {"method": self.method}

    def follow(self, changes: Mapping[str, Any]) -> None:
        """Begin an epoch with these fields of plan and settings changed."""
        self.changes = self.changes | dict(changes)
        self.plan = _changed(self.plan, changes)
        self.method.change(_changed(self.method.settings, changes))

    def snapshot(self) -> dict[str, Any]:
        """The state without the last healthy one; all processes must call this together."""
        return super().state_dict()

    def state_dict(self) -> dict[str, Any]:
        """The state with the last healthy one."""
        return {**self.snapshot(), "healthy": self.healthy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` or `snapshot` returned."""
        self.follow(state["changes"])  # the queue must have its length before it is filled
        super().load_state_dict(state)
        self.healthy = state.get("healthy", self.healthy)


def _changed(settings: Any, changes: Mapping[str, Any]) -> Any:
    known = {setting.name for setting in fields(settings)}
    return replace(settings, **{name: value for name, value in changes.items() if name in known})


def new_backbone(
    architecture: str,
    size: int,
    mean_std: tuple[float, float],
    start: Start = (),
    *,
    smallest_crop: int,
    show: bool = True,
) -> GrayNetwork:
    """Build the network that is pretrained.

    Args:
        architecture: Name in the zoo.
        size: Edge of the input.
        mean_std: Mean and standard deviation of the training pixels / 255, for weights that come with none.
        start: Files of weights to begin with, ours or foreign; none draws them from torch's generator.
        smallest_crop: Edge of the smallest crop the network will see.
        show: Whether to print what is noteworthy about the start.

    Raises:
        BadInput: Unknown architecture, weights that do not fit it, or a crop that leaves its last stage a
            single pixel.
    """
    with torch.device("meta"):  # before weights are read
        network: Any = build(architecture, 0, size=size)
    reduction = max(level["reduction"] for level in network.feature_info)
    # A kernel that strides over a single pixel learns in its middle only; and oneDNN's bf16 convolution (seen in
    # torch 2.15) leaves the gradient of its other weights unwritten: whatever lay in memory, NaN at times.
    if 2 * smallest_crop <= reduction:
        raise BadInput(
            f"crops of more than {reduction // 2} pixels for {architecture}, which shrinks them {reduction} times",
            f"crops of {smallest_crop} pixels",
            do=f"--crops.local_size {3 * reduction // 4} or more, or a larger --size",
        )
    backbone = build_pretrained(architecture, 0, size, start, *mean_std, show=show)
    return fast_layout(backbone)


def make_optimizer(name: str, module: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of a run.

    Args:
        name: "adamw"; "sgd" with momentum .9; "lars", the same with lightly's layer-wise scaling of matrices and
            kernels; or "larc", which scales and decays vectors too, as published with SwAV (trust .001).
        module: Whose trainable parameters it moves.
        lr: Learning rate.
        weight_decay: Of the groups whose entry ``decays`` is true; 0 leaves the layer-wise scaling as it is.
    """
    decayed, others = groups(module, weight_decay)
    parameters = [{**decayed, "decays": True}, {**others, "decays": False}]
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, fused=True)
    if name == "sgd":
        sgd = torch.optim.SGD(parameters, lr=lr, momentum=0.9, fused=True)
        # Fused SGD fails when a first gradient comes late, as that of frozen prototypes does: momentum 0 is the same.
        for parameter in (p for p in module.parameters() if p.requires_grad):
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    from lightly.utils.lars import LARS

    if name == "larc":
        trained = [p for p in module.parameters() if p.requires_grad]
        parameters = [{"params": trained, "weight_decay": weight_decay, "decays": True}]
    for group in parameters:
        group["smallest_decay"] = SMALLEST_DECAY if group["decays"] else 0.0
    optimizer = LARS(parameters, lr=lr, momentum=0.9)
    set_weight_decay(optimizer, weight_decay)
    return optimizer


def set_weight_decay(optimizer: Any, weight_decay: float) -> None:
    """Set the weight decay of the groups that decay."""
    for group in optimizer.param_groups:
        if group["decays"]:
            group["weight_decay"] = max(weight_decay, group.get("smallest_decay", 0.0))
