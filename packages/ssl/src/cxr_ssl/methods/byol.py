"""BYOL: bootstrap your own latent (Grill et al. 2020, arXiv 2006.07733), with lightly's loss and heads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr_common.training.schedules import warmup_cosine
from cxr_data.errors import require
from cxr_ssl.method import Change, Method, MethodConfig, lower_lr
from cxr_ssl.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from cxr_common.models.zoo import GrayNetwork
    from cxr_ssl.student_teacher import CropOutputs


@dataclass(frozen=True)
class BYOLConfig(MethodConfig):
    """Options of BYOL.

    Attributes:
        embedding: D, width of projection and prediction.
        hidden: Width of the hidden layers of both heads.
        momentum: Momentum of the teacher at the first step; it rises to 1 with the cosine. Published: .996 for long
            runs.
    """

    embedding: int = 256
    hidden: int = 4096
    momentum: float = 0.99

    def __post_init__(self) -> None:
        for name in ("embedding", "hidden"):
            require(getattr(self, name) >= 1, "1 or more", getattr(self, name), f"--byol.{name}")
        require(0 <= self.momentum < 1, "a number in [0, 1)", self.momentum, "--byol.momentum")

    def settings(self, images: int, plan: Plan) -> "BYOLSettings":
        """Every option decided; none depends on the number of images."""
        return BYOLSettings(self, self.momentum, plan.all_steps)

    def build(self, backbone: "GrayNetwork", settings: "BYOLSettings", plan: Plan, *, coded_crops: int) -> "BYOL":
        """BYOL around a backbone."""
        return BYOL(backbone, settings)


@dataclass(frozen=True)
class BYOLSettings:
    """Settings of a run.

    Attributes:
        options: The options as given.
        momentum: Momentum of the teacher at the first step.
        all_steps: Steps of the run, over which the momentum rises.
    """

    options: BYOLConfig
    momentum: float
    all_steps: int


class BYOL(Method):
    """The student predicts, from any crop, the teacher's projection of another, global one."""

    def __init__(self, backbone: "GrayNetwork", settings: BYOLSettings):
        """Copy the backbone into a teacher, put projections behind both and a predictor behind the student's."""
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead

        from cxr_ssl.student_teacher import StudentTeacher

        self.settings = settings
        width: Any = backbone.network.num_features
        d, hidden = settings.options.embedding, settings.options.hidden
        predictor = BYOLPredictionHead(d, hidden, d)
        self.module = StudentTeacher(backbone, lambda: BYOLProjectionHead(width, hidden, d), predictor)
        self._criterion = NegativeCosineSimilarity()
        self.advice, self.recoveries, self.low_spread = ADVICE, RECOVERIES, LOW_SPREAD

    @property
    def dimensions(self) -> tuple[int, None]:
        """Width of the student's projections."""
        return self.settings.options.embedding, None

    def loss(self, outputs: "CropOutputs") -> "Tensor":
        """Mean negative cosine of prediction (V, B, D) and teacher (A, B, D) over all pairs of different crops.

        With two global crops and no local ones this is the symmetrised loss of the paper, as - cos instead of
        2 - 2 cos.
        """
        import torch
        from torch.nn.functional import normalize

        from cxr_ssl.diagnostics import add_embeddings, add_loss

        pairs = [
            self._criterion(student, teacher)
            for a, teacher in enumerate(outputs.teacher)
            for v, student in enumerate(outputs.student)
            if a != v
        ]
        loss = torch.stack(pairs).mean()
        add_loss(self.sums, loss, outputs.teacher.shape[1])
        add_embeddings(self.sums, normalize(outputs.projected[0], dim=1))
        return loss

    def after_update(self, step: int) -> None:
        """Move the teacher's weights towards the student's."""
        start = self.settings.momentum
        self.module.update_teacher(warmup_cosine(step, steps=self.settings.all_steps, peak=start, end=1.0))

    def description(self) -> str:
        """The settings in a few words."""
        return f"embedding {self.settings.options.embedding}, momentum {self.settings.momentum:g}"


LOW_SPREAD = 0.02
"""Spread of the projections below which they all but coincide: what they share is not taken off, as SwAV does."""

ADVICE = {
    "not finite": "a lower --lr (a third), or --precision fp32",
    "low rank": "a lower --lr, a higher --byol.momentum, a larger --batch_size",
}
"""Kind of collapse -> what to change, best first."""


def _slower_teacher(_plan: Plan, settings: BYOLSettings, _step: int) -> dict[str, Any]:
    return {"momentum": 0.996} if settings.momentum < 0.996 else {}


RECOVERIES: dict[str, dict[str, Change]] = {
    "low rank": {"lower learning rate": lower_lr, "slower teacher": _slower_teacher},
    "not finite": {"lower learning rate": lower_lr},
}
"""Kind of collapse -> ways out of it, best first."""
