"""Who learns: network, prototypes, optimiser and queue, and all of it as a state to go on from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cxr_common.models.one_pixel import shorten
from cxr_common.models.pretrained import Start, build_pretrained
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.parameters import groups
from cxr_common.training.processes import gather_per_process, restore_per_process
from cxr_common.training.resume import rng_state, set_rng_state
from cxr_data.errors import BadInput
from cxr_ssl.diagnostics import Monitor
from cxr_ssl.feature_queue import FeatureQueue
from cxr_ssl.plan import Plan
from cxr_ssl.swav import SwAV

if TYPE_CHECKING:
    from accelerate import Accelerator

SMALLEST_DECAY = 1e-30
"""Weight decay of layers that lightly's LARS scales: it takes 0 to mean that a layer is not to be scaled."""


@dataclass
class Learner:
    """All that training changes.

    Attributes:
        swav: Backbone, head and prototypes.
        model: The same, perhaps wrapped for several processes.
        optimizer: Its optimiser.
        accelerator: The engine.
        queue: Earlier embeddings.
        monitor: Health of the epoch so far.
    """

    swav: SwAV
    model: nn.Module
    optimizer: Any
    accelerator: "Accelerator"
    queue: FeatureQueue
    monitor: Monitor

    def follow(self, plan: Plan) -> None:
        """Begin an epoch by a plan that may have fewer prototypes, or a shorter queue, which then fills anew."""
        self.swav.used_prototypes = plan.prototypes
        if plan.queue != self.queue.embeddings.shape[1]:
            self.queue = new_queue(plan, len(self.queue.embeddings), self.accelerator)
        self.monitor = Monitor(plan.prototypes, plan.embedding, self.accelerator.device)

    def state(self) -> dict[str, Any]:
        """Copies of everything that going on exactly here takes; all processes must come here together."""
        engine, scaler = self.accelerator, self.accelerator.scaler
        state = {
            "swav": self.swav.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},  # fp16
            "rng": rng_state(),
            # Queue, batch statistics and health are each process's own.
            "queue": {**self.queue.state(), **gather_per_process({"embeddings": self.queue.embeddings}, engine)},
            "buffers": gather_per_process(dict(self.swav.named_buffers()), engine),
            "monitor": gather_per_process(self.monitor.sums, engine),
        }
        return _copied(state)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of a learner that followed the same plan."""
        state = _copied(state)  # the optimiser would go on working in the given tensors
        rank = self.accelerator.process_index
        self.swav.load_state_dict(state["swav"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.queue.restore({**state["queue"], "embeddings": state["queue"]["embeddings"][rank]})
        restore_per_process(dict(self.swav.named_buffers()), state["buffers"], self.accelerator)
        restore_per_process(self.monitor.sums, state["monitor"], self.accelerator)
        set_rng_state(state["rng"])


def new_learner(
    swav: SwAV, optimizer: torch.optim.Optimizer, plan: Plan, coded_views: int, accelerator: "Accelerator"
) -> Learner:
    """Put the parts together, on the engine's device and shared by its processes.

    Args:
        swav: Network and prototypes.
        optimizer: Of its parameters.
        plan: Tells batch, queue and sizes.
        coded_views: A, views that get codes.
        accelerator: The engine.
    """
    model, prepared = accelerator.prepare(swav, optimizer)
    monitor = Monitor(plan.prototypes, plan.embedding, accelerator.device)
    return Learner(swav, model, prepared, accelerator, new_queue(plan, coded_views, accelerator), monitor)


def new_queue(plan: Plan, coded_views: int, accelerator: "Accelerator") -> FeatureQueue:
    """An empty queue for this process's share of the batch."""
    share = plan.global_batch // accelerator.num_processes
    return FeatureQueue(coded_views, plan.queue, share, plan.embedding, accelerator.device)


def new_backbone(
    architecture: str,
    size: int,
    mean_std: tuple[float, float],
    start: Start = (),
    *,
    smallest_view: int,
    show: bool = True,
) -> GrayNetwork:
    """Build the network that is pretrained.

    Args:
        architecture: Name in the zoo.
        size: Edge of the input.
        mean_std: Mean and standard deviation of the training pixels / 255, for weights that come with none.
        start: Files of weights to begin with, ours or foreign; none draws them from torch's generator.
        smallest_view: Edge of the smallest view the network will see.
        show: Whether to print what is noteworthy about the start.

    Raises:
        BadInput: Unknown architecture, weights that do not fit it, or a view that leaves its last stage a
            single pixel.
    """
    with torch.device("meta"):  # before weights are read
        network: Any = build(architecture, 0, size=size)
    reduction = max(level["reduction"] for level in network.feature_info)
    # A kernel that strides over a single pixel learns in its middle only; and oneDNN's bf16 convolution (seen in
    # torch 2.15) leaves the gradient of its other weights unwritten: whatever lay in memory, NaN at times.
    if 2 * smallest_view <= reduction:
        raise BadInput(
            f"views of more than {reduction // 2} pixels for {architecture}, which shrinks them {reduction} times",
            f"views of {smallest_view} pixels",
            do=f"--crops.local_size {3 * reduction // 4} or more, or a larger --size",
        )
    backbone = build_pretrained(architecture, 0, size, start, *mean_std, show=show)
    shorten(backbone.network)  # local views end in few pixels
    return backbone.to(memory_format=torch.channels_last)


def make_optimizer(name: str, swav: SwAV, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of a run.

    Args:
        name: "adamw"; "sgd" with momentum .9; "lars", the same with lightly's layer-wise scaling of matrices and
            kernels; or "larc", which scales and decays vectors too, as published with SwAV (trust .001).
        swav: Whose parameters it moves.
        lr: Learning rate.
        weight_decay: Of the groups whose entry ``decays`` is true; 0 leaves the layer-wise scaling as it is.
    """
    decayed, others = groups(swav, weight_decay)
    parameters = [{**decayed, "decays": True}, {**others, "decays": False}]
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, fused=True)
    if name == "sgd":
        sgd = torch.optim.SGD(parameters, lr=lr, momentum=0.9, fused=True)
        # Fused SGD fails when a first gradient comes late, as that of frozen prototypes does: momentum 0 is the same.
        for parameter in swav.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    from lightly.utils.lars import LARS

    if name == "larc":
        parameters = [{"params": list(swav.parameters()), "weight_decay": weight_decay, "decays": True}]
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


def _copied(tree: Any) -> Any:
    """The same dicts and lists with copies of their tensors."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return type(tree)((key, _copied(value)) for key, value in tree.items())
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree
