"""DINO and BYOL against the papers, written out."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_common.training.schedules import warmup_cosine
from cxr_ssl.config import PretrainConfig
from cxr_ssl.methods.byol import BYOLConfig
from cxr_ssl.methods.dino import DINOConfig
from cxr_ssl.step import train_step
from cxr_ssl.student_teacher import CropOutputs

DINO = PretrainConfig(method="dino", dino=DINOConfig(prototypes=20, hidden=16, bottleneck=8, freeze=1, momentum=0.9))
BYOL = PretrainConfig(method="byol", byol=BYOLConfig(embedding=8, hidden=16, momentum=0.9))


def outputs(k: int, seed: int = 0) -> CropOutputs:
    random = torch.Generator().manual_seed(seed)
    student, projected, teacher, features = (torch.randn(v, 12, k, generator=random) for v in (5, 2, 2, 2))
    return CropOutputs(student, projected, teacher, features)


def test_the_loss_of_dino_is_the_cross_entropy_of_different_crops(new_state):
    method: Any = new_state(DINO).method
    given = outputs(20)._replace(features=torch.randn(2, 12, 12))
    expected, pairs, center = 0.0, 0, torch.zeros(20)
    for a, teacher in enumerate(given.teacher):
        p = ((teacher.double() - center) / 0.04).softmax(1)
        for v, student in enumerate(given.student):
            if a != v:
                expected -= (p * (student.double() / 0.1).log_softmax(1)).sum(1).mean().item()
                pairs += 1
    assert method.loss(given).item() == pytest.approx(expected / pairs, rel=1e-5)
    torch.testing.assert_close(method.module.criterion.center[0, 0], 0.1 * given.teacher.mean((0, 1)))


def test_the_loss_of_byol_is_the_negative_cosine_of_different_crops(new_state):
    method: Any = new_state(BYOL).method
    given = outputs(8)
    cosines = [
        nn.functional.cosine_similarity(student.double(), teacher.double(), dim=1).mean()
        for a, teacher in enumerate(given.teacher)
        for v, student in enumerate(given.student)
        if a != v
    ]
    assert method.loss(given).item() == pytest.approx(-torch.stack(cosines).mean().item(), abs=1e-6)
    alike = CropOutputs(*(torch.ones(n, 12, 8) for n in (5, 2, 2, 2)))
    assert method.loss(alike).item() == pytest.approx(-1.0)


@pytest.mark.parametrize("config", [DINO, BYOL], ids=["dino", "byol"])
def test_the_teacher_is_the_moving_average_of_the_student_and_has_no_gradient(config, new_state, crops_of):
    state = new_state(config, lr=0.1)
    module: Any = state.method.module
    student = [*module.backbone.parameters(), *module.head.parameters()]
    teacher = [*module.teacher_backbone.parameters(), *module.teacher_head.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(student, teacher, strict=True))
    expected = [one.detach().clone() for one in teacher]
    for step in range(3):
        state.step = step
        train_step(state, crops_of(step))
        momentum = warmup_cosine(step, steps=state.plan.all_steps, peak=0.9, end=1.0)
        expected = [momentum * a + (1 - momentum) * b.detach() for a, b in zip(expected, student, strict=True)]
    for a, b in zip(teacher, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert all(one.grad is None and not one.requires_grad for one in teacher)


def test_the_last_layer_of_dino_stays_fixed_at_the_start(new_state, crops_of):
    state = new_state(DINO, lr=0.5)
    layer: Any = state.method.module.head.last_layer  # type: ignore[union-attr]
    before = layer.weight_v.detach().clone()
    train_step(state, crops_of())
    assert torch.equal(layer.weight_v, before)
    state.step = 1
    train_step(state, crops_of(1))
    assert not torch.equal(layer.weight_v, before)


def collapse_of(method: Any, given: CropOutputs) -> str:
    method.start_epoch()
    method.loss(given)
    sums = {name: total.double() for name, total in method.sums.items()}
    collapse = method.collapse(method.diagnostics(sums))
    return collapse.kind if collapse else "none"


def equal_rows(values: Tensor) -> Tensor:
    return values[:, :1].expand_as(values).contiguous()


def test_collapses_are_told_apart(new_state):
    dino: Any = new_state(DINO).method
    healthy = outputs(20)._replace(features=torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(1)))
    assert collapse_of(dino, healthy) == "none"
    dino.module.criterion.center.zero_()
    assert collapse_of(dino, healthy._replace(teacher=1e-6 * healthy.teacher)) == "uniform codes"
    one = torch.zeros(20)
    one[3] = 100.0
    dino.module.criterion.center.zero_()
    assert collapse_of(dino, healthy._replace(teacher=healthy.teacher + one)) == "one prototype"
    assert collapse_of(dino, healthy._replace(features=equal_rows(healthy.features))) == "low rank"
    assert collapse_of(dino, healthy._replace(student=healthy.student * torch.nan)) == "not finite"
    byol: Any = new_state(BYOL).method
    assert collapse_of(byol, outputs(8)) == "none"
    assert collapse_of(byol, outputs(8)._replace(projected=equal_rows(outputs(8).projected))) == "low rank"
