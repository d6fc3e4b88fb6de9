"""Small modules between features of different shape, trained with the student and never saved."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_data.errors import BadInput
from cxr_distill.losses.base import AnsweringAdapter
from cxr_distill.losses.precision import product


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps to another height and width: averaged when smaller, linearly interpolated when larger.

    Written as two matrix products, whose gradient is the same on every run; the interpolation kernels of CUDA
    add up gradients in no fixed order.

    Args:
        maps: (B, C, H, W).
        size: Height and width wanted.

    Returns:
        (B, C, *size); a constant map stays the same constant.
    """
    height, width = maps.shape[2:]
    if width != size[1]:
        maps = product(maps, _interpolation(width, size[1], maps))
    if height != size[0]:
        maps = product(maps.mT, _interpolation(height, size[0], maps)).mT
    return maps


def regress(adapter: nn.Module | None, student: Tensor, teacher: Tensor) -> Tensor:
    """Bring student features to the teacher's shape.

    Args:
        adapter: Changes the number of channels (1×1 convolution or linear layer); None leaves them.
        student: Map (B, C_s, H, W) or vector (B, C_s).
        teacher: Map (B, C_t, H', W') or vector (B, C_t).

    Returns:
        The teacher's shape, when the adapter gives C_t channels.
    """
    size = (teacher.shape[2], teacher.shape[3]) if teacher.ndim == 4 else None
    # A 1×1 convolution and resizing commute: whichever shrinks goes first.
    if size is not None and size[0] * size[1] < student.shape[2] * student.shape[3]:
        student = resize(student, size)
    if adapter is not None:
        student = adapter(student.to(next(adapter.parameters()).dtype))
    return student if size is None else resize(student, size)


class EmbeddingPair(nn.Module):
    """A linear embedding of the student's pooled features and one of the teacher's, of one width.

    Args:
        student_channels: C_s.
        teacher_channels: C_t.
        width: D, width of both embeddings (Tian et al. 2020: 128).
    """

    def __init__(self, student_channels: int, teacher_channels: int, width: int = 128):
        super().__init__()
        self.student = nn.Linear(student_channels, width)
        self.teacher = nn.Linear(teacher_channels, width)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C_s), (B, C_t) -> (B, D), (B, D); only the embedding of the teacher learns, not the teacher."""
        dtype = self.student.weight.dtype
        return self.student(student.to(dtype)), self.teacher(teacher.detach().to(dtype))


class AttentionFusion(nn.Module):
    """Fuses a level with what the deeper levels have gathered (ABF).

    x' = BN(conv1×1(x)), (B, M, H, W). With y what came from below, resized to x', and an attention of two
    channels:

        a = sigmoid(conv1×1([x', y]));   m = a_1 · x' + a_2 · y;   output = BN(conv3×3(m))

    The deepest level has no y, and m = x'. Chen et al. 2021, "Distilling knowledge via knowledge review",
    §3.3.

    Args:
        channels: C, of the level.
        middle: M, of what is handed on.
        out_channels: Of the output: the teacher's at this level.
        deepest: Whether there is no deeper level.
    """

    def __init__(self, channels: int, middle: int, out_channels: int, deepest: bool):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(channels, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        self.leave = nn.Sequential(
            nn.Conv2d(middle, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, x: Tensor, below: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) and what came from below -> output (B, out_channels, H, W), m (B, M, H, W)."""
        x = self.enter(x)
        if self.attention is not None and below is not None:
            below = resize(below, (x.shape[2], x.shape[3]))
            a = torch.sigmoid(self.attention(torch.cat([x, below], dim=1)))
            x = a[:, :1] * x + a[:, 1:] * below
        return self.leave(x), x


class ReviewFusion(nn.Module):
    """The student's levels, each reviewed in the light of all deeper ones, with the teacher's channels.

    Chen et al. 2021, "Distilling knowledge via knowledge review", fig. 3: residual learning from the deepest
    level up.

    Args:
        student_channels: Of each level, shallow to deep.
        teacher_channels: Of each level, shallow to deep.
        middle: Channels handed from level to level.
    """

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int], middle: int = 256):
        super().__init__()
        deepest = len(student_channels) - 1
        self.fusions = nn.ModuleList(
            AttentionFusion(own, middle, its, deepest=depth == deepest)
            for depth, (own, its) in enumerate(zip(student_channels, teacher_channels, strict=True))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Student maps (B, C_s, H, W), shallow to deep -> maps (B, C_t, H, W) in the same order."""
        reviewed: list[Tensor] = []
        below: Tensor | None = None
        for fusion, x in zip(reversed(self.fusions), reversed(maps), strict=True):
            output, below = fusion(x.to(next(self.parameters()).dtype), below)
            reviewed.insert(0, output)
        return reviewed


class ReusedClassifier(AnsweringAdapter):
    """A linear projector P to the teacher's width, and the teacher's frozen classifier (W, b) behind it.

        z = W (P f + p) + b = (W P) f + (W p + b)

    Chen et al. 2022, "Knowledge distillation with the reused teacher classifier" (SimKD).

    Args:
        student_channels: C_s.
        teacher_channels: C_t.
        classifier: W (L, C_t) and b (L,).

    Raises:
        BadInput: The teacher does not end in a linear layer.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, student_channels: int, teacher_channels: int, classifier: tuple[Tensor, Tensor] | None):
        super().__init__()
        if classifier is None:
            raise BadInput(
                "a teacher for the loss simkd that ends in a linear layer", "one that does not", do="use another loss"
            )
        self.projector = nn.Linear(student_channels, teacher_channels)
        self.register_buffer("weight", classifier[0].detach().clone().float(), persistent=False)
        self.register_buffer("bias", classifier[1].detach().clone().float(), persistent=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, C_s) -> (B, L)."""
        return F.linear(self.projector(pooled), self.weight, self.bias)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (L, C_s) and bias (L,) of one linear layer that answers alike."""
        return self.weight @ self.projector.weight.float(), self.bias + self.weight @ self.projector.bias.float()


def _interpolation(given: int, wanted: int, like: Tensor) -> Tensor:
    """Matrix (given, wanted) that resizes a row of ``given`` numbers to ``wanted``."""
    unit = torch.eye(given, device=like.device, dtype=torch.float32)[None]
    if wanted < given:
        matrix = F.adaptive_avg_pool1d(unit, wanted)
    else:
        matrix = F.interpolate(unit, size=wanted, mode="linear", align_corners=False)
    return matrix[0].to(like.dtype)
