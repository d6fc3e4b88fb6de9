"""Sinkhorn codes for SwAV, computed with logarithms so that they never overflow."""

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Turn scores into codes that use every prototype equally often over the batch.

    SwAV (Caron et al. 2020, arXiv 2006.09882, eq. 3-5) seeks Q = Diag(u) exp(S / eps) Diag(v) whose
    prototypes each receive the same total weight and whose images each give out a total of 1. Alternately,
    `iterations` times:

        log Q[b, k] <- log Q[b, k] - logsumexp over all images of log Q[., k]        (equal prototypes)
        log Q[b, k] <- log Q[b, k] - logsumexp over prototypes of log Q[b, .]        (a code sums to 1)

    starting from log Q = S / eps. The paper's factors 1/K and 1/B cancel in the second line. Multiplying
    plain exponentials instead gives inf/inf or 0/0 for large scores, small eps or collapsed features; sums of
    logarithms do not.

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
    for _ in range(iterations):
        log_q = log_q - _logsumexp_over_images(log_q)
        log_q = log_q - torch.logsumexp(log_q, dim=1, keepdim=True)
    return log_q.exp()


def _logsumexp_over_images(log_q: Tensor) -> Tensor:
    """Logsumexp over the rows (B, K) of every process; (1, K), the same on all of them."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return torch.logsumexp(log_q, dim=0, keepdim=True)
    highest = log_q.amax(dim=0, keepdim=True)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    total = (log_q - highest).exp().sum(dim=0, keepdim=True)
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return highest + total.log()
