import contextlib
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from cxr_ssl.diagnostics import Monitor
from cxr_ssl.feature_queue import FeatureQueue
from cxr_ssl.sinkhorn import sinkhorn
from cxr_ssl.step import train_step
from cxr_ssl.swav import SwAV, swapped_prediction_loss


class Pooled(nn.Module):
    """A backbone with batch statistics, small enough to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 12, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.convolution(pixels.float() / 255)).relu().mean((2, 3))


class Engine:
    """What a step needs of an accelerator; counts the passes whose gradients are kept back."""

    autocast = staticmethod(contextlib.nullcontext)

    def __init__(self) -> None:
        self.kept_back = 0

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    @contextlib.contextmanager
    def no_sync(self, _model: nn.Module) -> Any:
        self.kept_back += 1
        yield


def tiny() -> SwAV:
    torch.manual_seed(0)
    return SwAV(Pooled(), 12, embedding_dim=8, num_prototypes=20)


def views(batch: int = 12) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    sizes = ((2, 16), (3, 8))
    return [torch.randint(0, 256, (n, batch, 1, s, s), generator=random, dtype=torch.uint8) for n, s in sizes]


def full_queue(batch: int = 12) -> FeatureQueue:
    queue = FeatureQueue(2, 2, batch, 8)
    random = torch.Generator().manual_seed(3)
    for _ in range(2):
        queue.push(nn.functional.normalize(torch.randn(2, batch, 8, generator=random), dim=-1))
    return queue


def stepped(parts: int, queue: FeatureQueue, **options: Any) -> tuple[SwAV, Monitor, Tensor, Engine]:
    swav, monitor = tiny(), Monitor(20, 8)
    engine: Any = Engine()
    optimizer = torch.optim.SGD(swav.parameters(), lr=0.0)
    settings: dict[str, Any] = {"temperature": 0.1, "epsilon": 0.05, "frozen": False}
    loss = train_step(
        swav.train(),
        views(),
        optimizer,
        cast(Any, engine),
        queue,
        monitor,
        parts=parts,
        **(settings | options),
    )
    return swav, monitor, loss, engine


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("queued", [False, True])
def test_gradients_are_the_mean_over_the_parts(parts, queued):
    queue = full_queue() if queued else FeatureQueue(2, 0, 12, 8)
    swav, monitor, loss, engine = stepped(parts, queue)
    expected, losses = tiny().train(), []
    for portion in zip(*(stack.chunk(parts, dim=1) for stack in views()), strict=True):
        _, scores = expected(portion)
        balanced = scores[:2].detach()
        if queued:
            balanced = torch.cat([balanced, full_queue().scores(expected.prototypes.weight)], dim=1)
        codes = torch.stack([sinkhorn(view)[: 12 // parts] for view in balanced])
        one = swapped_prediction_loss(scores, codes)
        losses.append(one.detach())
        one.backward()
    for name, parameter in expected.named_parameters():
        assert parameter.grad is not None
        found = swav.get_parameter(name).grad
        torch.testing.assert_close(found, parameter.grad / parts, atol=1e-5, rtol=1e-5, msg=name)
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-6)
    assert engine.kept_back == parts - 1  # processes would exchange gradients once
    # Batch statistics: each part counts once for each size of view.
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(swav.get_buffer(name), buffer, msg=name)
    assert swav.get_buffer("backbone.norm.num_batches_tracked") == 2 * parts
    assert monitor.numbers()["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert monitor.sums["images"] == 12


def test_the_queue_takes_the_whole_batch_once_the_step_is_done():
    queue = full_queue()
    before = queue.embeddings.clone()
    swav, *_ = stepped(3, queue)
    assert queue.pushed == 3
    assert torch.equal(queue.embeddings[:, 1], before[:, 1])
    swav = tiny().train()
    for number, portion in enumerate(zip(*(stack.chunk(3, dim=1) for stack in views()), strict=True)):
        embeddings, _ = swav(portion)
        torch.testing.assert_close(queue.embeddings[:, 0, 4 * number : 4 * number + 4], embeddings[:2].detach())
    untouched = full_queue()
    stepped(1, untouched, fill_queue=False)
    assert torch.equal(untouched.embeddings, before)


def test_fewer_prototypes_are_scored_balanced_and_moved():
    swav = tiny().train()
    swav.used_prototypes = 11
    before = swav.prototypes.weight.detach().clone()
    monitor, optimizer = Monitor(11, 8), torch.optim.SGD(swav.parameters(), lr=0.1)
    settings: dict[str, Any] = {"temperature": 0.1, "epsilon": 0.05, "frozen": False}
    train_step(swav, views(), optimizer, cast(Any, Engine()), full_queue(), monitor, **settings)
    moved = (swav.prototypes.weight - before).abs().amax(1) > 1e-6
    assert moved.tolist() == [True] * 11 + [False] * 9
    assert monitor.sums["nearest"].sum() == 24
    assert swav(views())[1].shape == (5, 12, 11)
