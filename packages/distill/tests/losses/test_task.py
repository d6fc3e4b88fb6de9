"""Losses on labels against their formulas in float64 NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cxr_distill.losses import task

few = settings(max_examples=15, deadline=None)
shapes = {"seed": st.integers(0, 10_000), "images": st.integers(1, 9), "labels": st.integers(2, 7)}
NAN = float("nan")

MULTILABEL = {
    "binary_cross_entropy": task.binary_cross_entropy,
    "smoothed": lambda z, y: task.binary_cross_entropy(z, y, label_smoothing=0.1),
    "focal": task.focal,
    "focal_half": lambda z, y: task.focal(z, y, gamma=0.5, alpha=None),
    "asymmetric": task.asymmetric,
    "asymmetric_half": lambda z, y: task.asymmetric(z, y, gamma_positive=0.5, gamma_negative=0.5, margin=0.0),
}
MULTICLASS = {
    "cross_entropy": task.cross_entropy,
    "smoothed": lambda z, y: task.cross_entropy(z, y, label_smoothing=0.1),
    "focal": task.focal_softmax,
    "focal_half": lambda z, y: task.focal_softmax(z, y, gamma=0.5),
}
every_loss = pytest.mark.parametrize(
    ("loss", "multiclass"),
    [*((f, False) for f in MULTILABEL.values()), *((f, True) for f in MULTICLASS.values())],
    ids=[*(f"multilabel-{n}" for n in MULTILABEL), *(f"multiclass-{n}" for n in MULTICLASS)],
)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def draw_multilabel(seed, images, labels):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (images, labels)).astype(np.float64)
    y[rng.random(y.shape) < 0.3] = np.nan
    y[0, 0] = 1
    return rng.normal(0, 3, (images, labels)), y


def draw_multiclass(seed, images, labels):
    rng = np.random.default_rng(seed)
    y = np.eye(labels)[rng.integers(0, labels, images)]
    y[rng.random(images) < 0.3] = np.nan
    y[0] = np.eye(labels)[0]
    return rng.normal(0, 3, (images, labels)), y


def torched(*arrays):
    return [torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in arrays]


@few
@given(**shapes, smoothing=st.sampled_from([0.0, 0.1]))
def test_cross_entropy_is_its_formula(seed, images, labels, smoothing):
    z, y = draw_multiclass(seed, images, labels)
    w = np.random.default_rng(seed + 1).uniform(0.5, 2, labels)
    p = softmax(z)
    above = below = 0.0
    for i in range(images):
        if not np.isnan(y[i]).any():
            above += sum(
                w[k] * ((1 - smoothing) * y[i, k] + smoothing / labels) * -np.log(p[i, k]) for k in range(labels)
            )
            below += w[y[i].argmax()]
    got = task.cross_entropy(*torched(z, y), label_smoothing=smoothing, class_weights=torched(w)[0])
    assert got.item() == pytest.approx(above / below, rel=1e-5, abs=1e-6)


@few
@given(**shapes)
def test_cross_entropy_agrees_with_torch_on_class_numbers(seed, images, labels):
    z, y = draw_multiclass(seed, images, labels)
    w = np.random.default_rng(seed).uniform(0.5, 2, labels)
    tz, ty, tw = torched(z, y, w)
    known = ~ty.isnan().any(1)
    expected = F.cross_entropy(tz[known], ty[known].argmax(1), weight=tw, label_smoothing=0.2)
    torch.testing.assert_close(task.cross_entropy(tz, ty, class_weights=tw, label_smoothing=0.2), expected)


@few
@given(**shapes, smoothing=st.sampled_from([0.0, 0.1]))
def test_binary_cross_entropy_is_its_formula(seed, images, labels, smoothing):
    z, y = draw_multilabel(seed, images, labels)
    w = np.random.default_rng(seed).uniform(0.5, 5, labels)
    q = (1 - smoothing) * y + smoothing / 2
    expected = np.nanmean(-(w * q * np.log(sigmoid(z)) + (1 - q) * np.log(1 - sigmoid(z))))
    got = task.binary_cross_entropy(*torched(z, y), pos_weight=torched(w)[0], label_smoothing=smoothing)
    assert got.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@few
@given(**shapes, gamma=st.sampled_from([0.0, 0.5, 2.0, 3.0]), alpha=st.sampled_from([None, 0.25, 0.7]))
def test_focal_is_its_formula(seed, images, labels, gamma, alpha):
    z, y = draw_multilabel(seed, images, labels)
    p = sigmoid(z)
    p_t = np.where(y == 1, p, 1 - p)
    weight = 1.0 if alpha is None else np.where(y == 1, alpha, 1 - alpha)
    terms = -weight * (1 - p_t) ** gamma * np.log(p_t)
    got = task.focal(*torched(z, y), gamma=gamma, alpha=alpha)
    assert got.item() == pytest.approx(terms[~np.isnan(y)].mean(), rel=1e-5, abs=1e-6)


@few
@given(**shapes, gamma=st.sampled_from([0.0, 0.5, 2.0]))
def test_softmax_focal_is_its_formula(seed, images, labels, gamma):
    z, y = draw_multiclass(seed, images, labels)
    known = ~np.isnan(y).any(axis=1)
    p = softmax(z)[known][y[known] == 1]
    got = task.focal_softmax(*torched(z, y), gamma=gamma)
    assert got.item() == pytest.approx((-((1 - p) ** gamma) * np.log(p)).mean(), rel=1e-4, abs=1e-6)


@few
@given(
    **shapes,
    positive=st.sampled_from([0.0, 1.0]),
    negative=st.sampled_from([0.0, 0.5, 4.0]),
    m=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_asymmetric_is_its_formula(seed, images, labels, positive, negative, m):
    z, y = draw_multilabel(seed, images, labels)
    p = sigmoid(z)
    p_m = np.maximum(p - m, 0)
    terms = np.where(y == 1, (1 - p) ** positive * np.log(p), p_m**negative * np.log(1 - p_m))
    got = task.asymmetric(*torched(z, y), gamma_positive=positive, gamma_negative=negative, margin=m)
    assert got.item() == pytest.approx(-terms[~np.isnan(y)].mean(), rel=1e-4, abs=1e-6)


def test_asymmetric_leaves_very_easy_negatives_alone():
    z = torch.tensor([[-4.0, -3.5]], requires_grad=True)  # probabilities .018 and .029, below the margin
    task.asymmetric(z, torch.zeros(1, 2), margin=0.05).backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[0.0, 0.0]]


def test_mixed_targets_weigh_the_terms():
    z = torch.tensor([[0.3, -1.2, 2.0]])
    one, other = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    for losses in (MULTILABEL, MULTICLASS):
        for name, loss in losses.items():
            mixed = 0.25 * loss(z, one) + 0.75 * loss(z, other)
            torch.testing.assert_close(loss(z, 0.25 * one + 0.75 * other), mixed, msg=name)


@every_loss
def test_unknown_labels_take_no_part(loss, multiclass):
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = F.one_hot(torch.tensor([0, 1, 2, 0, 1, 2]), 3).float()
    y[1] = y[4] = NAN
    got = loss(z, y)
    torch.testing.assert_close(got, loss(z[[0, 2, 3, 5]], y[[0, 2, 3, 5]]))
    got.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert (z.grad[[1, 4]] == 0).all()
    assert (z.grad[[0, 2, 3, 5]] != 0).any()


@every_loss
def test_nothing_known_is_zero_without_gradient(loss, multiclass):
    z = torch.randn(4, 3, requires_grad=True)
    got = loss(z, torch.full((4, 3), NAN))
    got.backward()
    assert got.item() == 0
    assert z.grad is not None
    assert z.grad.abs().sum() == 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_finite_at_extreme_logits(loss, multiclass, dtype):
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [3e4, 3e4, -3e4], [0, 0, 0]], dtype=dtype, requires_grad=True)
    y = F.one_hot(torch.tensor([1, 1, 2, 0]), 3).float()
    got = loss(z, y)
    got.backward()
    assert got.dtype == torch.float32
    assert got.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@every_loss
def test_order_of_the_batch_does_not_matter(loss, multiclass):
    z, y = torched(*(draw_multiclass if multiclass else draw_multilabel)(5, 9, 4))
    order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
    torch.testing.assert_close(loss(z[order], y[order]), loss(z, y))


@every_loss
def test_gradient_is_the_derivative(loss, multiclass):
    z, y = (draw_multiclass if multiclass else draw_multilabel)(3, 4, 3)
    z, y = torch.from_numpy(z).requires_grad_(), torch.from_numpy(y)
    assert torch.autograd.gradcheck(lambda logits: loss(logits, y), (z,))
