from typing import Any

import pytest
import torch
from torch import nn

from cxr_ssl.codes import sinkhorn
from cxr_ssl.config import PretrainConfig
from cxr_ssl.feature_queue import FeatureQueue
from cxr_ssl.methods.swav import SwAVConfig, SwAVMethod
from cxr_ssl.state import TrainState
from cxr_ssl.step import train_step
from cxr_ssl.swav import SwAV, swapped_prediction_loss


def config(parts: int = 1, queue: int = 2, **options: Any) -> PretrainConfig:
    settings = {"prototypes": 20, "embedding": 8, "queue_start": 0, "freeze": 0, **options}
    return PretrainConfig(accumulate=parts, swav=SwAVConfig(queue=queue, **settings))


def full_queue() -> FeatureQueue:
    queue = FeatureQueue(2, 2, 12, 8)
    random = torch.Generator().manual_seed(3)
    for _ in range(2):
        queue.push(nn.functional.normalize(torch.randn(2, 12, 8, generator=random), dim=-1))
    return queue


def parts_of(state: TrainState) -> tuple[SwAVMethod, SwAV]:
    method: Any = state.method
    return method, method.module


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("queued", [False, True])
def test_gradients_are_the_mean_over_the_parts(parts, queued, new_state, crops_of):
    state = new_state(config(parts, 2 if queued else 0), lr=0.0)
    method, swav = parts_of(state)
    if queued:
        method.queue = full_queue()
    loss = train_step(state, crops_of())["loss"]
    _, expected = parts_of(new_state(config(parts)))
    losses = []
    for portion in zip(*(stack.chunk(parts, dim=1) for stack in crops_of()), strict=True):
        _, scores = expected(portion)
        balanced = scores[:2].detach()
        if queued:
            balanced = torch.cat([balanced, full_queue().scores(expected.prototypes.weight)], dim=1)
        codes = torch.stack([sinkhorn(crop)[: 12 // parts] for crop in balanced])
        one = swapped_prediction_loss(scores, codes)
        losses.append(one.detach())
        one.backward()
    for name, parameter in expected.named_parameters():
        assert parameter.grad is not None
        actual = swav.get_parameter(name).grad
        torch.testing.assert_close(actual, parameter.grad / parts, atol=1e-5, rtol=1e-5, msg=name)
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-6)
    accelerator: Any = state.accelerator
    assert accelerator.without_exchange == parts - 1  # processes would exchange gradients once
    # Batch statistics: each part counts once for each size of crop.
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(swav.get_buffer(name), buffer, msg=name)
    assert swav.get_buffer("backbone.norm.num_batches_tracked") == 2 * parts
    sums = {name: total.double() for name, total in method.sums.items()}
    assert method.diagnostics(sums)["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert method.sums["images"] == 12


def test_the_queue_takes_the_whole_batch_once_the_step_is_done(new_state, crops_of):
    state = new_state(config(3), lr=0.0)
    method, _ = parts_of(state)
    method.queue = full_queue()
    before = method.queue.embeddings.clone()
    train_step(state, crops_of())
    assert method.queue.pushed == 3
    assert torch.equal(method.queue.embeddings[:, 1], before[:, 1])
    _, swav = parts_of(new_state(config(3)))
    for number, portion in enumerate(zip(*(stack.chunk(3, dim=1) for stack in crops_of()), strict=True)):
        embeddings, _ = swav(portion)
        actual = method.queue.embeddings[:, 0, 4 * number : 4 * number + 4]
        torch.testing.assert_close(actual, embeddings[:2].detach())
    late = new_state(config(queue_start=1.0), lr=0.0)
    train_step(late, crops_of())
    assert parts_of(late)[0].queue.pushed == 0


def test_prototypes_stay_fixed_at_the_start_and_have_length_1_afterwards(new_state, crops_of):
    state = new_state(config(freeze=1), lr=0.5)
    _, swav = parts_of(state)
    before = swav.prototypes.weight.detach().clone()
    train_step(state, crops_of())
    assert torch.equal(swav.prototypes.weight, before)
    state.step += 1
    train_step(state, crops_of(1))
    assert not torch.allclose(swav.prototypes.weight, before)
    torch.testing.assert_close(swav.prototypes.weight.norm(dim=1), torch.ones(20))


def test_fewer_prototypes_are_scored_balanced_and_moved(new_state, crops_of):
    state = new_state(config(), lr=0.1)
    method, swav = parts_of(state)
    state.follow({"prototypes": 11})
    before = swav.prototypes.weight.detach().clone()
    train_step(state, crops_of())
    moved = (swav.prototypes.weight - before).abs().amax(1) > 1e-6
    assert moved.tolist() == [True] * 11 + [False] * 9
    assert method.sums["nearest"].sum() == 24
    assert swav(crops_of())[1].shape == (5, 12, 11)
