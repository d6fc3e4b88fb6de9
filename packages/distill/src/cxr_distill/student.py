"""The student and its adapters in one module, so that one wrapper serves several processes."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from cxr_common.models.features import features
from cxr_common.models.pretrained import Start, build_pretrained
from cxr_common.models.small_maps import fast_layout
from cxr_common.models.zoo import GrayNetwork
from cxr_distill.losses import AnsweringAdapter, Outputs
from cxr_distill.teacher import classifier_weight, linear_layer, put


class Student(nn.Module):
    """A network in training with the adapters that its losses need.

    Where an adapter is an `AnsweringAdapter` (loss ``simkd``) the student answers through it; `fold` then gives the
    network's own classifier the same answers. A network without a classifier gives features alone.

    Args:
        network: The network; all that is saved.
        adapters: Modules that fit student features to the teacher's, by name of the loss.
        feature_names: Features that the losses read.

    Raises:
        BadInput: It is to answer through an adapter, and its network does not end in a linear layer.
    """

    def __init__(self, network: GrayNetwork, adapters: nn.ModuleDict | None = None, feature_names: Sequence[str] = ()):
        super().__init__()
        self.network = network
        self.adapters = adapters if adapters is not None else nn.ModuleDict()
        self.feature_names = tuple(feature_names)
        get_classifier = getattr(network.network, "get_classifier", None)
        self.headless = get_classifier is not None and isinstance(get_classifier(), nn.Identity)
        answering = [name for name, adapter in self.adapters.items() if isinstance(adapter, AnsweringAdapter)]
        self.answering = answering[0] if answering else None
        if self.answering:
            own = linear_layer(network, f"a student for the loss {self.answering}")
            own.requires_grad_(False)  # it has no part in the answer until `fold` fills it

    def forward(self, pixels: Tensor) -> Outputs:
        """(B, 1, S, S) uint8 or float in 0..255 -> logits (B, L) and the features asked for."""
        if not self.feature_names:
            return Outputs(self.network(pixels), {}, None)
        logits, maps = features(self.network, pixels, self.feature_names)
        if self.headless:
            return Outputs(logits.new_zeros(len(logits), 0), maps)
        if self.answering is None:
            return Outputs(logits, maps, classifier_weight(self.network))
        adapter = cast(AnsweringAdapter, self.adapters[self.answering])
        return Outputs(adapter(maps["pooled"]), maps, adapter.folded()[0])

    def fold(self) -> None:
        """Make the network alone answer as the student does in training, where that is through an adapter."""
        if self.answering is None:
            return
        own = linear_layer(self.network, f"a student for the loss {self.answering}")
        put(own, *cast(AnsweringAdapter, self.adapters[self.answering]).folded())


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
    return fast_layout(network)
