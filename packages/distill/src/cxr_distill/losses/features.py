"""Distillation losses on feature maps and vectors: the student's features become the teacher's.

Shapes: a map is (B, C, H, W), a vector (B, C), B images and C channels. The formulas take features that
already fit each other; where channels or sizes differ an adapter goes between
(`cxr_distill.losses.adapters`). No gradient goes to the teacher.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_common.models.structure import LEVELS
from cxr_distill.losses.adapters import EmbeddingPair, ReusedClassifier, ReviewFusion, regress, resize
from cxr_distill.losses.base import Given, Interface, Loss, Outputs, classifier_of, feature
from cxr_distill.losses.precision import in_float32, product
from cxr_distill.losses.task import mean_known


@in_float32
def fitnets(student: Tensor, teacher: Tensor) -> Tensor:
    """Hint learning: the student's regressed features are the teacher's.

        loss = mean over all entries of  (r(f_s) - f_t)²

    Romero et al. 2015, "FitNets: hints for thin deep nets", eq. 3, with the mean for the halved sum.

    Args:
        student: r(f_s), features after the regressor, any shape.
        teacher: f_t, the same shape.

    Returns:
        Scalar >= 0, 0 when equal.
    """
    _same_shape("fitnets", student, teacher)
    return F.mse_loss(student, teacher.detach())


@dataclass(frozen=True, kw_only=True)
class FitNets(Loss):
    """The student's map, through a regressor, is the teacher's (Romero et al. 2015). For networks of one family."""

    name = "fitnets"
    headless = True
    weight = 100.0

    feature: str = "level4"

    def adapter(self, student: Interface, teacher: Interface) -> nn.Module:
        """A 1×1 convolution (maps) or a linear layer (pooled) from student to teacher channels."""
        own, its = student.channels_of(self.feature), teacher.channels_of(self.feature)
        return nn.Linear(own, its) if self.feature == "pooled" else nn.Conv2d(own, its, 1)

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`fitnets` of the regressed features."""
        own, its = feature(student, self.feature), feature(teacher, self.feature)
        return fitnets(regress(given.required_adapter(self.name), own, its), its)


@in_float32
def attention_transfer(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Where the student looks is where the teacher looks, at every level.

    With the attention of an image a = vec(mean_c f_c²), (H·W,), and â = a / ‖a‖₂:

        loss = Σ over levels of  mean over images and positions of  (â_s - â_t)²

    Zagoruyko and Komodakis 2017, "Paying more attention to attention", eq. 2, activation-based with p = 2,
    and the mean of the authors' code, to which the weight 1000 belongs. Channels may differ; where sizes do,
    the larger attention is averaged down.

    Args:
        student: f_s of each level, (B, C_s, H, W).
        teacher: f_t of each level, (B, C_t, H', W').

    Returns:
        Scalar >= 0, 0 when the attention is the same.
    """
    total = student[0].new_zeros(())
    for own, its in zip(student, teacher, strict=True):
        energy_s = own.square().mean(dim=1, keepdim=True)
        energy_t = its.detach().square().mean(dim=1, keepdim=True)
        size = (min(own.shape[2], its.shape[2]), min(own.shape[3], its.shape[3]))
        a_s = F.normalize(resize(energy_s, size).flatten(1), dim=1)
        a_t = F.normalize(resize(energy_t, size).flatten(1), dim=1)
        total = total + F.mse_loss(a_s, a_t)
    return total


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer(Loss):
    """Where the network looks, at every level (Zagoruyko and Komodakis 2017). For networks of one family."""

    name = "attention_transfer"
    headless = True
    weight = 1000.0
    reads = LEVELS

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`attention_transfer` of all maps."""
        return attention_transfer(*([feature(outputs, name) for name in LEVELS] for outputs in (student, teacher)))


@in_float32
def class_activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    """How much each position speaks for each label.

        M_k(h, w) = Σ_c W_kc f_c(h, w)

    Zhou et al. 2016, "Learning deep features for discriminative localization", eq. 2. For a network of global
    average pooling and one linear layer the mean of M_k over positions is the logit less its bias.

    Args:
        features: f, the last map, (B, C, H, W).
        weight: W, of the classifier, (L, C).

    Returns:
        M, (B, L, H, W).
    """
    if features.shape[1] != weight.shape[1]:
        raise ValueError(f"features of {features.shape[1]} channels do not fit a classifier of {weight.shape[1]}")
    return product(weight.expand(len(features), -1, -1), features.flatten(2)).unflatten(2, features.shape[2:])


@in_float32
def cam(
    student: Tensor,
    student_weight: Tensor,
    teacher: Tensor,
    teacher_weight: Tensor,
    *,
    known: Tensor | None = None,
) -> Tensor:
    """The student's class activation maps are the teacher's: the reason for a label, not its logit alone.

    With M as in `class_activation_maps`, both in units of logits:

        loss = mean over known (i, k) and positions of  (M_s,ik(h, w) - M_t,ik(h, w))²

    Zhang et al. 2023, "Knowledge distillation from single to multi labels: an empirical study"
    (arXiv 2303.08360), which distils class activation maps; squared error of unscaled maps is our reading.
    The student's maps are brought to the teacher's size.

    Args:
        student: f_s, last map, (B, C_s, H, W).
        student_weight: W_s, (L, C_s).
        teacher: f_t, last map, (B, C_t, H', W').
        teacher_weight: W_t, (L, C_t).
        known: (B, L); the maps of unknown labels are left out. All when None.

    Returns:
        Scalar >= 0, 0 when the maps are equal.
    """
    maps_t = class_activation_maps(teacher, teacher_weight).detach()
    maps_s = resize(class_activation_maps(student, student_weight), (maps_t.shape[2], maps_t.shape[3]))
    return mean_known((maps_s - maps_t).square().mean(dim=(2, 3)), known)


@dataclass(frozen=True, kw_only=True)
class CAM(Loss):
    """Class activation maps (Zhang et al. 2023). For several labels per image, and where explanations matter."""

    name = "cam"
    reads = ("level4",)

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`cam` of the deepest maps and the classifiers."""
        parts = []
        for outputs in (student, teacher):
            last = feature(outputs, "level4")
            parts += [last, classifier_of(outputs, last.shape[1])]
        return cam(*parts, known=given.known)


@dataclass(frozen=True, kw_only=True)
class SimKD(Loss):
    """The teacher's classifier on projected student features (Chen et al. 2022, "SimKD"). Needs no labels.

    The projector is linear, so that it and the teacher's classifier fold into one linear layer
    (`cxr_distill.losses.adapters.ReusedClassifier.folded`); the paper's is a three-layer bottleneck on the maps.
    """

    name = "simkd"
    task_weight = 0.0
    reads = ("pooled",)
    teaches_answers = True

    def adapter(self, student: Interface, teacher: Interface) -> nn.Module:
        """The projector, and the teacher's classifier behind it."""
        return ReusedClassifier(student.channels_of("pooled"), teacher.channels_of("pooled"), teacher.classifier)

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`fitnets` of the projected features: their squared distance to what the teacher's classifier reads."""
        own, its = feature(student, "pooled"), feature(teacher, "pooled")
        return fitnets(regress(given.required_adapter(self.name).projector, own, its), its)


@in_float32
def reviewkd(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss: features agree at full size and when pooled to 4×4, 2×2 and 1×1.

    With A_l average pooling to l×l and weights v = 1 at full size, then 1/2, 1/4, 1/8 for the l in (4, 2, 1)
    smaller than the map, in that order:

        loss = Σ over levels of  Σ_l v_l · mean (A_l(f_s) - A_l(f_t))² / Σ_l v_l

    Chen et al. 2021, "Distilling knowledge via knowledge review", §3.3; v as in the authors' code.

    Args:
        student: f_s of each level after fusion (`cxr_distill.losses.adapters.ReviewFusion`), (B, C, H, W).
        teacher: f_t of each level, the same shapes.

    Returns:
        Scalar >= 0, 0 when equal.
    """
    total = student[0].new_zeros(())
    for own, its in zip(student, teacher, strict=True):
        _same_shape("reviewkd", own, its)
        its = its.detach()
        loss, weight, weights = F.mse_loss(own, its), 1.0, 1.0
        for level in (4, 2, 1):
            if level < min(own.shape[2:]):
                weight /= 2
                weights += weight
                loss = loss + weight * F.mse_loss(resize(own, (level, level)), resize(its, (level, level)))
        total = total + loss / weights
    return total


@dataclass(frozen=True, kw_only=True)
class ReviewKD(Loss):
    """All levels, each fused with the deeper ones (Chen et al. 2021). For networks of one family; costly."""

    name = "reviewkd"
    headless = True
    reads = LEVELS

    middle: int = 256

    def adapter(self, student: Interface, teacher: Interface) -> nn.Module:
        """The fusion of the student's levels."""
        own = [student.channels_of(name) for name in LEVELS]
        return ReviewFusion(own, [teacher.channels_of(name) for name in LEVELS], middle=min(self.middle, own[-1]))

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`reviewkd` of the student's fused levels, at the teacher's sizes."""
        its = [feature(teacher, name) for name in LEVELS]
        fused = given.required_adapter(self.name)([feature(student, name) for name in LEVELS])
        own = [regress(None, mine, target) for mine, target in zip(fused, its, strict=True)]
        return reviewkd(own, its)


@in_float32
def crd(student: Tensor, teacher: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Contrastive representation distillation with the rest of the batch as negatives.

    With unit embeddings g, s_ij = g_s,i · g_t,j / τ, N = B - 1 negatives an image, and the density ratio of a
    pair r_ij = e^{s_ij} / mean_{i≠j} e^{s_ij}:

        h_ij = r_ij / (r_ij + N)        probability that i and j are one image
        loss = -(1/B) Σ_i [ ln h_ii + Σ_{j≠i} ln(1 - h_ij) ]

    Tian et al. 2020, "Contrastive representation distillation", the critic loss L_critic. The paper draws N
    from a memory of the whole data set and holds the normaliser (N / M there) at its first estimate; here
    both come from the batch, the normaliser without gradient. Labels are not used.

    Args:
        student: g_s, (B, D), scaled to length 1 here.
        teacher: g_t, (B, D), likewise. Not detached: the teacher's embedding is learnt too, so it is its
            input, the teacher's features, that must carry no gradient.
        temperature: τ > 0.

    Returns:
        Scalar >= 0; 0 for a single image, which has no negatives.
    """
    _same_shape("crd", student, teacher)
    batch = student.shape[0]
    scores = product(F.normalize(student, dim=1), F.normalize(teacher, dim=1).mT) / temperature
    if batch < 2:
        return 0 * scores.sum()
    pair = torch.eye(batch, dtype=torch.bool, device=scores.device)
    log_mean = torch.logsumexp(scores.detach().masked_fill(pair, -torch.inf).flatten(), dim=0) - math.log(
        batch * (batch - 1)
    )
    log_odds = scores - log_mean - math.log(batch - 1)
    return -F.logsigmoid(torch.where(pair, log_odds, -log_odds)).sum() / batch


@dataclass(frozen=True, kw_only=True)
class CRD(Loss):
    """Contrast of images (Tian et al. 2020). Widths may differ; no labels needed; better with large batches."""

    name = "crd"
    headless = True
    weight = 0.8
    compares_images = True
    reads = ("pooled",)

    temperature: float = 0.07
    width: int = 128

    def adapter(self, student: Interface, teacher: Interface) -> nn.Module:
        """The two embeddings."""
        return EmbeddingPair(student.channels_of("pooled"), teacher.channels_of("pooled"), self.width)

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`crd` of the embedded pooled features."""
        own, its = given.required_adapter(self.name)(feature(student, "pooled"), feature(teacher, "pooled"))
        return crd(own, its, temperature=self.temperature)


@in_float32
def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's pooled features point where the teacher's point; their length is free.

        loss = mean over images i of  1 - cos(P(f_s,i), f_t,i)

    The cosine distance of features, as in feature distillation of self-supervised networks (e.g. Fang et al. 2021,
    "SEED", §3, which compares directions alone).

    Args:
        student: P(f_s), (B, C_t).
        teacher: f_t, (B, C_t).

    Returns:
        Scalar in [0, 2], 0 when all point the same way. A zero vector has cosine 0.
    """
    _same_shape("pooled_cosine", student, teacher)
    return (1 - F.cosine_similarity(student, teacher.detach(), dim=1)).mean()


@dataclass(frozen=True, kw_only=True)
class PooledCosine(Loss):
    """Direction of the pooled features. For unlike architectures and few labels; can be cached."""

    name = "pooled_cosine"
    headless = True
    reads = ("pooled",)

    projector: bool | None = None

    def adapter(self, student: Interface, teacher: Interface) -> nn.Module | None:
        """A linear projector; by default (None) only where the widths differ."""
        own, its = student.channels_of("pooled"), teacher.channels_of("pooled")
        needed = own != its if self.projector is None else self.projector
        return nn.Linear(own, its) if needed else None

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`cosine` of the (projected) pooled features."""
        own, its = feature(student, "pooled"), feature(teacher, "pooled")
        return cosine(regress(given.adapter, own, its), its)


def _same_shape(loss: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"{loss} compares features of one shape, got {tuple(student.shape)} of the student and "
            f"{tuple(teacher.shape)} of the teacher; put an adapter between them"
        )
