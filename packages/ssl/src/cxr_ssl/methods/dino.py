"""DINO: self-distillation with no labels (Caron et al. 2021, arXiv 2104.14294), with lightly's loss and heads."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr_common.training.schedules import warmup_cosine
from cxr_data.errors import require
from cxr_ssl.method import Change, Method, MethodConfig, PagePart, lower_lr
from cxr_ssl.methods.swav import CODE_CHARTS
from cxr_ssl.plan import Plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cxr_common.models.zoo import GrayNetwork
    from cxr_data.cohorts.cohort import Cohort
    from cxr_ssl.student_teacher import CropOutputs


@dataclass(frozen=True)
class DINOConfig(MethodConfig):
    """Options of DINO.

    Attributes:
        prototypes: K, width of the output; null is a prototype to 4 images, but from 1024 to the published 65536.
        hidden: Width of the head's hidden layers.
        bottleneck: Width of the head before its last layer.
        batch_norm: BatchNorm in the head's hidden layers, which removes what all images share. The published head of
            vision transformers has none; on radiographs, which look alike, a ResNet then collapses to uniform outputs.
        momentum: Momentum of the teacher at the first step; it rises to 1 with the cosine. Published: .996 for long
            runs.
        teacher_temperature: Temperature of the teacher: lower is sharper.
        student_temperature: Temperature of the student.
        center_momentum: Momentum of the center that is taken off the teacher's outputs.
        freeze: Steps at the start in which the last layer stays fixed; null is one epoch, as published.
    """

    prototypes: int | None = None
    hidden: int = 2048
    bottleneck: int = 256
    batch_norm: bool = True
    momentum: float = 0.99
    teacher_temperature: float = 0.04
    student_temperature: float = 0.1
    center_momentum: float = 0.9
    freeze: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("prototypes", 2), ("hidden", 1), ("bottleneck", 1), ("freeze", 0)):
            value = getattr(self, name)
            require(value is None or value >= least, f"{least} or more", value, f"--dino.{name}")
        for name in ("momentum", "center_momentum"):
            require(0 <= getattr(self, name) < 1, "a number in [0, 1)", getattr(self, name), f"--dino.{name}")
        for name in ("teacher_temperature", "student_temperature"):
            require(getattr(self, name) > 0, "a number above 0", getattr(self, name), f"--dino.{name}")

    def settings(self, images: int, plan: Plan) -> "DINOSettings":
        """Every option decided, for a number of training images."""
        prototypes = min(max(images // 4, 1024), 65536) if self.prototypes is None else self.prototypes
        freeze = plan.steps if self.freeze is None else self.freeze
        return DINOSettings(self, prototypes, freeze, self.teacher_temperature, plan.all_steps)

    def build(self, backbone: "GrayNetwork", settings: "DINOSettings", plan: Plan, *, coded_crops: int) -> "DINO":
        """DINO around a backbone."""
        return DINO(backbone, settings)


@dataclass(frozen=True)
class DINOSettings:
    """Settings of a run.

    Attributes:
        options: The options as given.
        prototypes: K, width of the output.
        freeze_steps: First steps in which the last layer stays fixed.
        teacher_temperature: Temperature of the teacher.
        all_steps: Steps of the run, over which the momentum rises.
    """

    options: DINOConfig
    prototypes: int
    freeze_steps: int
    teacher_temperature: float
    all_steps: int


class DINO(Method):
    """The student predicts, from any crop, the sharpened and centered output of the teacher for a global one."""

    def __init__(self, backbone: "GrayNetwork", settings: DINOSettings):
        """Copy the backbone into a teacher and put heads behind both."""
        from lightly.loss import DINOLoss
        from lightly.models.modules.heads import DINOProjectionHead

        from cxr_ssl.student_teacher import StudentTeacher

        self.settings, options = settings, settings.options
        width: Any = backbone.network.num_features
        sizes = (width, options.hidden, options.bottleneck, settings.prototypes)

        def head() -> DINOProjectionHead:
            made = DINOProjectionHead(*sizes, batch_norm=options.batch_norm)
            last: Any = (
                made.last_layer
            )  # every forward computes its weight; a graph would hold the parameters meanwhile
            last.weight = last.weight.detach()
            return made

        with warnings.catch_warnings():  # lightly's head uses torch's older weight_norm
            warnings.simplefilter("ignore", FutureWarning)
            self.module = StudentTeacher(backbone, head)
        # A part of the module, so that its center is moved and saved with it.
        self.module.criterion = DINOLoss(
            settings.prototypes, student_temp=options.student_temperature, center_momentum=options.center_momentum
        )
        self.advice, self.recoveries = ADVICE, RECOVERIES

    @property
    def backbone(self) -> "GrayNetwork":
        """The teacher's network, which is the better one throughout training (section 5.2 of the paper)."""
        return self.module.teacher_backbone

    @property
    def dimensions(self) -> tuple[int, int]:
        """Width of the teacher's bottleneck, and of its output."""
        return self.settings.options.bottleneck, self.settings.prototypes

    def loss(self, outputs: "CropOutputs") -> "Tensor":
        """Cross-entropy of the student (V, B, K) with the teacher (A, B, K) over all pairs of different crops."""
        from torch.nn.functional import normalize

        from cxr_ssl.diagnostics import add_codes, add_embeddings, add_loss

        criterion: Any = self.module.criterion
        head: Any = self.module.teacher_head
        centered = outputs.teacher - criterion.center  # of before this step; the loss moves it
        loss = criterion(list(outputs.teacher), list(outputs.student), self.settings.teacher_temperature)
        add_loss(self.sums, loss, centered.shape[1])
        add_codes(self.sums, centered, (centered / self.settings.teacher_temperature).softmax(-1))
        add_embeddings(self.sums, normalize(head.layers(outputs.features[0]).detach(), dim=1))
        return loss

    def before_update(self, step: int) -> None:
        """Leave the student's last layer where it is in the first steps."""
        if step < self.settings.freeze_steps:
            for parameter in self.module.head.last_layer.parameters():
                parameter.grad = None

    def after_update(self, step: int) -> None:
        """Move the teacher's weights towards the student's."""
        start = self.settings.options.momentum
        self.module.update_teacher(warmup_cosine(step, steps=self.settings.all_steps, peak=start, end=1.0))

    def description(self) -> str:
        """The settings in a few words."""
        return f"{self.settings.prototypes} prototypes, teacher at {self.settings.teacher_temperature:g}"

    def page_part(self, cohort: "Cohort", size: int, *, seed: int, precision: "torch.dtype") -> PagePart:
        """The most used outputs of the teacher and the images nearest to each."""
        from cxr_ssl.pictures import nearest_to_prototypes

        head, criterion = self.module.teacher_head, self.module.criterion

        def scores(pixels: "Tensor") -> "Tensor":
            return head(self.backbone(pixels)) - criterion.center[0]

        strips = nearest_to_prototypes(self.module, scores, cohort, size, seed=seed, precision=precision)
        text = "The most used outputs of the teacher, and the training images of the highest value of each."
        return PagePart("Prototypes of the teacher", text, strips, CODE_CHARTS)


ADVICE = {
    "not finite": "a lower --lr (a third), or --precision fp32",
    "low rank": "a lower --lr, a higher --dino.momentum, softer crops (larger --crops.global_scale)",
    "uniform codes": "a lower --dino.teacher_temperature, a lower --lr",
    "one prototype": "a higher --dino.teacher_temperature, a longer --dino.freeze, a lower --lr",
}
"""Kind of collapse -> what to change, best first."""


def _temperature(factor: float) -> Change:
    return lambda _plan, settings, _step: {"teacher_temperature": settings.teacher_temperature * factor}


RECOVERIES: dict[str, dict[str, Change]] = {
    "uniform codes": {"sharper teacher": _temperature(2 / 3), "lower learning rate": lower_lr},
    "one prototype": {"softer teacher": _temperature(3 / 2), "lower learning rate": lower_lr},
    "low rank": {"lower learning rate": lower_lr},
    "not finite": {"lower learning rate": lower_lr},
}
"""Kind of collapse -> ways out of it, best first."""
