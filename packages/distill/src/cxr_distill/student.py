"""The student and its adapters in one module, so that one wrapper serves several processes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cxr_common.models.features import features
from cxr_common.models.pretrained import Start, build_pretrained
from cxr_common.models.zoo import GrayNetwork
from cxr_distill.losses import Outputs, fold_classifier
from cxr_distill.teacher import classifier_weight, linear_layer


class Student(nn.Module):
    """A network in training with the adapters its feature losses need.

    With the loss ``simkd`` it answers by the teacher's classifier behind its own projector, which `settle` folds
    into the network's last layer (Chen et al. 2022, "Knowledge distillation with the reused teacher classifier").

    Args:
        network: The network; all that is saved.
        adapters: Modules that fit student features to the teacher's, by loss name.
        stages: Feature maps the losses look at.
        reused: Weight (L, C_t) and bias (L,) of the teacher's classifier; None keeps the network's own.

    Raises:
        BadInput: A classifier is to be reused by a network that does not end in a linear layer.
    """

    reused_weight: Tensor | None
    reused_bias: Tensor | None

    def __init__(
        self,
        network: GrayNetwork,
        adapters: nn.ModuleDict | None = None,
        stages: Sequence[str] = (),
        reused: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__()
        self.network = network
        self.adapters = adapters if adapters is not None else nn.ModuleDict()
        self.stages = tuple(stages)
        weight, bias = reused if reused else (None, None)
        self.register_buffer("reused_weight", weight, persistent=False)
        self.register_buffer("reused_bias", bias, persistent=False)
        if reused:
            own = linear_layer(network, "a student for the loss simkd")
            own.requires_grad_(False)  # it has no part in the answer until `settle` fills it

    def forward(self, pixels: Tensor) -> Outputs:
        """(B, 1, S, S) uint8 or float in 0..255 -> logits (B, L) and the features asked for."""
        if not self.stages:
            return Outputs(self.network(pixels), {}, None)
        logits, maps = features(self.network, pixels, self.stages)
        if self.reused_weight is None:
            return Outputs(logits, maps, classifier_weight(self.network))
        projector: Any = self.adapters["simkd"]
        logits = nn.functional.linear(projector(maps["pooled"]), self.reused_weight, self.reused_bias)
        return Outputs(logits, maps, self.reused_weight @ projector.weight)

    @torch.no_grad()
    def settle(self) -> None:
        """Make the network alone answer as the student does in training: fold in what it reuses, if anything."""
        if self.reused_weight is None:
            return
        own, projector = linear_layer(self.network, "a student for the loss simkd"), self.adapters["simkd"]
        assert isinstance(projector, nn.Linear)
        weight, bias = fold_classifier(projector, self.reused_weight, self.reused_bias)
        own.weight.copy_(weight)
        own.bias.copy_(bias)


def new_network(
    architecture: str,
    labels: int,
    size: int,
    mean: float,
    std: float,
    start: Start = (),
    drop_path: float = 0.0,
    prior: Tensor | None = None,
    *,
    show: bool = True,
) -> GrayNetwork:
    """Build a classifier and give it its starting weights.

    Args:
        architecture: Name in the zoo.
        labels: Number of logits.
        size: Edge of the input.
        mean: Mean of the training pixels, in [0, 1], for weights that come with no normalisation of their own.
        std: Their standard deviation.
        start: Backbone or model files of ours, or foreign weights; random ones are drawn from torch's generator.
        drop_path: Stochastic depth rate of the last block; it has no weights and no part in evaluation.
        prior: (labels,) logits that a new classifier begins with; one that comes with the start keeps its own.
        show: Whether to print what is noteworthy about the start.

    Raises:
        BadInput: Unknown architecture, or weights that do not fit it.
    """
    network = build_pretrained(
        architecture, labels, size, start, mean, std, drop_path=drop_path, prior=prior, show=show
    )
    return network.to(memory_format=torch.channels_last)
