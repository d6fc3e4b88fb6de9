from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_ssl.learner import make_optimizer, set_weight_decay
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


def test_larc_scales_and_decays_every_parameter_as_published():
    swav = tiny()
    optimizer = make_optimizer("larc", swav, lr=0.6, weight_decay=0.01)
    momentum: dict[str, Tensor] = {}
    for _ in range(3):
        weights = with_gradients(swav)
        expected = {}
        for name, parameter in swav.named_parameters():
            assert parameter.grad is not None
            w, g = weights[name], parameter.grad.double()
            if w.norm() > 0:
                g = (g + 0.01 * w) * 0.001 * w.norm() / (g.norm() + 0.01 * w.norm() + 1e-8)
            momentum[name] = 0.9 * momentum[name] + g if name in momentum else g
            expected[name] = w - 0.6 * momentum[name]
        optimizer.step()
        for name, parameter in swav.named_parameters():
            torch.testing.assert_close(parameter.double(), expected[name], atol=1e-6, rtol=1e-6, msg=name)


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
