"""One step of training."""

import contextlib

import torch
from torch import Tensor

from cxr_ssl.state import TrainState


def train_step(state: TrainState, crops: list[Tensor]) -> dict[str, Tensor]:
    """One step: forward all crops, the method's loss, backward, update.

    With several parts the gradients of the parts are averaged before the one update. Batch statistics and codes
    are those of a part: less memory, but Sinkhorn balances fewer images.

    Args:
        state: Its weights, optimiser state and method are changed.
        crops: One tensor per size, (V_s, B, 1, H_s, W_s) uint8; the first are the global crops.

    Returns:
        The loss of this process, a detached scalar; reading it waits for the device.
    """
    accelerator, method, parts = state.accelerator, state.method, state.accumulate
    number_of_step = state.epoch * state.plan.steps + state.step
    portions = list(zip(*(stack.chunk(parts, dim=1) for stack in crops), strict=True))
    losses = []
    state.optimizer.zero_grad(set_to_none=True)
    for number, portion in enumerate(portions, start=1):
        # Processes exchange gradients once, with the last part.
        with contextlib.nullcontext() if number == parts else accelerator.no_sync(state.model):
            with accelerator.autocast():
                outputs = state.model(portion)
            loss = method.loss(outputs)
            accelerator.backward(loss / parts)
        losses.append(loss.detach())
    method.before_update(number_of_step)
    state.optimizer.step()
    method.after_update(number_of_step)
    return {"loss": torch.stack(losses).mean()}
