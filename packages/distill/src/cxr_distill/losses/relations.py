"""Distillation losses on relations: images that are alike to the teacher are alike to the student.

Shapes: features are (B, C) or anything that flattens to it, B images; the student's and the teacher's C may
differ, so that no adapter is wanted. No gradient goes to the teacher. Labels take part in `led` alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr_distill.losses.base import Given, Loss, Outputs, classifier_of, feature
from cxr_distill.losses.precision import double, in_float32, product


@in_float32
def rkd(student: Tensor, teacher: Tensor, *, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Relational distillation: distances and angles between images are kept.

    With d_ij = ‖f_i - f_j‖₂, μ the mean of d over the pairs i ≠ j, c_ijk the cosine of the angle at j in the
    triangle i, j, k, and Huber's l(a, b) = (a - b)² / 2 where |a - b| <= 1, else |a - b| - 1/2:

        loss = w_d · mean over i ≠ j of  l(d_s,ij / μ_s, d_t,ij / μ_t)
             + w_a · mean over distinct i, j, k of  l(c_s,ijk, c_t,ijk)

    Park et al. 2019, "Relational knowledge distillation", §3.2 (RKD-D, RKD-A). The cosine comes from the law
    of cosines, which needs B³ numbers, not B² · C; where two images coincide it is 0.

    Args:
        student: f_s, (B, C_s).
        teacher: f_t, (B, C_t).
        distance: w_d.
        angle: w_a.

    Returns:
        Scalar >= 0, 0 when the student's features are the teacher's moved, turned or scaled. A single image
        has no distance and two have no angle: those terms are then 0.
    """
    d_s, d_t = _distances(student.flatten(1)), _distances(teacher.detach().flatten(1))
    other = ~torch.eye(len(d_s), dtype=torch.bool, device=d_s.device)
    total = distance * _masked_huber(_scaled(d_s, other), _scaled(d_t, other), other) / other.sum().clamp(min=1)
    if angle:
        distinct = other[:, :, None] & other[None, :, :] & other[:, None, :]
        apart = _masked_huber(_cosines(d_s), _cosines(d_t), distinct)
        total = total + angle * apart / distinct.sum().clamp(min=1)
    return total


@dataclass(frozen=True, kw_only=True)
class RKD(Loss):
    """Distances and angles between images (Park et al. 2019). Widths may differ; for unlike architectures."""

    name = "rkd"
    headless = True
    compares_images = True
    reads = ("pooled",)

    distance: float = 25.0
    angle: float = 50.0

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`rkd` of pooled features."""
        return rkd(feature(student, "pooled"), feature(teacher, "pooled"), distance=self.distance, angle=self.angle)


@in_float32
def pkt(student: Tensor, teacher: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Probabilistic knowledge transfer: each image's share of likeness to the others is kept.

    With K_ij = (cos(f_i, f_j) + 1) / 2 and P_ij = K_ij / Σ_j K_ij:

        loss = (1/B²) Σ_ij P_t,ij ln((P_t,ij + eps) / (P_s,ij + eps))

    Passalis and Tefas 2018, "Learning deep representations with probabilistic knowledge transfer", the
    Kullback-Leibler divergence of cosine affinities; mean over B² as in the authors' code, to which the
    weight 30000 belongs.

    Args:
        student: f_s, (B, C_s).
        teacher: f_t, (B, C_t).
        eps: Keeps the logarithm of an opposite pair (K = 0) finite.

    Returns:
        Scalar, 0 when the affinities are the same.
    """

    def affinities(features: Tensor) -> Tensor:
        # In float64: the affinities of nearly equal images differ by less than float32 keeps of a number near 1.
        unit = F.normalize(double(features).flatten(1), dim=1)
        kernel = ((product(unit, unit.mT) + 1) / 2).clamp(min=0)
        return kernel / kernel.sum(dim=1, keepdim=True)

    p_s, p_t = affinities(student), affinities(teacher.detach())
    return (p_t * ((p_t + eps).log() - (p_s + eps).log())).mean().to(student.dtype)


@dataclass(frozen=True, kw_only=True)
class PKT(Loss):
    """Likeness of images as probabilities (Passalis and Tefas 2018). Widths may differ; few labels."""

    name = "pkt"
    headless = True
    weight = 30000.0
    compares_images = True
    reads = ("pooled",)

    eps: float = 1e-7

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`pkt` of pooled features."""
        return pkt(feature(student, "pooled"), feature(teacher, "pooled"), eps=self.eps)


@in_float32
def sp(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity-preserving distillation: the batch's similarity matrix is kept.

    With F (B, C·H·W) the flattened features, G = F Fᵀ, (B, B), and Ĝ its rows scaled to length 1:

        loss = ‖Ĝ_t - Ĝ_s‖²_F / B²

    Tung and Mori 2019, "Similarity-preserving knowledge distillation", §3, the definition of L_SP.

    Args:
        student: f_s, (B, ...).
        teacher: f_t, (B, ...).

    Returns:
        Scalar >= 0, 0 when the similarities are the same.
    """

    def similarities(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        return F.normalize(product(flat, flat.mT), dim=1)

    return F.mse_loss(similarities(student), similarities(teacher.detach()))


@dataclass(frozen=True, kw_only=True)
class SP(Loss):
    """Gram matrix of the batch (Tung and Mori 2019). Widths and map sizes may differ; no labels needed."""

    name = "sp"
    headless = True
    weight = 3000.0
    compares_images = True

    feature: str = "level4"

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`sp` of the maps or pooled features."""
        return sp(feature(student, self.feature), feature(teacher, self.feature))


def label_embeddings(pooled: Tensor, weight: Tensor) -> Tensor:
    """What of an image's features speaks for each label.

        e_ik = W_k ∘ f_i        (so that Σ_c e_ikc is the logit less its bias)

    Args:
        pooled: f, features the classifier reads, (B, C).
        weight: W, of the classifier, (L, C).

    Returns:
        e, (B, L, C).
    """
    if pooled.shape[1] != weight.shape[1]:
        raise ValueError(f"features of {pooled.shape[1]} channels do not fit a classifier of {weight.shape[1]}")
    return pooled[:, None, :] * weight[None, :, :]


@in_float32
def led(
    student: Tensor, teacher: Tensor, targets: Tensor, *, by_class: float = 100.0, by_instance: float = 1000.0
) -> Tensor:
    """Label-wise embedding distillation: distances among the embeddings of labels that are present are kept.

    With P_k the images that have label k, Q_i the labels image i has, φ the distance of two embeddings over
    the mean distance of their group's pairs, and l Huber's loss as in `rkd`:

        loss = λ_class    Σ_k (1/|P_k|) Σ_{i,j in P_k} l(φ(e_s,ik, e_s,jk), φ(e_t,ik, e_t,jk))
             + λ_instance Σ_i (1/|Q_i|) Σ_{k,m in Q_i} l(φ(e_s,ik, e_s,im), φ(e_t,ik, e_t,im))

    Yang et al. 2023, "Multi-label knowledge distillation" (L2D), class-aware and instance-aware label-wise
    embedding distillation; scaled and summed as in the authors' code, to which the weights 100 and 1000
    belong. There a decoder makes the embeddings; here `label_embeddings` takes them from the classifier
    itself.

    Args:
        student: e_s, (B, L, C_s).
        teacher: e_t, (B, L, C_t).
        targets: (B, L); a label is present where the target is 1. Unknown ones (NaN) are left out.
        by_class: λ_class.
        by_instance: λ_instance.

    Returns:
        Scalar >= 0, 0 when the distances are proportional. It grows with the batch.
    """
    present = targets == 1
    teacher = teacher.detach()
    across_images = _group_relations(student.transpose(0, 1), teacher.transpose(0, 1), present.T)
    across_labels = _group_relations(student, teacher, present)
    return by_class * across_images + by_instance * across_labels


@dataclass(frozen=True, kw_only=True)
class LED(Loss):
    """Relations of label-wise embeddings (Yang et al. 2023). For many labels, several per image."""

    name = "led"
    tasks = ("multilabel",)
    compares_images = True
    reads = ("pooled",)

    by_class: float = 100.0
    by_instance: float = 1000.0

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`led` of the embeddings that each classifier makes of its pooled features."""
        own, its = _embeddings(student), _embeddings(teacher)
        return led(own, its, given.targets, by_class=self.by_class, by_instance=self.by_instance)


def _embeddings(outputs: Outputs) -> Tensor:
    pooled = feature(outputs, "pooled")
    return label_embeddings(pooled.float(), classifier_of(outputs, pooled.shape[1]).float())


def _group_relations(student: Tensor, teacher: Tensor, member: Tensor) -> Tensor:
    """Huber loss of scaled distances within groups: (G, N, C) embeddings, bool (G, N) members."""
    pairs = member[:, :, None] & member[:, None, :]
    pairs = pairs & ~torch.eye(member.shape[1], dtype=torch.bool, device=member.device)
    d_s, d_t = _scaled(_distances(student), pairs), _scaled(_distances(teacher), pairs)
    losses = torch.where(pairs, F.smooth_l1_loss(d_s, d_t, reduction="none"), 0).sum(dim=(1, 2))
    return (losses / member.sum(dim=1).clamp(min=1)).sum()


def _distances(points: Tensor) -> Tensor:
    """Euclidean distances (..., N, N) of points (..., N, C); 0, without gradient, where two coincide.

    Products are far faster than differences, and in float64 they do not lose the distances of near
    neighbours to rounding; radiographs are all near neighbours.
    """
    wide = double(points)
    products = product(wide, wide.mT)
    squares = products.diagonal(dim1=-2, dim2=-1)
    sums = squares[..., :, None] + squares[..., None, :]
    squared = sums - 2 * products
    apart = squared > 100 * torch.finfo(wide.dtype).eps * sums
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0).to(points.dtype)


def _scaled(distances: Tensor, pairs: Tensor) -> Tensor:
    """Distances (..., N, N) over their mean among the pairs given; 0 where all of these are 0."""
    mean = torch.where(pairs, distances, 0).sum(dim=(-2, -1)) / pairs.sum(dim=(-2, -1)).clamp(min=1)
    return distances / torch.where(mean > 1e-12, mean, 1)[..., None, None]


def _cosines(d: Tensor) -> Tensor:
    """Cosine at j of the triangle i, j, k from distances (N, N): (N, N, N) indexed i, j, k."""
    sides = d[:, :, None] * d[None, :, :]
    cosine = (d.square()[:, :, None] + d.square()[None, :, :] - d.square()[:, None, :]) / (
        2 * torch.where(sides > 0, sides, 1)
    )
    return torch.where(sides > 0, cosine.clamp(-1, 1), 0)


def _masked_huber(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, F.smooth_l1_loss(a, b, reduction="none"), 0).sum()
