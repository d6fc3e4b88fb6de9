from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_common.training.resume import load_state, save_state
from cxr_ssl.config import PretrainConfig
from cxr_ssl.methods.byol import BYOLConfig
from cxr_ssl.methods.dino import DINOConfig
from cxr_ssl.methods.swav import SwAVConfig
from cxr_ssl.state import TrainState, make_optimizer, set_weight_decay
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


CONFIGS = {
    "swav": PretrainConfig(swav=SwAVConfig(prototypes=20, embedding=8, queue=2, queue_start=0, freeze=2)),
    "dino": PretrainConfig(method="dino", dino=DINOConfig(prototypes=20, hidden=16, bottleneck=8, freeze=2)),
    "byol": PretrainConfig(method="byol", byol=BYOLConfig(embedding=8, hidden=16)),
}


def steps(state: TrainState, crops_of: Any, first: int, last: int) -> None:
    for step in range(first, last):
        train_step(state, crops_of(step))
        state.step += 1


def same(one: Any, other: Any, path: str = "") -> None:
    """The same nested dicts and lists, tensors to the bit."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{path}/{number}")
    else:
        assert one == other, path


@pytest.mark.parametrize("method", CONFIGS)
def test_every_method_resumes_to_the_same_bits_with_the_scale_of_its_loss(method, new_state, crops_of, tmp_path):
    whole = new_state(CONFIGS[method], scale=2.0**12)
    steps(whole, crops_of, 0, 3)
    save_state(tmp_path / "state.pt", whole.state_dict(), 1)
    steps(whole, crops_of, 3, 6)
    again = new_state(CONFIGS[method], scale=2.0**12)
    saved = load_state(tmp_path / "state.pt")
    assert saved is not None
    again.load_state_dict(saved)
    assert again.accelerator.scaler is not None
    assert again.accelerator.scaler.get_scale() == 2.0**13  # grew once; its count towards the next time is kept too
    steps(again, crops_of, 3, 6)
    assert again.accelerator.scaler.get_scale() == 2.0**15
    same(again.state_dict(), whole.state_dict())


@pytest.mark.parametrize("method", CONFIGS)
def test_a_state_is_a_copy_that_later_steps_leave_alone(method, new_state, crops_of):
    state = new_state(CONFIGS[method])
    steps(state, crops_of, 0, 2)
    kept, again = state.state_dict(), state.state_dict()
    steps(state, crops_of, 2, 4)
    moved = state.network.state_dict()
    assert any(not torch.equal(moved[name], value) for name, value in kept["network"].items())
    state.load_state_dict(kept)
    steps(state, crops_of, 2, 4)  # the optimiser works on its own copies too
    same(kept, again)


def test_a_state_remembers_what_a_recovery_changed(new_state, crops_of):
    state = new_state(CONFIGS["swav"])
    state.follow({"lr": 0.5, "queue": 1, "prototypes": 12})
    steps(state, crops_of, 0, 2)
    again = new_state(CONFIGS["swav"])
    again.load_state_dict(state.state_dict())
    assert again.plan.lr == 0.5
    assert again.method.settings.prototypes == 12
    same(again.state_dict(), state.state_dict())
