"""A linear classifier on fixed features: computed once, then the classifier is fitted in seconds."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_common import inference
from cxr_common.models.features import POOLED, features
from cxr_common.models.zoo import GrayNetwork
from cxr_common.training.run_folder import RunFolder
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.progress import Progress
from cxr_data.files import whole_file
from cxr_data.machine import is_main
from cxr_distill.monitoring import score
from cxr_distill.teacher import linear_layer, put

PENALTIES = tuple(10.0**power for power in range(4, -6, -1))
"""Ridge penalties tried, strongest first, each from the solution before it."""

FEATURES = "features"
"""Folder within the run's that keeps the features of an unfinished one."""

_ITERATIONS = 60
_BATCH = 64
_PIECE = 32 * _BATCH  # images whose features are kept together: a stopped run loses one piece at most


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
        look: `pooled_features` of the network, a function of rows and of the folder that keeps them.
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
    kept = run.path / FEATURES if run.main else None
    x, x_val = (look(rows=r, kept=kept and kept / name) for name, r in (("train", rows), ("val", val_rows)))
    best: dict[str, Any] = {}
    heads = fit_heads(x, torch.from_numpy(targets[rows]), loss)
    for number, head in enumerate(heads, start=1):
        val = judge((x_val @ head.weight.T + head.bias).numpy(), teacher=None)
        run.log({"epoch": number, "penalty": head.penalty, "loss": head.loss, **val})
        if not best or score(val) > best["score"]:
            best = {"score": score(val), "epoch": number, "val": val, "head": head}
    put(layer, best["head"].weight, best["head"].bias)
    if run.main:
        area = "undefined" if best["val"]["val_auroc"] is None else f"{best['val']['val_auroc']:.4f}"
        print(
            f"{run.path.name}: of {len(heads)} ridge penalties from {PENALTIES[0]:g} to {PENALTIES[-1]:g}, "
            f"{best['head'].penalty:g} is best on validation images: AUROC {area}"
        )
    return best, time.perf_counter() - began


def pooled_features(
    network: GrayNetwork,
    cohort: Cohort,
    rows: NDArray[np.int64],
    size: int,
    precision: torch.dtype,
    kept: Path | None = None,
) -> Tensor:
    """What the network's classifier reads of whole images, in eval mode (BatchNorm too).

    Args:
        network: On its device.
        cohort: The cohort.
        rows: (M,) rows wanted, in this order.
        size: Edge the network takes.
        precision: Arithmetic of the forward pass.
        kept: Folder in which pieces that are complete are kept, and found again by a run that resumes.

    Returns:
        (M, C) float32.
    """
    pieces = [rows[start : start + _PIECE] for start in range(0, max(len(rows), 1), _PIECE)]
    files = [None if kept is None else kept / f"{number:05}.npy" for number in range(len(pieces))]
    there = [file is not None and file.exists() for file in files]
    done = sum(-(-len(piece) // _BATCH) for piece, known in zip(pieces, there, strict=True) if known)
    parts = []
    with Progress("features", 1, -(-len(rows) // _BATCH), start_step=done, show=is_main()) as bar:
        for piece, file, known in zip(pieces, files, there, strict=True):
            if known and file is not None:
                parts.append(np.load(file, allow_pickle=False))
                continue
            parts.append(
                inference.outputs(
                    _Pooled(network),
                    cohort.pixels,
                    piece,
                    size,
                    batch_size=_BATCH,
                    precision=precision,
                    on_batch=lambda count: bar.step(images=count),
                )
            )
            if file is not None:
                with whole_file(file) as out:
                    np.save(out, parts[-1], allow_pickle=False)
    return torch.from_numpy(np.concatenate(parts))


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


class _Pooled(nn.Module):
    def __init__(self, network: GrayNetwork):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return features(self.network, pixels, (POOLED,))[1][POOLED]
