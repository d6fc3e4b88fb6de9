"""Relation losses against their formulas in float64 NumPy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_distill.losses import relations as losses

few = settings(max_examples=12, deadline=None)
shapes = {"seed": st.integers(0, 10_000), "images": st.integers(3, 7), "width": st.integers(2, 6)}

PRESENT = torch.tensor([[1.0, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]])
CASES = {
    "rkd": (losses.rkd, (5, 4), (5, 7)),
    "pkt": (losses.pkt, (5, 4), (5, 7)),
    "sp": (losses.sp, (5, 4, 2, 2), (5, 7, 3, 3)),
    "led": (lambda s, t: losses.led(s, t, PRESENT), (5, 3, 4), (5, 3, 7)),
}
every_loss = pytest.mark.parametrize("name", CASES)


def torched(*arrays):
    return [torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in arrays]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def huber(a, b):
    x = abs(a - b)
    return x * x / 2 if x <= 1 else x - 0.5


def relative_distances(points):
    """Distances of all pairs over the mean distance of two different points."""
    n = len(points)
    d = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in points] for a in points])
    return d / d[~np.eye(n, dtype=bool)].mean()


@few
@given(**shapes, w_d=st.sampled_from([0.0, 25.0]), w_a=st.sampled_from([0.0, 50.0]))
def test_rkd_is_its_formula(seed, images, width, w_d, w_a):
    s, t = normal(seed, images, width), 5 * normal(seed + 1, images, width + 2)
    d_s, d_t = relative_distances(s), relative_distances(t)
    pairs = itertools.permutations(range(images), 2)
    distance = np.mean([huber(d_s[i, j], d_t[i, j]) for i, j in pairs])

    def cosine(f, i, j, k):
        a, b = f[i] - f[j], f[k] - f[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triples = itertools.permutations(range(images), 3)
    angle = np.mean([huber(cosine(s, *ijk), cosine(t, *ijk)) for ijk in triples])
    got = losses.rkd(*torched(s, t), distance=w_d, angle=w_a)
    assert got.item() == pytest.approx(w_d * distance + w_a * angle, rel=1e-3, abs=1e-5)


def test_rkd_does_not_see_place_turn_or_scale():
    t = normal(0, 6, 4)
    turn, _ = np.linalg.qr(normal(1, 4, 4))
    assert losses.rkd(*torched(3 * t @ turn + 10, t)).item() == pytest.approx(0, abs=1e-6)


def test_rkd_keeps_the_distances_of_near_neighbours():
    """Features far from the origin and close to each other, where float32 products would lose everything."""
    t = torch.from_numpy(1000 + normal(2, 6, 32)).float()
    d_t = relative_distances(t.double().numpy())
    s = torch.from_numpy(normal(3, 6, 32)).float()
    d_s = relative_distances(s.double().numpy())
    expected = np.mean([huber(d_s[i, j], d_t[i, j]) for i, j in itertools.permutations(range(6), 2)])
    assert losses.rkd(s, t, distance=1, angle=0).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["rkd", "pkt"])
@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_gradients_of_nearly_equal_features_are_those_of_float64(name, spread):
    """As of radiographs, which look alike: a common vector and a little of each image's own."""
    g = torch.Generator().manual_seed(0)
    s, t = (torch.rand(1, 512, generator=g) + spread * torch.rand(32, 512, generator=g) for _ in range(2))
    loss, gradients = CASES[name][0], []
    for dtype in (torch.float32, torch.float64):
        own = s.to(dtype).requires_grad_()
        gradients.append(torch.autograd.grad(loss(own, t.to(dtype)), own)[0].double())
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert error < 1e-4


def test_rkd_with_an_image_twice_is_finite_and_keeps_the_other_angles():
    t = torch.randn(5, 4)
    s = torch.randn(5, 4)
    s[1] = s[0]
    s.requires_grad_()
    got = losses.rkd(s, t)
    got.backward()
    assert got.item() > 0
    assert s.grad is not None
    assert s.grad.isfinite().all()


@pytest.mark.parametrize("images", [1, 2])
def test_rkd_of_too_few_images_for_a_relation_is_zero(images):
    s = torch.randn(images, 4, requires_grad=True)
    got = losses.rkd(s, torch.randn(images, 5))
    got.backward()
    assert got.item() == 0  # two points always have their mean distance
    assert s.grad is not None
    assert s.grad.isfinite().all()


@few
@given(**shapes)
def test_pkt_is_its_formula(seed, images, width):
    s, t = normal(seed, images, width), normal(seed + 1, images, width + 1)

    def affinity(f):
        k = np.array([[(a @ b / np.linalg.norm(a) / np.linalg.norm(b) + 1) / 2 for b in f] for a in f])
        return k / k.sum(axis=1, keepdims=True)

    p_s, p_t = affinity(s), affinity(t)
    expected = (p_t * np.log((p_t + 1e-7) / (p_s + 1e-7))).mean()
    assert losses.pkt(*torched(s, t)).item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


@few
@given(**shapes)
def test_sp_is_its_formula(seed, images, width):
    s, t = normal(seed, images, width, 2, 2), normal(seed + 1, images, width + 1, 3, 3)

    def similarity(f):
        g = np.array([[(a * b).sum() for b in f] for a in f])
        return g / np.linalg.norm(g, axis=1, keepdims=True)

    expected = np.linalg.norm(similarity(t) - similarity(s), "fro") ** 2 / images**2
    assert losses.sp(*torched(s, t)).item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


@few
@given(**shapes)
def test_led_is_its_formula(seed, images, width):
    labels = 4
    s, t = normal(seed, images, labels, width), normal(seed + 1, images, labels, width + 1)
    y = np.random.default_rng(seed).integers(0, 2, (images, labels)).astype(float)
    y[np.random.default_rng(seed + 2).random(y.shape) < 0.2] = np.nan

    def group(e_s, e_t):
        n = len(e_s)
        if n < 2:
            return 0.0
        d_s, d_t = relative_distances(e_s), relative_distances(e_t)
        return sum(huber(d_s[i, j], d_t[i, j]) for i in range(n) for j in range(n)) / n

    by_class = sum(group(s[y[:, k] == 1, k], t[y[:, k] == 1, k]) for k in range(labels))
    by_instance = sum(group(s[i, y[i] == 1], t[i, y[i] == 1]) for i in range(images))
    got = losses.led(*torched(s, t, y), by_class=2.0, by_instance=3.0)
    assert got.item() == pytest.approx(2 * by_class + 3 * by_instance, rel=1e-3, abs=1e-5)


def test_led_without_a_present_label_is_zero():
    s = torch.randn(4, 3, 5, requires_grad=True)
    y = torch.zeros(4, 3)
    y[0] = float("nan")
    got = losses.led(s, torch.randn(4, 3, 6), y)
    got.backward()
    assert got.item() == 0
    assert s.grad is not None
    assert s.grad.abs().sum() == 0


def test_label_embeddings_add_up_to_the_logits():
    f, w = torch.randn(3, 5), torch.randn(2, 5)
    e = losses.label_embeddings(f, w)
    assert e.shape == (3, 2, 5)
    torch.testing.assert_close(e.sum(2), f @ w.T)
    with pytest.raises(ValueError, match="5 channels do not fit a classifier of 4"):
        losses.label_embeddings(f, torch.zeros(2, 4))


@every_loss
def test_zero_and_flat_when_the_student_is_the_teacher(name):
    loss, _, shape = CASES[name]
    t = torch.randn(shape)
    s = t.clone().requires_grad_()
    got = loss(s, t)
    got.backward()
    assert got.item() == pytest.approx(0, abs=1e-7)
    assert s.grad is not None
    assert s.grad.abs().max() < 1e-4


@every_loss
def test_only_the_student_learns(name):
    loss, shape_s, shape_t = CASES[name]
    s, t = torch.randn(shape_s, requires_grad=True), torch.randn(shape_t, requires_grad=True)
    loss(s, t).backward()
    assert s.grad is not None
    assert s.grad.abs().sum() > 0
    assert t.grad is None


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_finite_at_large_collapsed_and_dead_features(name, dtype):
    loss, shape_s, shape_t = CASES[name]
    collapsed = torch.ones(shape_s)
    for features in (1e4 * torch.randn(shape_s), collapsed, 0 * collapsed):
        s = features.to(dtype).requires_grad_()
        got = loss(s, torch.randn(shape_t).to(dtype))
        got.backward()
        assert got.dtype == torch.float32
        assert got.isfinite()
        assert s.grad is not None
        assert s.grad.isfinite().all()


@every_loss
def test_half_precision_features_are_compared_in_float32(name):
    loss, shape_s, shape_t = CASES[name]
    s, t = torch.randn(shape_s).bfloat16(), torch.randn(shape_t).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(s, t), loss(s.float(), t.float()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["rkd", "pkt", "sp"])
def test_order_of_the_batch_does_not_matter(name):
    loss, shape_s, shape_t = CASES[name]
    s, t = torch.randn(shape_s), torch.randn(shape_t)
    order = torch.tensor([2, 0, 4, 3, 1])
    torch.testing.assert_close(loss(s[order], t[order]), loss(s, t))


def test_order_of_batch_and_labels_does_not_matter_to_led():
    s, t = torch.randn(5, 3, 4), torch.randn(5, 3, 6)
    images, labels = torch.tensor([2, 0, 4, 3, 1]), torch.tensor([1, 2, 0])
    shuffled = [x[images][:, labels] for x in (s, t, PRESENT)]
    torch.testing.assert_close(losses.led(*shuffled), losses.led(s, t, PRESENT))


@every_loss
def test_gradient_is_the_derivative(name):
    loss, shape_s, shape_t = CASES[name]
    g = torch.Generator().manual_seed(3)
    s = torch.randn(shape_s, generator=g, dtype=torch.float64, requires_grad=True)
    t = torch.randn(shape_t, generator=g, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (s,), fast_mode=True)
