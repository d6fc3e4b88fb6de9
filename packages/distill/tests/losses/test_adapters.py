"""What goes between features that do not fit."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cxr_data.errors import BadInput
from cxr_distill.losses import adapters


@pytest.mark.parametrize("size", [(7, 7), (4, 2), (3, 3), (14, 9), (7, 3)])
def test_resize_is_averaging_down_and_interpolating_up(size):
    maps = torch.randn(2, 3, 7, 7)
    rows = (
        F.adaptive_avg_pool2d(maps, (size[0], 7))
        if size[0] <= 7
        else F.interpolate(maps, (size[0], 7), mode="bilinear")
    )
    expected = F.adaptive_avg_pool2d(rows, size) if size[1] <= 7 else F.interpolate(rows, size, mode="bilinear")
    torch.testing.assert_close(adapters.resize(maps, size), expected)


def test_resize_keeps_type_and_a_constant():
    for dtype in (torch.bfloat16, torch.float64):
        got = adapters.resize(torch.full((1, 2, 6, 6), 3.0, dtype=dtype), (4, 9))
        assert got.dtype == dtype
        torch.testing.assert_close(got, torch.full((1, 2, 4, 9), 3.0, dtype=dtype))


@pytest.mark.parametrize("edge", [4, 8, 12])
def test_regress_gives_the_teachers_shape_in_either_order(edge):
    convolution = nn.Conv2d(3, 5, 1)
    student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 5, edge, edge)
    got = adapters.regress(convolution, student, teacher)
    assert got.shape == teacher.shape
    torch.testing.assert_close(got, adapters.resize(convolution(student), (edge, edge)))


def test_regress_takes_vectors_and_half_precision():
    linear = nn.Linear(3, 5)
    student = torch.randn(2, 3).bfloat16()
    got = adapters.regress(linear, student, torch.zeros(2, 5))
    torch.testing.assert_close(got, linear(student.float()))
    assert adapters.regress(None, student, torch.zeros(2, 3)) is student


def test_attention_fusion_is_its_formula():
    fusion = adapters.AttentionFusion(3, 4, 6, deepest=False).eval()
    x, below = torch.randn(2, 3, 6, 6), torch.randn(2, 4, 3, 3)
    output, handed_on = fusion(x, below)
    assert fusion.attention is not None
    entered = fusion.enter[0](x) / (1 + 1e-5) ** 0.5  # BatchNorm as it starts
    grown = F.interpolate(below, (6, 6), mode="bilinear")
    a = torch.sigmoid(fusion.attention(torch.cat([entered, grown], 1)))
    expected = a[:, 0:1] * entered + a[:, 1:2] * grown
    torch.testing.assert_close(handed_on, expected)
    left = fusion.leave[0](expected) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(output, left)


def test_review_fusion_lets_deep_stages_reach_shallow_ones_and_not_back():
    fusion = adapters.ReviewFusion([2, 3, 4], [5, 6, 7], middle=8).eval()
    maps = [torch.randn(2, c, e, e, requires_grad=True) for c, e in ((2, 8), (3, 4), (4, 2))]
    reviewed = fusion(maps)
    assert [tuple(m.shape) for m in reviewed] == [(2, 5, 8, 8), (2, 6, 4, 4), (2, 7, 2, 2)]
    shallow = torch.autograd.grad(reviewed[0].square().sum(), maps, retain_graph=True)
    assert all(g.abs().sum() > 0 for g in shallow)
    deep = torch.autograd.grad(reviewed[2].square().sum(), maps, allow_unused=True)
    assert deep[0] is None
    assert deep[1] is None
    assert deep[2].abs().sum() > 0


def test_the_teachers_embedding_learns_and_the_teacher_does_not():
    pair = adapters.EmbeddingPair(3, 5, width=4)
    s, t = torch.randn(2, 3, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    own, its = pair(s, t)
    assert own.shape == its.shape == (2, 4)
    (own.square().sum() + its.square().sum()).backward()
    assert s.grad is not None
    assert t.grad is None
    assert pair.teacher.weight.grad is not None


def test_the_folded_classifier_answers_as_projector_and_classifier():
    classifier, f = nn.Linear(5, 2), torch.randn(4, 3)
    reused = adapters.ReusedClassifier(3, 5, (classifier.weight, classifier.bias))
    torch.testing.assert_close(F.linear(f, *reused.folded()), classifier(reused.projector(f)))
    torch.testing.assert_close(reused(f), classifier(reused.projector(f)))
    assert {name for name, _ in reused.named_parameters()} == {"projector.weight", "projector.bias"}
    assert reused.state_dict().keys() == {"projector.weight", "projector.bias"}
    with pytest.raises(BadInput, match="linear layer"):
        adapters.ReusedClassifier(3, 5, None)
