import contextlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_common.training.resume import load_state, save_state
from cxr_ssl.plan import Plan, plan
from cxr_ssl.state import Learner, make_optimizer, new_learner, set_weight_decay
from cxr_ssl.step import train_step
from cxr_ssl.swav import SwAV


class Pooled(nn.Module):
    """A backbone small enough to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 12, 3, stride=2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.convolution(pixels.float() / 255).relu().mean((2, 3))


def tiny() -> SwAV:
    torch.manual_seed(0)
    return SwAV(Pooled(), 12, embedding_dim=8, num_prototypes=20)


def with_gradients(swav: SwAV) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    for parameter in swav.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)
    return {name: parameter.detach().double().clone() for name, parameter in swav.named_parameters()}


@pytest.mark.parametrize("decay", [0.01, 0.0])
@pytest.mark.parametrize("name", ["larc", "lars"])
def test_layers_are_scaled_as_published_with_any_weight_decay(name, decay):
    swav = tiny()
    optimizer = make_optimizer(name, swav, lr=0.6, weight_decay=0.01)
    set_weight_decay(optimizer, decay)  # as a schedule does that ends at 0
    momentum: dict[str, Tensor] = {}
    for _ in range(3):
        weights = with_gradients(swav)
        expected = {}
        for key, parameter in swav.named_parameters():
            assert parameter.grad is not None
            w, g = weights[key], parameter.grad.double()
            if w.norm() > 0 and (name == "larc" or w.ndim > 1):
                g = (g + decay * w) * 0.001 * w.norm() / (g.norm() + decay * w.norm() + 1e-8)
            momentum[key] = 0.9 * momentum[key] + g if key in momentum else g
            expected[key] = w - 0.6 * momentum[key]
        optimizer.step()
        for key, parameter in swav.named_parameters():
            torch.testing.assert_close(parameter.double(), expected[key], atol=1e-6, rtol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["adamw", "lars", "sgd"])
def test_vectors_do_not_decay_and_the_decay_can_be_changed(name):
    swav = tiny()
    optimizer: Any = make_optimizer(name, swav, lr=0.1, weight_decay=0.01)
    set_weight_decay(optimizer, 0.5)
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.5 if all(p.ndim > 1 for p in group["params"]) else 0.0)
    assert sorted({p.ndim for p in optimizer.param_groups[1]["params"]}) == [1]


def test_a_decay_that_begins_at_zero_can_rise():
    optimizer: Any = make_optimizer("adamw", tiny(), lr=0.1, weight_decay=0.0)
    set_weight_decay(optimizer, 0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


class ScalingEngine:
    """What a learner needs of an engine that trains in fp16 with a scaled loss, for one process on a CPU."""

    process_index, num_processes, is_main_process, device = 0, 1, True, torch.device("cpu")
    autocast = staticmethod(contextlib.nullcontext)

    def __init__(self) -> None:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)

    def prepare(self, *parts: Any) -> tuple[Any, ...]:
        return parts

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def reduce(self, tensor: Tensor, _how: str) -> Tensor:
        return tensor

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()


def learner_for(settings: Plan) -> Learner:
    engine: Any = ScalingEngine()
    swav = tiny().train()
    return new_learner(swav, make_optimizer("adamw", swav, lr=1e-3, weight_decay=0.1), settings, 2, engine)


class Scaled:
    """Unscales before it steps, as accelerate's optimiser does."""

    def __init__(self, learner: Learner) -> None:
        self.optimizer, self.scaler = learner.optimizer, learner.accelerator.scaler

    def zero_grad(self, *, set_to_none: bool) -> None:
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        assert self.scaler is not None
        self.scaler.step(self.optimizer)
        self.scaler.update()


def steps(learner: Learner, first: int, last: int) -> None:
    settings: dict[str, Any] = {"temperature": 0.1, "epsilon": 0.05, "frozen": False}
    for step in range(first, last):
        random = torch.Generator().manual_seed(step)
        sizes = ((2, 16), (3, 8))
        views = [torch.randint(0, 256, (n, 6, 1, s, s), generator=random, dtype=torch.uint8) for n, s in sizes]
        train_step(
            learner.model,
            views,
            Scaled(learner),
            learner.accelerator,
            learner.queue,
            learner.monitor,
            **settings,
        )


PLAN = plan(60, batch_size=6, optimizer="adamw", epochs=2, prototypes=20, embedding=8, queue=2)


def test_a_learner_goes_on_exactly_with_the_scale_of_its_loss(tmp_path):
    whole = learner_for(PLAN)
    steps(whole, 0, 3)
    save_state(tmp_path / "state.pt", whole.state(), 1)
    steps(whole, 3, 6)
    again = learner_for(PLAN)
    found = load_state(tmp_path / "state.pt", 1)
    assert found is not None
    again.restore(found)
    scaler: Any = again.accelerator.scaler
    assert scaler.get_scale() == 2.0**13  # grew once, and its count towards the next time is kept too
    steps(again, 3, 6)
    assert scaler.get_scale() == 2.0**15
    expected, state = whole.state(), again.state()
    assert state["scaler"] == expected["scaler"]
    for part in ("swav", "queue", "buffers", "monitor"):
        for name, value in expected[part].items():
            assert torch.equal(torch.as_tensor(state[part][name]), torch.as_tensor(value)), (part, name)


def test_a_state_is_a_copy_that_later_steps_leave_alone():
    learner = learner_for(PLAN)
    steps(learner, 0, 2)
    kept, again = learner.state(), learner.state()
    steps(learner, 2, 4)
    assert not torch.equal(learner.swav.prototypes.weight, kept["swav"]["prototypes.weight"])
    learner.restore(kept)
    steps(learner, 2, 4)  # the optimiser works on its own copies too
    for name, value in again["swav"].items():
        assert torch.equal(kept["swav"][name], value), name
    for number, moments in again["optimizer"]["state"].items():
        assert torch.equal(kept["optimizer"]["state"][number]["exp_avg"], moments["exp_avg"])


def test_a_new_epoch_keeps_the_queue_unless_the_plan_has_another():
    learner = learner_for(PLAN)
    steps(learner, 0, 3)
    learner.follow(PLAN)
    assert learner.queue.full
    assert learner.monitor.sums["images"] == 0
    learner.follow(replace(PLAN, queue=1, prototypes=12))
    assert learner.queue.embeddings.shape == (2, 1, 6, 8)
    assert not learner.queue.full
    assert learner.swav.used_prototypes == len(learner.monitor.sums["nearest"]) == 12
