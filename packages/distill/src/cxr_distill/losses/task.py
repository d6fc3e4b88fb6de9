"""Losses on labels: softmax for one class an image, sigmoid for any number of findings an image.

Shapes, for all: ``logits`` z (B, L) and ``targets`` y (B, L), B images and L labels, y in [0, 1] or NaN where
the label is unknown. A NaN takes no part: not in the sum, not in the count it is divided by, not in the
gradient. Where nothing is known the loss is 0. The result is a float32 scalar, the mean over what is known.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr_distill.losses.precision import in_float32


@in_float32
def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Softmax cross-entropy with one-hot (or mixed) targets.

    With q = (1 - ε) y + ε / L and p = softmax(z):

        loss = Σ_i Σ_k w_k q_ik (-ln p_ik) / Σ_i Σ_k w_k y_ik        over the labelled images i

    Label smoothing ε: Szegedy et al. 2016, "Rethinking the Inception architecture", §7.

    Args:
        logits: z, (B, L).
        targets: y, (B, L), rows summing to 1. A row with a NaN is an unlabelled image.
        label_smoothing: ε in [0, 1).
        class_weights: w, (L,), positive; all 1 when None.

    Returns:
        Scalar, weighted mean over the labelled images.
    """
    known = known_rows(targets)
    y = torch.where(known[:, None], targets, 0).to(logits.dtype)
    weights = torch.ones_like(y[0]) if class_weights is None else class_weights.to(logits)
    smooth = torch.where(known[:, None], (1 - label_smoothing) * y + label_smoothing / y.shape[1], 0)
    total = -(weights * smooth * F.log_softmax(logits, dim=1)).sum()
    count = (weights * y).sum()
    return total / torch.where(count > 0, count, 1)


@in_float32
def binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, pos_weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Sigmoid cross-entropy, every label a yes-or-no question of its own.

    With q = (1 - ε) y + ε / 2:

        loss = mean over known (i, k) of  -[ w_k q_ik ln σ(z_ik) + (1 - q_ik) ln σ(-z_ik) ]

    Args:
        logits: z, (B, L).
        targets: y, (B, L), NaN where unknown.
        pos_weight: w, (L,), weight of the positive term, e.g. negatives / positives; all 1 when None.
        label_smoothing: ε in [0, 1).

    Returns:
        Scalar, mean over the known labels.
    """
    known, y = _known_and_filled(logits, targets)
    y = (1 - label_smoothing) * y + label_smoothing / 2
    positive = y if pos_weight is None else pos_weight.to(logits) * y
    return mean_known(-(positive * F.logsigmoid(logits) + (1 - y) * F.logsigmoid(-logits)), known)


@in_float32
def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, alpha: float | None = 0.25) -> Tensor:
    """Sigmoid focal loss: what is already right counts little.

    With p = σ(z), p_t = p and α_t = α for a positive, p_t = 1 - p and α_t = 1 - α for a negative:

        loss = mean over known (i, k) of  -α_t (1 - p_t)^γ ln p_t

    Lin et al. 2017, "Focal loss for dense object detection", eq. 5 (eq. 4 when α is None), defaults as there.
    A target between 0 and 1 weighs the positive and the negative term.

    Args:
        logits: z, (B, L).
        targets: y, (B, L), NaN where unknown.
        gamma: γ >= 0; 0 gives the (α-weighted) cross-entropy.
        alpha: α in (0, 1), weight of the positives; None for 1 on both sides.

    Returns:
        Scalar, mean over the known labels.
    """
    known, y = _known_and_filled(logits, targets)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    # (1 - p)^γ as exp(γ ln(1 - p)): its gradient stays finite at p = 1 for every γ.
    positive = -torch.exp(gamma * log_not_p) * log_p
    negative = -torch.exp(gamma * log_p) * log_not_p
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return mean_known(y * positive + (1 - y) * negative, known)


@in_float32
def focal_softmax(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss for one class an image.

    With p = softmax(z):   loss = mean over labelled images i of  -Σ_k y_ik (1 - p_ik)^γ ln p_ik

    Lin et al. 2017, eq. 4, with the softmax in the place of the sigmoid.

    Args:
        logits: z, (B, L).
        targets: y, (B, L), rows summing to 1. A row with a NaN is an unlabelled image.
        gamma: γ >= 0; 0 gives the cross-entropy.

    Returns:
        Scalar, mean over the labelled images.
    """
    known = known_rows(targets)
    y = torch.where(known[:, None], targets, 0).to(logits.dtype)
    log_p = F.log_softmax(logits, dim=1)
    wrong = (-torch.expm1(log_p)).clamp(min=1e-12)  # 1 - p; above 0, where a power has no gradient
    return mean_known(-(y * wrong**gamma * log_p).sum(dim=1), known)


@in_float32
def asymmetric(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
) -> Tensor:
    """Asymmetric loss: easy negatives count less than easy positives, very easy ones not at all.

    With p = σ(z) and p_m = max(p - m, 0):

        loss = mean over known (i, k) of  -[ y (1 - p)^γ₊ ln p + (1 - y) p_m^γ₋ ln(1 - p_m) ]

    Ridnik et al. 2021, "Asymmetric loss for multi-label classification", §2.2-2.4, defaults as there.

    Args:
        logits: z, (B, L).
        targets: y, (B, L), NaN where unknown.
        gamma_positive: γ₊ >= 0.
        gamma_negative: γ₋ >= 0.
        margin: m in [0, 1), probability below which a negative is left alone.

    Returns:
        Scalar, mean over the known labels (the authors' code sums; a mean does not move with the batch size).
    """
    known, y = _known_and_filled(logits, targets)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive = -torch.exp(gamma_positive * log_not_p) * log_p
    shifted = torch.sigmoid(logits) - margin
    live = shifted > 0
    # Both branches of a `where` are differentiated: give the dead one a harmless number to work on.
    power = torch.where(live, torch.where(live, shifted, 1) ** gamma_negative, 0)
    log_rest = torch.log((torch.sigmoid(-logits) + margin).clamp(max=1)) if margin > 0 else log_not_p
    return mean_known(y * positive - (1 - y) * power * log_rest, known)


def known_labels(targets: Tensor) -> Tensor:
    """Which labels are known: bool (B, L), False where the target is NaN."""
    return ~torch.isnan(targets)


def known_rows(targets: Tensor) -> Tensor:
    """Which images have all their labels: bool (B,), False where a target of the row is NaN."""
    return ~torch.isnan(targets).any(dim=1)


def mean_known(values: Tensor, known: Tensor | None) -> Tensor:
    """Mean of the values that are known, 0 where none is.

    Args:
        values: Any shape, finite.
        known: Bool, the same shape; None when all are.

    Returns:
        Scalar.
    """
    if known is None:
        return values.mean()
    return torch.where(known, values, 0).sum() / known.sum().clamp(min=1)


def _known_and_filled(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    known = known_labels(targets)
    return known, torch.where(known, targets, 0).to(logits.dtype)
