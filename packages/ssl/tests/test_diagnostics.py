import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr_ssl.codes import sinkhorn
from cxr_ssl.config import PretrainConfig
from cxr_ssl.diagnostics import (
    add_codes,
    add_embeddings,
    add_loss,
    code_figures,
    code_sums,
    embedding_figures,
    embedding_sums,
    find_collapse,
    loss_sums,
)
from cxr_ssl.method import Collapse
from cxr_ssl.methods.swav import SwAVConfig, SwAVMethod
from cxr_ssl.plan import make_plan
from cxr_ssl.swav import SwAV


def test_numbers_by_hand():
    random = torch.Generator().manual_seed(0)
    embeddings = nn.functional.normalize(torch.randn(2, 50, 6, generator=random), dim=-1)
    scores = embeddings @ nn.functional.normalize(torch.randn(9, 6, generator=random), dim=1).T
    codes = torch.stack([sinkhorn(view) for view in scores])
    sums = loss_sums() | code_sums(9) | embedding_sums(6)
    for part, loss in ((slice(0, 20), 2.0), (slice(20, 40), 4.0)):
        add_loss(sums, torch.tensor(loss), 20)
        add_codes(sums, scores[:, part], codes[:, part])
        add_embeddings(sums, embeddings[0, part])
    totals = {name: total.double() for name, total in sums.items()}
    numbers = code_figures(totals) | embedding_figures(totals)

    first, nearest, q = embeddings[0, :40].double().numpy(), scores[:, :40].argmax(-1).numpy(), codes[:, :40]
    counts = np.bincount(nearest.ravel(), minlength=9)
    singular = np.linalg.svd(first - first.mean(0), compute_uv=False)
    share = singular / singular.sum()
    assert totals["loss"] / totals["steps"] == pytest.approx(3.0)
    assert numbers["code_entropy"] == pytest.approx(-(q * q.log()).sum(-1).mean().item() / math.log(9), abs=1e-5)
    assert numbers["prototypes_in_use"] == pytest.approx((counts > 0).mean())
    assert numbers["largest_prototype"] == pytest.approx(counts.max() / 80)
    assert numbers["agreement"] == pytest.approx((nearest[0] == nearest[1]).mean())
    assert numbers["embedding_std"] == pytest.approx(first.std(0).__pow__(2).sum() ** 0.5, abs=1e-5)
    assert numbers["rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)


class TinyBackbone(nn.Module):
    @property
    def network(self) -> "TinyBackbone":
        """As `GrayNetwork` holds one."""
        return self

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 16
        blocks = [(1, 16), (16, 16)]
        layers = [(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in blocks]
        self.layers = nn.Sequential(*(layer for block in layers for layer in block))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels.float() / 128 - 1).mean((2, 3))


def gratings(n: int, random: torch.Generator) -> Tensor:
    """Stripes of any direction, width and brightness, (n, 16, 16)."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    angle, width, bright = (torch.rand(n, 1, 1, generator=random) for _ in range(3))
    phase = (x * torch.cos(3.14 * angle) + y * torch.sin(3.14 * angle)) * (0.5 + 1.5 * width)
    return 100 + 60 * bright + 60 * torch.sin(phase)


def noisy_crops(images: Tensor, size: int, count: int, random: torch.Generator) -> Tensor:
    """Views (count, n, 1, size, size) with some noise."""
    views = []
    for _ in range(count):
        top, left = torch.randint(0, 17 - size, (2,), generator=random).tolist()
        crop = images[:, top : top + size, left : left + size]
        views.append(crop + 10 * torch.randn(crop.shape, generator=random))
    return torch.stack(views).clamp(0, 255).to(torch.uint8).unsqueeze(2)


def toy_run(
    *,
    prototypes: int = 40,
    dim: int = 8,
    lr: float = 5e-3,
    epochs: int = 3,
    steps: int = 25,
    frozen_epochs: float = 1,
    epsilon: float = 0.05,
    alike: bool = False,
    change: Callable[[Any], None] | None = None,
    seed: int = 0,
) -> list[Collapse | None]:
    """Train a real SwAV on gratings (all the same one where `alike`); the diagnosis of each epoch."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    freeze = round(frozen_epochs * steps)
    config = SwAVConfig(prototypes=prototypes, embedding=dim, queue=0, freeze=freeze, epsilon=epsilon)
    plan = make_plan(PretrainConfig(batch_size=32, epochs=epochs), 32 * steps)
    backbone: Any = TinyBackbone()
    method: SwAVMethod = config.build(backbone, config.settings(32 * steps, plan), plan, coded_crops=2)
    method.start(torch.device("cpu"), 32)
    if change:
        change(method.module)
    optimizer = torch.optim.AdamW(method.module.parameters(), lr)
    actual = []
    for epoch in range(epochs):
        method.start_epoch()
        for step in range(steps):
            images = gratings(1 if alike else 32, random).expand(32, -1, -1)
            crops = [noisy_crops(images, size, count, random) for size, count in ((12, 2), (8, 3))]
            loss = method.loss(method.module(crops))
            optimizer.zero_grad()
            loss.backward()
            method.before_update(epoch * steps + step)
            optimizer.step()
            method.after_update(epoch * steps + step)
        sums = {name: total.double() for name, total in method.sums.items()}
        actual.append(method.collapse(method.diagnostics(sums)))
    return actual


@pytest.mark.parametrize(("prototypes", "dim", "seed"), [(40, 8, 0), (80, 16, 1)])
def test_no_alarm_on_a_run_that_learns(prototypes, dim, seed):
    assert toy_run(prototypes=prototypes, dim=dim, seed=seed) == [None, None, None]


def test_too_few_prototypes_for_the_embedding_are_named_when_images_look_alike():
    last = toy_run(prototypes=8, dim=32, alike=True, frozen_epochs=4, lr=1e-2, epochs=4)[-1]
    assert last is not None
    assert last.kind == "uniform codes"
    assert last.advice.startswith("more --swav.prototypes than 8 for a --swav.embedding of 32")


def test_codes_too_smooth_are_uniform_at_once():
    (first,) = toy_run(epsilon=5.0, epochs=1)
    assert first is not None
    assert first.kind == "uniform codes"
    assert "--swav.epsilon 0.03" in first.advice


def all_one_way(model: SwAV) -> None:
    model.standardise = nn.Identity()  # type: ignore[assignment]
    nn.init.normal_(model.head.layers[-1].bias, std=2.0)  # type: ignore[arg-type]


def test_one_prototype_that_takes_all_is_caught():
    (first,) = toy_run(change=all_one_way, lr=1e-4, epochs=1)
    assert first is not None
    assert first.kind == "one prototype"
    assert "--swav.freeze" in first.advice


def equal_outputs(model: SwAV) -> None:
    last: Any = model.head.layers[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[:1].expand_as(last.weight))


def test_embeddings_on_a_line_are_caught():
    (first,) = toy_run(change=equal_outputs, lr=1e-5, epochs=1)
    assert first is not None
    assert first.kind == "low rank"
    assert "--learning_rate" not in first.advice
    assert "--lr" in first.advice


def all_weights_infinite(model: SwAV) -> None:
    nn.init.constant_(model.prototypes.weight, float("inf"))


def test_nan_is_caught():
    (first,) = toy_run(change=all_weights_infinite, epochs=1, steps=2)
    assert first is not None
    assert first.kind == "not finite"
    assert "--lr" in first.advice


def test_embeddings_in_one_point_are_caught():
    numbers = {"loss": 5.0, "code_entropy": 0.9, "largest_prototype": 0.1, "rank": 30.0, "embedding_std": 0.01}
    sizes = {"num_prototypes": 300, "embedding_dim": 64}
    actual = find_collapse(numbers, {"low rank": "advice"}, **sizes)
    assert actual is not None
    assert (actual.kind, actual.advice) == ("low rank", "advice")
    assert find_collapse({**numbers, "embedding_std": 0.95}, {}, **sizes) is None
