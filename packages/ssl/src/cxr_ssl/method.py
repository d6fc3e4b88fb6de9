"""What a method of self-supervised pretraining has to offer; loop, crops, probe, resume and page know no method.

A method's file imports torch inside its functions only, so that ``ssl-pretrain --help`` answers at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cxr_data.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cxr_common.models.zoo import GrayNetwork
    from cxr_data.cohort import Cohort
    from cxr_ssl.plan import Plan


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


class MethodConfig(Protocol):
    """The options of a method, a frozen dataclass; None is automatic."""

    def settings(self, images: int, plan: "Plan") -> Any:
        """Every option decided: a frozen dataclass.

        Args:
            images: Training images.
            plan: What all methods share.
        """
        ...

    def build(self, backbone: "GrayNetwork", settings: Any, plan: "Plan", *, coded_crops: int) -> "Method":
        """The method around a backbone.

        Args:
            backbone: Network from pixels to features.
            settings: What `settings` returned.
            plan: What all methods share.
            coded_crops: Number of global crops.
        """
        ...


class Method(ABC):
    """A method at work. What has no abstract mark has a default that suits most methods.

    Attributes:
        settings: Its settings, which a recovery from collapse may change.
        module: The `torch.nn.Module` of all that is trained or averaged. Its ``forward`` takes the crops, one tensor
            (V_s, B, 1, H_s, W_s) for each size with the global ones first, and returns what `loss` takes.
        sums: Name -> tensor: sums over the steps of an epoch, of this process; adding them up over processes gives
            those of the whole run. Nothing of them is read before the epoch ends.
        recoveries: Kind of collapse -> name -> change, best first.
    """

    settings: Any
    module: Any
    sums: "dict[str, Tensor]"
    recoveries: Mapping[str, Mapping[str, Change]]

    @property
    @abstractmethod
    def backbone(self) -> "GrayNetwork":
        """The network that is probed and kept."""

    def start(self, device: "torch.device", share: int) -> None:
        """Prepare for training on a device, with so many images of a step on this process; begins an epoch too."""
        self.device = device
        self.start_epoch()

    def start_epoch(self) -> None:
        """Set the sums to zero."""
        self.sums = self.new_sums()

    @abstractmethod
    def new_sums(self) -> "dict[str, Tensor]":
        """Sums at zero, on the device."""

    @abstractmethod
    def loss(self, outputs: Any) -> "Tensor":
        """Scalar loss of (a part of) a batch, with its graph; takes its diagnostics into the sums."""

    def before_update(self, step: int) -> None:  # noqa: B027 - most methods have nothing to do
        """Gradients of a step of the run, from 0, are complete."""

    def after_update(self, step: int) -> None:  # noqa: B027 - some methods have nothing to do
        """The optimiser has moved the weights."""

    def change(self, settings: Any) -> None:
        """Continue with other settings."""
        self.settings = settings
        self.start_epoch()

    @abstractmethod
    def diagnostics(self, sums: "Mapping[str, Tensor]") -> dict[str, float]:
        """Numbers of an epoch, "loss" among them, from sums over all processes, in float64 on the CPU."""

    @abstractmethod
    def collapse(self, figures: Mapping[str, float]) -> Collapse | None:
        """The collapse that the numbers of an epoch show; None where it looks healthy."""

    def warnings(self, plan: "Plan") -> list[str]:
        """What in the settings has been seen to fail, each with what to do."""
        return []

    def refuse_certain_collapse(self) -> None:  # noqa: B027 - most methods know no such settings
        """Refuse settings that must collapse.

        Raises:
            BadInput: They do.
        """

    @abstractmethod
    def description(self) -> str:
        """The settings in a few words."""

    @abstractmethod
    def page_part(self, cohort: "Cohort", size: int, *, seed: int, precision: "torch.dtype") -> PagePart:
        """Its part of the picture page, made with the weights as they are."""

    def state_dict(self) -> dict[str, Any]:
        """State beside the module's and the sums: plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most methods have none
        """Take over what `state_dict` returned."""

    def per_process(self) -> "dict[str, Tensor]":
        """Tensors of which every process has its own, the sums among them."""
        return self.sums


def require(holds: bool, expected: str, found: object, option: str) -> None:
    """Refuse the value of an option.

    Raises:
        BadInput: It does not hold.
    """
    if not holds:
        raise BadInput(expected, str(found), where=option)


def lower_lr(plan: "Plan", _settings: Any, _step: int) -> dict[str, Any]:
    """A third of the learning rate: a change that every method can make."""
    return {"lr": plan.lr / 3}
