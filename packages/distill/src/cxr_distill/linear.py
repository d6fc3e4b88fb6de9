"""A linear classifier on fixed features: computed once, then the classifier is fitted in seconds."""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_common import inference
from cxr_common.models.features import POOLED, features
from cxr_common.models.zoo import GrayNetwork
from cxr_common.training.run_folder import RunFolder
from cxr_data.cohort import Cohort
from cxr_data.progress import Progress
from cxr_distill.monitoring import score
from cxr_distill.teacher import linear_layer

PENALTIES = tuple(10.0**power for power in range(1, -6, -1))
"""Ridge penalties tried, strongest first, each from the solution before it."""

_ITERATIONS = 60
_BATCH = 64


class Head(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: (L, C).
        bias: (L,).
        penalty: The ridge penalty it was fitted with.
        loss: Mean loss on the labels of the training images.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    loss: float


def fit(
    network: GrayNetwork,
    look: Callable[..., Tensor],
    rows: NDArray[np.int64],
    val_rows: NDArray[np.int64],
    targets: NDArray[np.float32],
    loss: Callable[[Tensor, Tensor], Tensor],
    judge: Callable[..., dict[str, float | None]],
    run: RunFolder,
) -> tuple[dict[str, Any], float]:
    """Fit the classifier alone, for every penalty; keep the one with the best validation AUROC.

    Args:
        network: Its last layer is replaced.
        look: `pooled_features` of the network, a function of rows.
        rows: Training rows.
        val_rows: Validation rows.
        targets: (N, L) of the whole cohort, NaN where unknown.
        loss: Loss on the labels, of logits and targets.
        judge: Validation figures of (N_val, L) logits.
        run: The run folder; every penalty is a line of its log.

    Returns:
        "epoch" (number of the penalty), "score", "val" and "head" of the best; and the seconds it took.

    Raises:
        BadInput: A network that does not end in a linear layer.
    """
    began = time.perf_counter()
    layer = linear_layer(network, "a network for --mode linear")
    run.truncate_log(0)
    x, x_val = look(rows=rows), look(rows=val_rows)
    best: dict[str, Any] = {}
    heads = fit_heads(x, torch.from_numpy(targets[rows]), loss)
    for number, head in enumerate(heads, start=1):
        val = judge((x_val @ head.weight.T + head.bias).numpy(), teacher=None)
        run.log({"epoch": number, "penalty": head.penalty, "loss": head.loss, **val})
        if not best or score(val) > best["score"]:
            best = {"score": score(val), "epoch": number, "val": val, "head": head}
    put(best["head"], layer)
    if run.main:
        area = "undefined" if best["val"]["val_auroc"] is None else f"{best['val']['val_auroc']:.4f}"
        print(
            f"{run.path.name}: of {len(heads)} ridge penalties from {PENALTIES[0]:g} to {PENALTIES[-1]:g}, "
            f"{best['head'].penalty:g} is best on validation images: AUROC {area}"
        )
    return best, time.perf_counter() - began


def pooled_features(
    network: GrayNetwork, cohort: Cohort, rows: NDArray[np.int64], size: int, precision: torch.dtype
) -> Tensor:
    """What the network's classifier reads of whole images, (M, C) float32, in eval mode (BatchNorm too)."""
    steps = -(-len(rows) // _BATCH)
    with Progress("features", 1, steps, show=os.environ.get("RANK", "0") == "0") as bar:
        found = inference.outputs(
            _Pooled(network),
            cohort.pixels,
            rows,
            size,
            batch_size=_BATCH,
            precision=precision,
            on_batch=lambda count: bar.step(images=count),
        )
    return torch.from_numpy(found)


def fit_heads(x: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> list[Head]:
    """Fit a classifier for every penalty, by L-BFGS on standardised features.

        minimise over V, b:  loss(V x̂ + b, y) + penalty / 2 · ‖V‖² / C,   x̂ = (x - mean) / std

    Args:
        x: Features of the training images, (M, C) float32.
        targets: (M, L), NaN where unknown.
        loss: Loss on the labels, of logits and targets.

    Returns:
        One classifier for each of `PENALTIES`, on the features as they come.
    """
    mean, std = x.mean(dim=0), x.std(dim=0, unbiased=False)
    # A constant feature says nothing; dividing by its rounding noise would say a lot.
    inverse = torch.where(std > 1e-6 * (mean.abs() + 1e-12), 1 / std.clamp(min=1e-30), 0)
    standard = (x - mean) * inverse
    weight = torch.zeros(targets.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    heads = []
    for penalty in PENALTIES:
        solver = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

        def objective(solver: torch.optim.LBFGS = solver, penalty: float = penalty) -> Tensor:
            solver.zero_grad()
            value = loss(standard @ weight.T + bias, targets) + penalty / 2 * weight.square().sum() / x.shape[1]
            value.backward()
            return value

        solver.step(objective)
        with torch.no_grad():
            value = float(loss(standard @ weight.T + bias, targets))
            own = weight * inverse
            heads.append(Head(own.clone(), bias - own @ mean, penalty, value))
    return heads


def put(head: Head, layer: nn.Linear) -> None:
    """Give a linear layer this classifier."""
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        if layer.bias is not None:
            layer.bias.copy_(head.bias)


class _Pooled(nn.Module):
    def __init__(self, network: GrayNetwork):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return features(self.network, pixels, (POOLED,))[1][POOLED]
