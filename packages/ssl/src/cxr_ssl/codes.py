"""Sinkhorn codes for SwAV, by scaled exponentials where these are exact, and by logarithms where they are not."""

import torch
import torch.distributed as dist
from torch import Tensor

SMALL = 2**15
"""Scores below which the few operations of the logarithms take less time than the many of the exponentials."""


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Turn scores into codes that use every prototype equally often over the batch.

    SwAV (Caron et al. 2020, arXiv 2006.09882, eq. 3-5) seeks Q = Diag(u) exp(S / eps) Diag(v) whose
    prototypes each receive the same total weight and whose images each give out a total of 1. Alternately,
    `iterations` times:

        log Q[b, k] <- log Q[b, k] - logsumexp over all images of log Q[., k]        (equal prototypes)
        log Q[b, k] <- log Q[b, k] - logsumexp over prototypes of log Q[b, .]        (a code sums to 1)

    starting from log Q = S / eps. The paper's factors 1/K and 1/B cancel in the second line. Multiplying
    plain exponentials instead gives inf/inf or 0/0 for large scores, small eps or collapsed features. Here each
    prototype's largest exponential is 1, and the rest of Diag(u) and Diag(v) is kept apart from the matrix; where
    these grow so far that an exponential which vanished might count, sums of logarithms give the codes.

    With an initialised process group the images of all processes count as one batch (the sum over images is
    all-reduced), so the codes are those of one process holding everything. Processes may hold unequal
    numbers.

    Args:
        scores: (B, K) similarities of B embeddings and K prototypes; B images may include those of a queue.
        epsilon: Smoothness, > 0: smaller means sharper codes.
        iterations: Rounds of the two steps, at least 1 (the paper uses 3).

    Returns:
        (B, K) codes, rows summing to 1, float32 (float64 for float64 scores), without a gradient. Finite for
        finite scores; NaN scores give NaN codes.

    Raises:
        ValueError: If epsilon is not positive or there is no iteration.

    Examples:
        >>> import torch
        >>> from cxr_ssl import sinkhorn
        >>> codes = sinkhorn(torch.randn(60, 4), epsilon=0.5, iterations=50)
        >>> torch.allclose(codes.sum(dim=0), torch.full((4,), 15.0), atol=0.1)  # each prototype a quarter of 60
        True
    """
    if epsilon <= 0 or iterations < 1:
        raise ValueError(f"sinkhorn needs epsilon > 0 and iterations >= 1, got {epsilon} and {iterations}.")
    log_q = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    alone = log_q.numel() < SMALL and not _distributed()  # processes may hold unequal numbers, and must agree
    if alone or log_q.device.type != "cpu":  # where the exponentials' test would wait for the device
        return _by_logarithms(log_q, iterations)
    codes = _by_exponentials(log_q, iterations)
    return _by_logarithms(log_q, iterations) if codes is None else codes


def _by_exponentials(log_q: Tensor, iterations: int) -> Tensor | None:
    """Codes as u E v with E = exp(log Q - its largest value of each prototype); None where that is not exact.

    A value of E below the smallest normal number t may have vanished. Its share of a sum is at most
    t max(u) max(v), which must stay below a ten thousandth of the rounding error, for all u and v of the iterations.
    """
    number = torch.finfo(log_q.dtype)
    matrix = (log_q - _all_reduced(log_q.amax(dim=0), "MAX")).exp_()
    us, vs = [torch.ones_like(matrix[:, 0])], []
    for _ in range(iterations):
        vs.append(_all_reduced(matrix.t() @ us[-1], "SUM").reciprocal_())
        us.append((matrix @ vs[-1]).reciprocal_())
    growth = torch.cat(us).amax() * torch.cat(vs).amax()
    growth = _all_reduced(growth.nan_to_num(nan=torch.inf), "MAX")
    if not growth.item() < 1e-4 * number.eps / number.tiny:
        return None
    return matrix.mul_(vs[-1]).mul_(us[-1][:, None])


def _by_logarithms(log_q: Tensor, iterations: int) -> Tensor:
    """The same codes; log Q may have any finite value."""
    for _ in range(iterations - 1):
        log_q = _equal_prototypes(log_q).log_softmax(dim=1)
    return _equal_prototypes(log_q).softmax(dim=1)


def _equal_prototypes(log_q: Tensor) -> Tensor:
    """Log Q (B, K) less its logsumexp over the rows of every process."""
    if not _distributed():
        return log_q.log_softmax(dim=0)
    highest = _all_reduced(log_q.amax(dim=0), "MAX")
    return log_q - (highest + _all_reduced((log_q - highest).exp().sum(dim=0), "SUM").log())


def _all_reduced(value: Tensor, operation: str) -> Tensor:
    """The maximum or the sum over all processes, where there are several."""
    if _distributed():
        dist.all_reduce(value, op=getattr(dist.ReduceOp, operation))
    return value


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
