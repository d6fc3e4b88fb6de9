"""Distillation losses on logits: the student's answers become the teacher's.

Shapes, for all: ``student`` z_s and ``teacher`` z_t are logits (B, L), B images and L labels. No gradient
goes to the teacher. ``known`` marks what takes part: images, bool (B,), in the softmax losses; labels, bool
(B, L), in the sigmoid losses; everything when None. Where nothing is known the loss is 0. T is the
temperature, above 0.

Softmax losses are for one class an image. On multi-label logits they teach the wrong thing, since there the
probabilities of an image do not add up to 1: use the sigmoid losses.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr_distill.losses.base import Given, Loss, Outputs
from cxr_distill.losses.precision import in_float32
from cxr_distill.losses.task import known_rows, mean_known


@in_float32
def standardise_logits(logits: Tensor, *, ddof: int = 0, eps: float = 1e-3) -> Tensor:
    """Centre and scale the logits of each image, so that only their pattern is taught, not their size.

        Z(z)_ik = (z_ik - mean_k z_ik) / sqrt(var_k z_ik + eps²),   var = Σ_k (z_ik - mean_k z_ik)² / (L - ddof)

    Sun et al. 2024, "Logit standardization in knowledge distillation", the weighted Z-score (the temperature
    is applied afterwards). The paper's formula divides by L, its authors' code by L - 1, which makes the
    standardised logits smaller by sqrt((L - 1) / L): 18 % with three classes, 4 % with fourteen. With two labels
    every image becomes (-1, 1) or (1, -1) times a constant: nothing but the teacher's decision is left, so it is
    of use from three labels up.

    Args:
        logits: z, (B, L).
        ddof: Delta degrees of freedom: 0 for the paper's formula, 1 for the authors' code.
        eps: Bounds the gradient where all logits of an image are equal, as those of a classifier that starts
            from zero are; of no effect at the size logits have later.

    Returns:
        (B, L).
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / max(logits.shape[1] - ddof, 1)
    return centred / (variance + eps**2).sqrt()


@in_float32
def kd(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    scale_by_t2: bool = True,
    standardise: bool = False,
    ddof: int = 0,
    known: Tensor | None = None,
) -> Tensor:
    """Knowledge distillation of softened class probabilities.

    With p = softmax(z / T):   loss = T² · mean over images i of  Σ_k p_t,ik (ln p_t,ik - ln p_s,ik)

    Hinton et al. 2015, "Distilling the knowledge in a neural network", eq. 1; gradients shrink with 1/T²
    (eq. 4), hence the factor. Desbele 2025, (1 - α) · KL + α · cross-entropy, states
    no such factor: ``scale_by_t2=False`` (`PlainKD`). The
    mean is over images, not over images and classes, which would shrink the loss by L unseen.

    Args:
        student: z_s, (B, L).
        teacher: z_t, (B, L).
        temperature: T.
        scale_by_t2: Whether to multiply by T².
        standardise: Whether to pass both logits through `standardise_logits` first.
        ddof: Of `standardise_logits`.
        known: (B,).

    Returns:
        Scalar >= 0, 0 when both give the same probabilities.
    """
    if standardise:
        student, teacher = standardise_logits(student, ddof=ddof), standardise_logits(teacher, ddof=ddof)
    log_s = F.log_softmax(student / temperature, dim=1)
    log_t = F.log_softmax(teacher.detach() / temperature, dim=1)
    divergence = (log_t.exp() * (log_t - log_s)).sum(dim=1)
    return mean_known(divergence, known) * (temperature**2 if scale_by_t2 else 1.0)


@dataclass(frozen=True, kw_only=True)
class KD(Loss):
    """Softened class probabilities (Hinton et al. 2015). The first choice between two classes."""

    name = "kd"
    weight = 0.9
    task_weight = 0.1
    tasks = ("multiclass",)
    instead = "multilabel_kd"

    temperature: float = 4.0
    scale_by_t2: bool = True

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`kd` of the logits."""
        return kd(student.logits, teacher.logits, known=given.known_images, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class PlainKD(KD):
    """`KD` without the factor T². To repeat work that states no such factor (Desbele 2025)."""

    name = "kd_plain"

    scale_by_t2: bool = False


@dataclass(frozen=True, kw_only=True)
class StandardisedKD(Loss):
    """`kd` of standardised logits (Sun et al. 2024). For a teacher with much larger logits than the student."""

    name = "kd_standardised"
    weight = 9.0
    tasks = ("multiclass",)
    instead = "multilabel_kd"
    least_labels = 3  # two standardised logits are 1 and -1, whatever the networks say

    temperature: float = 2.0
    ddof: int = 0

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`kd` of the logits."""
        return kd(student.logits, teacher.logits, standardise=True, known=given.known_images, **asdict(self))


@in_float32
def multilabel_kd(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, known: Tensor | None = None) -> Tensor:
    """Knowledge distillation of each label's own probability.

    With p = σ(z / T), KL_ik = p_t ln(p_t / p_s) + (1 - p_t) ln((1 - p_t) / (1 - p_s)) at (i, k):

        loss = T² · mean over images i of  Σ_k KL_ik

    Yang et al. 2023, "Multi-label knowledge distillation" (L2D), the multi-label logits distillation L_MLD,
    which has T = 1; T² as in Hinton et al. 2015. Computed from ln σ, so that it stays finite where a
    probability is 0.

    Args:
        student: z_s, (B, L).
        teacher: z_t, (B, L).
        temperature: T.
        known: (B, L); an image of which nothing is known is not counted.

    Returns:
        Scalar >= 0, 0 when both give the same probabilities.
    """
    z_s, z_t = student / temperature, teacher.detach() / temperature
    p_t = torch.sigmoid(z_t)
    divergence = p_t * (F.logsigmoid(z_t) - F.logsigmoid(z_s))
    divergence = divergence + torch.sigmoid(-z_t) * (F.logsigmoid(-z_t) - F.logsigmoid(-z_s))
    if known is not None:
        divergence = torch.where(known, divergence, 0)
    return mean_known(divergence.sum(dim=1), None if known is None else known.any(dim=1)) * temperature**2


@dataclass(frozen=True, kw_only=True)
class MultilabelKD(Loss):
    """Every label's own probability (Yang et al. 2023). The first choice for several labels per image."""

    name = "multilabel_kd"
    weight = 1.0  # published with 10, beside labels that are summed; beside a mean, 10 leaves nothing to them
    tasks = ("multilabel",)
    instead = "kd"

    temperature: float = 1.0

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`multilabel_kd` of the logits."""
        return multilabel_kd(student.logits, teacher.logits, temperature=self.temperature, known=given.known)


@in_float32
def dkd(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 0.5,
    standardise: bool = False,
    ddof: int = 0,
) -> Tensor:
    """Decoupled knowledge distillation: the class itself and the other classes are taught apart.

    With p = softmax(z / T), c the class of image i, b = (p_c, 1 - p_c) and p̂_k = p_k / (1 - p_c) for k ≠ c:

        loss = T² · mean over images of  α KL(b_t ‖ b_s) + β KL(p̂_t ‖ p̂_s)

    Zhao et al. 2022, "Decoupled knowledge distillation", §3, α TCKD + β NCKD; α 1, β 0.5 to 8 in use. With
    two classes the second term is 0, since only one other class is left.

    Args:
        student: z_s, (B, L), L >= 2.
        teacher: z_t, (B, L).
        targets: (B, L), one-hot; the largest of a mixed row is taken. A row with a NaN is left out, having
            no c.
        temperature: T.
        alpha: Weight of the target class term.
        beta: Weight of the term on the other classes.
        standardise: Whether to pass both logits through `standardise_logits` first.
        ddof: Of `standardise_logits`.

    Returns:
        Scalar >= 0, 0 when both give the same probabilities.
    """
    if standardise:
        student, teacher = standardise_logits(student, ddof=ddof), standardise_logits(teacher, ddof=ddof)
    known = known_rows(targets)
    chosen = targets.nan_to_num().argmax(dim=1)
    own = torch.zeros_like(student, dtype=torch.bool).scatter_(1, chosen[:, None], True)

    def decoupled(logits: Tensor) -> tuple[Tensor, Tensor]:
        everything = F.log_softmax(logits / temperature, dim=1)
        rest = everything.masked_fill(own, -torch.inf)
        binary = torch.stack([everything.masked_fill(~own, 0).sum(dim=1), torch.logsumexp(rest, dim=1)], dim=1)
        return binary, F.log_softmax(rest, dim=1).masked_fill(own, 0)

    binary_s, others_s = decoupled(student)
    binary_t, others_t = decoupled(teacher.detach())
    tckd = (binary_t.exp() * (binary_t - binary_s)).sum(dim=1)
    nckd = (others_t.exp() * (others_t - others_s)).sum(dim=1)  # at the class itself 1 · (0 - 0)
    return mean_known(alpha * tckd + beta * nckd, known) * temperature**2


@dataclass(frozen=True, kw_only=True)
class DKD(Loss):
    """Target class and other classes weighted apart (Zhao et al. 2022). The first choice from three classes up."""

    name = "dkd"
    tasks = ("multiclass",)
    instead = "multilabel_kd"

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 0.5
    standardise: bool = False
    ddof: int = 0

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`dkd` of the logits."""
        return dkd(student.logits, teacher.logits, given.targets, **asdict(self))


@in_float32
def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    known: Tensor | None = None,
) -> Tensor:
    """DIST: the student's probabilities need only correlate with the teacher's.

    With P = softmax(z / T), (B, L), and ρ(a, b) = Σ ab / sqrt((Σ a² + e)(Σ b² + e)) of centred a and b, the
    Pearson correlation but for e = 1e-8:

        loss = T² · [ β (1 - mean_i ρ(P_s[i, :], P_t[i, :])) + γ (1 - mean_k ρ(P_s[:, k], P_t[:, k])) ]

    Huang et al. 2022, "Knowledge distillation from a stronger teacher", §4, the inter-class (rows) and
    intra-class (columns) relations; T² as in the authors' code. A row or column without spread correlates
    with nothing (ρ = 0). With two labels a row's ρ is always -1 or 1 and teaches nothing; the columns still
    do.

    Args:
        student: z_s, (B, L).
        teacher: z_t, (B, L).
        temperature: T.
        beta: Weight of the rows.
        gamma: Weight of the columns.
        known: (B,).

    Returns:
        Scalar in [0, 2 T² (β + γ)].
    """
    p_s = F.softmax(student / temperature, dim=1)
    p_t = F.softmax(teacher.detach() / temperature, dim=1)
    if known is None:
        known = torch.ones_like(p_s[:, 0], dtype=torch.bool)
    rows = mean_known(1 - _correlation(p_s, p_t, dim=1), known)
    columns = 1 - _correlation(p_s, p_t, dim=0, weights=known[:, None].to(p_s.dtype))
    columns = torch.where(known.any(), columns.mean(), 0)
    return (beta * rows + gamma * columns) * temperature**2


@dataclass(frozen=True, kw_only=True)
class DIST(Loss):
    """Correlation of class probabilities (Huang et al. 2022). For a teacher much stronger than the student."""

    name = "dist"
    tasks = ("multiclass",)
    instead = "multilabel_kd"
    least_labels = 3  # two probabilities of an image correlate by 1 or -1, whatever the networks say
    compares_images = True

    temperature: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0

    def compute(self, student: Outputs, teacher: Outputs, given: Given) -> Tensor:
        """`dist` of the logits."""
        return dist(student.logits, teacher.logits, known=given.known_images, **asdict(self))


def _correlation(a: Tensor, b: Tensor, dim: int, weights: Tensor | None = None) -> Tensor:
    """Pearson correlation of two matrices along an axis, of entries that weigh 1; 0 without spread."""
    if weights is None:
        weights = torch.ones_like(a)
    count = weights.sum(dim=dim, keepdim=True).clamp(min=1)
    a = (a - (weights * a).sum(dim=dim, keepdim=True) / count) * weights
    b = (b - (weights * b).sum(dim=dim, keepdim=True) / count) * weights
    # e bounds the gradient where logits are all equal, as those of a classifier that starts from zero are.
    spread = (a.square().sum(dim=dim) + 1e-8) * (b.square().sum(dim=dim) + 1e-8)
    return (a * b).sum(dim=dim) / spread.sqrt()
