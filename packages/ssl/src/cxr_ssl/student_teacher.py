"""A student and its teacher, whose weights are a moving average of the student's (DINO, BYOL)."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class CropOutputs(NamedTuple):
    """Outputs of both networks, float32.

    Attributes:
        student: (V, B, K) of the student for all crops, behind its predictor.
        projected: (A, B, K) of the student for the global crops, before its predictor, without a gradient.
        teacher: (A, B, K) of the teacher for the global crops, without a gradient.
        features: (A, B, F) of the teacher's backbone, without a gradient.
    """

    student: Tensor
    projected: Tensor
    teacher: Tensor
    features: Tensor


class StudentTeacher(nn.Module):
    """Two networks of one shape: the student is trained, the teacher follows it.

    Attributes:
        backbone: The student's network from pixels to pooled features.
        head: The student's head.
        predictor: A further head of the student alone, or nothing.
        teacher_backbone: The teacher's network; begins as a copy.
        teacher_head: The teacher's head; begins as a copy.
    """

    def __init__(self, backbone: nn.Module, new_head: Callable[[], nn.Module], predictor: nn.Module | None = None):
        """Copy the student into its teacher."""
        super().__init__()
        self.backbone, self.head = backbone, new_head()
        self.predictor = nn.Identity() if predictor is None else predictor
        self.teacher_backbone, self.teacher_head = copy.deepcopy(backbone), new_head()
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.teacher_backbone.requires_grad_(False)
        self.teacher_head.requires_grad_(False)

    def forward(self, crops: Sequence[Tensor]) -> CropOutputs:
        """Outputs of the student for all crops and of the teacher for the global ones.

        Crops of one size go through a backbone in one pass, so that BatchNorm sees them together.

        Args:
            crops: One tensor per size, (V_s, B, 1, H_s, W_s); the first are the A global ones.
        """
        images, coded = crops[0].shape[1], len(crops[0])
        projected = self.head(torch.cat([self.backbone(stack.flatten(0, 1)) for stack in crops]))
        student = self.predictor(projected)
        with torch.no_grad():
            features = self.teacher_backbone(crops[0].flatten(0, 1))
            teacher = self.teacher_head(features)
        outputs = (student, projected[: coded * images].detach(), teacher, features)
        return CropOutputs(*(output.float().unflatten(0, (-1, images)) for output in outputs))

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher's parameters: θ_t <- m θ_t + (1 - m) θ_s; its batch statistics are its own."""
        pairs = ((self.teacher_backbone, self.backbone), (self.teacher_head, self.head))
        for teacher, student in pairs:
            for mine, its in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(its, 1 - momentum)
