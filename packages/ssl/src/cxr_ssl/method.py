"""What a method of self-supervised pretraining has to offer; loop, crops, probe, resume and page know no method.

A method's file imports torch inside its functions only, so that ``ssl-pretrain --help`` answers at once.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cxr_common.models.zoo import GrayNetwork
    from cxr_data.cohorts.cohort import Cohort
    from cxr_ssl.plan import Plan

LOW_SPREAD = 0.1
"""Spread of the embeddings below which they all but coincide, unless a method says another."""


@dataclass(frozen=True)
class Collapse:
    """One way in which a run has gone wrong.

    Attributes:
        kind: "not finite", "uniform codes", "one prototype" or "low rank".
        evidence: The number that shows it.
        advice: What to change, best first.
    """

    kind: str
    evidence: str
    advice: str


@dataclass(frozen=True)
class PagePart:
    """A method's part of the picture page.

    Attributes:
        heading: Its heading.
        text: What is shown, in a sentence or two.
        strips: Rows of images: "heading" and "images", (n, E, E) uint8.
        charts: Title of a chart -> name in the log -> legend.
    """

    heading: str
    text: str
    strips: Sequence[Mapping[str, Any]]
    charts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


Change = Callable[["Plan", Any, int], dict[str, Any]]
"""Function of plan, settings and step: fields of either and their new values; empty where it would change nothing."""


def lower_lr(plan: "Plan", _settings: Any, _step: int) -> dict[str, Any]:
    """A third of the learning rate: a change that every method can make."""
    return {"lr": plan.lr / 3}


@dataclass(frozen=True)
class MethodConfig:
    """The options of a method; derive a frozen dataclass from it, in which None is automatic.

    It is a dataclass and nothing else: of any other base the command line would make a choice among subclasses.
    """

    def settings(self, images: int, plan: "Plan") -> Any:
        """Every option decided: a frozen dataclass; the options themselves where none is automatic.

        Args:
            images: Training images.
            plan: What all methods share.
        """
        return self

    def build(self, backbone: "GrayNetwork", settings: Any, plan: "Plan", *, coded_crops: int) -> "Method":
        """The method around a backbone.

        Args:
            backbone: Network from pixels to features.
            settings: What `settings` returned.
            plan: What all methods share.
            coded_crops: Number of global crops.
        """
        raise NotImplementedError


class Method(ABC):
    """A method at work. It needs its ``settings``, a ``module`` and a `loss`; the rest has defaults.

    Attributes:
        settings: Its settings, which a recovery from collapse may change.
        module: The `torch.nn.Module` of all that is trained or averaged. Its ``forward`` takes the crops, one tensor
            (V_s, B, 1, H_s, W_s) for each size with the global ones first, and returns what `loss` takes.
        sums: Name -> tensor: sums over the steps of an epoch, of this process; adding them up over processes gives
            those of the whole run. Nothing of them is read before the epoch ends.
        advice: Kind of collapse -> what to change, best first.
        low_spread: Spread of the embeddings below which they all but coincide.
        recoveries: Kind of collapse -> name -> change, best first.
    """

    settings: Any
    module: Any
    sums: "dict[str, Tensor]"
    advice: Mapping[str, str] = {"not finite": "a lower --lr (a third), or --precision fp32"}
    low_spread: float = LOW_SPREAD
    recoveries: Mapping[str, Mapping[str, Change]] = {"not finite": {"lower learning rate": lower_lr}}

    def __init__(self, settings: Any, module: Any):
        """Take settings and module; a method may have a constructor of its own."""
        self.settings, self.module = settings, module

    @property
    def backbone(self) -> "GrayNetwork":
        """The network that is probed and kept: ``module.backbone``."""
        return self.module.backbone

    def start(self, device: "torch.device", share: int) -> None:
        """Prepare for training on a device, with so many images of a step on this process; begins an epoch too."""
        self.device = device
        self.start_epoch()

    def start_epoch(self) -> None:
        """Set the sums to zero."""
        self.sums = self.new_sums()

    @property
    def dimensions(self) -> tuple[int | None, int | None]:
        """D, width of the embeddings that are diagnosed, and K, number of prototypes; None where there are none."""
        return None, None

    def new_sums(self) -> "dict[str, Tensor]":
        """Sums at zero, on the device, of all that `diagnostics` tells."""
        from cxr_ssl.diagnostics import code_sums, embedding_sums, loss_sums

        d, k = self.dimensions
        sums = loss_sums(self.device) | (code_sums(k, self.device) if k else {})
        return sums | (embedding_sums(d, self.device) if d else {})

    @abstractmethod
    def loss(self, outputs: Any) -> "Tensor":
        """Scalar loss of (a part of) a batch, with its graph; takes its diagnostics into the sums.

        At the least these are those of `cxr_ssl.diagnostics.add_loss`.
        """

    def before_update(self, step: int) -> None:  # noqa: B027 - most methods have nothing to do
        """Called when the gradients of a step are complete; steps are counted from 0 over the run."""

    def after_update(self, step: int) -> None:  # noqa: B027 - some methods have nothing to do
        """Called when the optimiser has moved the weights."""

    def change(self, settings: Any) -> None:
        """Continue with other settings."""
        self.settings = settings
        self.start_epoch()

    def diagnostics(self, sums: "Mapping[str, Tensor]") -> dict[str, float]:
        """Numbers of an epoch from sums over all processes, in float64 on the CPU.

        "loss"; with prototypes "loss_ratio", the loss / ln K (1 = predicting nothing), and
        `cxr_ssl.diagnostics.code_figures`; with embeddings `cxr_ssl.diagnostics.embedding_figures`.
        """
        from cxr_ssl.diagnostics import code_figures, embedding_figures

        d, k = self.dimensions
        loss = sums["loss"].item() / sums["steps"].item()
        of_codes = {"loss_ratio": loss / math.log(k), **code_figures(sums)} if k else {}
        return {"loss": loss, **of_codes, **(embedding_figures(sums) if d else {})}

    def collapse(self, figures: Mapping[str, float]) -> Collapse | None:
        """The collapse that the numbers of an epoch show; None where it looks healthy.

        A loss alone shows only that it is not finite.
        """
        from cxr_ssl.diagnostics import find_collapse

        d, k = self.dimensions
        if d is not None:
            return find_collapse(figures, self.advice, embedding_dim=d, num_prototypes=k, low_spread=self.low_spread)
        if all(math.isfinite(value) for value in figures.values()):
            return None
        return Collapse("not finite", "the loss is NaN or infinite", self.advice["not finite"])

    def warnings(self, plan: "Plan") -> list[str]:
        """What in the settings has been seen to fail, each with what to do."""
        return []

    def refuse_certain_collapse(self) -> None:  # noqa: B027 - most methods know no such settings
        """Refuse settings that must collapse.

        Raises:
            BadInput: They do.
        """

    def description(self) -> str:
        """The settings in a few words."""
        return str(self.settings)

    def page_part(self, cohort: "Cohort", size: int, *, seed: int, precision: "torch.dtype") -> PagePart:
        """Its part of the picture page, made with the weights as they are: some images and the most similar ones."""
        from cxr_ssl.pictures import nearest_images

        strips = nearest_images(self.backbone, cohort, size, seed=seed, precision=precision)
        text = "Training images chosen at random, first of each row, and those with the most similar features."
        return PagePart("Nearest images", text, strips)

    def state_dict(self) -> dict[str, Any]:
        """State beside the module's and the sums: plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most methods have none
        """Take over what `state_dict` returned."""

    def per_process(self) -> "dict[str, Tensor]":
        """Tensors of which every process has its own, the sums among them."""
        return self.sums
