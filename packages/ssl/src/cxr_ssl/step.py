"""One step of training."""

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cxr_ssl.diagnostics import Monitor
from cxr_ssl.feature_queue import FeatureQueue
from cxr_ssl.sinkhorn import sinkhorn
from cxr_ssl.swav import SwAV, freeze_prototypes, normalise_prototypes, swapped_prediction_loss

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_step(
    model: nn.Module,
    views: list[Tensor],
    optimizer: Any,
    accelerator: "Accelerator",
    queue: FeatureQueue,
    monitor: Monitor,
    *,
    temperature: float,
    epsilon: float,
    frozen: bool,
    parts: int = 1,
    fill_queue: bool = True,
) -> Tensor:
    """One step: embed all views, code the global ones, predict each code from the other views, update.

    With several parts the gradients of the parts are averaged before the one update. Batch statistics and codes
    are those of a part: less memory, but Sinkhorn balances fewer images.

    Args:
        model: A `SwAV`, perhaps wrapped for several processes.
        views: One tensor a size, (V_s, B, 1, H_s, W_s) uint8; the views of the first get codes.
        optimizer: Its optimiser.
        accelerator: The engine.
        queue: Earlier embeddings; takes in those of this step.
        monitor: Takes in the health of this step.
        temperature: tau of the prediction.
        epsilon: Smoothness of the codes.
        frozen: Leave the prototypes where they are.
        parts: Parts of equal size in which the B images are taken; divides B.
        fill_queue: Whether the queue takes this step's embeddings.

    Returns:
        The loss, detached; reading it waits for the device.
    """
    swav: Any = getattr(model, "module", model)  # without the wrapper for several processes
    coded = len(views[0])
    portions = list(zip(*(stack.chunk(parts, dim=1) for stack in views), strict=True))
    embedded, losses = [], []
    optimizer.zero_grad(set_to_none=True)
    for number, portion in enumerate(portions, start=1):
        # Processes exchange gradients once, with the last part.
        with contextlib.nullcontext() if number == parts else accelerator.no_sync(model):
            with accelerator.autocast():
                embeddings, scores = model(portion)
            codes = codes_of(scores[:coded].detach(), queue, swav, epsilon)
            loss = swapped_prediction_loss(scores, codes, temperature=temperature)
            accelerator.backward(loss / parts)
        monitor.update(loss, embeddings[:coded], scores[:coded].detach(), codes)
        embedded.append(embeddings[:coded].detach())
        losses.append(loss.detach())

    if frozen:
        freeze_prototypes(swav.prototypes)
    optimizer.step()
    if not frozen:
        normalise_prototypes(swav.prototypes)
    if fill_queue:
        queue.push(torch.cat(embedded, dim=1))
    return torch.stack(losses).mean()


def codes_of(scores: Tensor, queue: FeatureQueue, swav: SwAV, epsilon: float) -> Tensor:
    """Codes (A, B, K) of the coded views' scores (A, B, K), balanced together with the queue once it is full."""
    images = scores.shape[1]
    if queue.full:
        scores = torch.cat([scores, queue.scores(swav.prototypes.weight[: swav.used_prototypes])], dim=1)
    return torch.stack([sinkhorn(view, epsilon=epsilon)[:images] for view in scores])
