"""Feature distillation losses against their formulas in float64 NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_distill.losses import features as losses

few = settings(max_examples=12, deadline=None)
shapes = {"seed": st.integers(0, 10_000), "images": st.integers(1, 5), "edge": st.integers(1, 9)}


def torched(*arrays):
    return [torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in arrays]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def pooled(maps, edge):
    """Average pooling with PyTorch's bins: from floor(i n / m) up to ceil((i + 1) n / m)."""
    n = maps.shape[2]
    bins = [slice(i * n // edge, -(-(i + 1) * n // edge)) for i in range(edge)]
    return np.stack([np.stack([maps[:, :, r, c].mean(axis=(2, 3)) for c in bins], -1) for r in bins], -2)


W_S, W_T = torched(normal(1, 2, 3), normal(2, 2, 4))
CASES = {
    "fitnets": (losses.fitnets, (4, 3, 5, 5), (4, 3, 5, 5)),
    "attention_transfer": (lambda s, t: losses.attention_transfer([s], [t]), (4, 3, 5, 5), (4, 6, 5, 5)),
    "cam": (lambda s, t: losses.cam(s, W_S, t, W_T), (4, 3, 5, 5), (4, 4, 5, 5)),
    "fitnets of vectors": (losses.fitnets, (4, 6), (4, 6)),
    "reviewkd": (lambda s, t: losses.reviewkd([s], [t]), (4, 3, 5, 5), (4, 3, 5, 5)),
    "crd": (losses.crd, (4, 6), (4, 6)),
}
every_loss = pytest.mark.parametrize("name", CASES)


@few
@given(**shapes)
def test_fitnets_is_its_formula(seed, images, edge):
    s, t = normal(seed, images, 3, edge, edge), normal(seed + 1, images, 3, edge, edge)
    assert losses.fitnets(*torched(s, t)).item() == pytest.approx(((s - t) ** 2).mean(), rel=1e-5)


@few
@given(**shapes)
def test_attention_transfer_is_its_formula(seed, images, edge):
    students = [normal(seed, images, 3, edge, edge + 1), normal(seed + 1, images, 5, 2, 2)]
    teachers = [normal(seed + 2, images, 6, edge, edge + 1), normal(seed + 3, images, 2, 2, 2)]
    expected = 0.0
    for s, t in zip(students, teachers, strict=True):
        attention = [(f**2).mean(axis=1).reshape(images, -1) for f in (s, t)]
        a_s, a_t = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in attention)
        expected += ((a_s - a_t) ** 2).mean()
    got = losses.attention_transfer(torched(*students), torched(*teachers))
    assert got.item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_attention_of_unlike_sizes_is_compared_at_the_smaller():
    s, t = normal(0, 2, 3, 8, 8), normal(1, 2, 4, 4, 4)
    small = pooled((s**2).mean(axis=1, keepdims=True), 4).reshape(2, -1)
    own = (t**2).mean(axis=1).reshape(2, -1)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (small, own))
    got = losses.attention_transfer(torched(s), torched(t))
    assert got.item() == pytest.approx(((a - b) ** 2).mean(), rel=1e-4)


@few
@given(**shapes)
def test_cam_is_its_formula(seed, images, edge):
    f_s, f_t = normal(seed, images, 3, edge, edge), normal(seed + 1, images, 5, edge, edge)
    w_s, w_t = normal(seed + 2, 4, 3), normal(seed + 3, 4, 5)
    known = np.random.default_rng(seed).random((images, 4)) < 0.6
    known[0, 0] = True
    errors = []
    for i in range(images):
        for k in range(4):
            map_s = np.sum([w_s[k, c] * f_s[i, c] for c in range(3)], axis=0)
            map_t = np.sum([w_t[k, c] * f_t[i, c] for c in range(5)], axis=0)
            if known[i, k]:
                errors.append(((map_s - map_t) ** 2).mean())
    got = losses.cam(*torched(f_s, w_s, f_t, w_t), known=torch.from_numpy(known))
    assert got.item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_class_activation_maps_average_to_the_logits():
    f, w = torched(normal(0, 3, 5, 4, 4), normal(1, 2, 5))
    logits = torch.nn.functional.linear(f.mean((2, 3)), w)
    torch.testing.assert_close(losses.class_activation_maps(f, w).mean((2, 3)), logits)


def test_cam_refuses_a_classifier_of_other_channels():
    with pytest.raises(ValueError, match="5 channels do not fit a classifier of 4"):
        losses.class_activation_maps(torch.zeros(1, 5, 2, 2), torch.zeros(2, 4))


@few
@given(**shapes)
def test_reviewkd_is_its_formula(seed, images, edge):
    s, t = normal(seed, images, 2, edge, edge), normal(seed + 1, images, 2, edge, edge)
    terms, weights = [((s - t) ** 2).mean()], [1.0]
    for level in (4, 2, 1):
        if level < edge:
            weights.append(weights[-1] / 2)
            terms.append(((pooled(s, level) - pooled(t, level)) ** 2).mean())
    expected = np.dot(weights, terms) / sum(weights)
    got = losses.reviewkd(torched(s, s), torched(t, t))
    assert got.item() == pytest.approx(2 * expected, rel=1e-4)


@few
@given(seed=st.integers(0, 10_000), images=st.integers(2, 7), width=st.integers(2, 6))
def test_crd_is_its_formula(seed, images, width):
    s, t, tau = normal(seed, images, width), normal(seed + 1, images, width), 0.5
    u_s, u_t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
    e = np.exp(u_s @ u_t.T / tau)
    ratio = e / e[~np.eye(images, dtype=bool)].mean()
    h = ratio / (ratio + images - 1)
    expected = 0.0
    for i in range(images):
        expected -= np.log(h[i, i]) + sum(np.log(1 - h[i, j]) for j in range(images) if j != i)
    assert losses.crd(*torched(s, t), temperature=tau).item() == pytest.approx(expected / images, rel=1e-4)


def test_crd_prefers_matched_embeddings_and_teaches_both_sides():
    s, t = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    assert losses.crd(t, t).item() < losses.crd(s, t).item()
    losses.crd(s, t).backward()
    assert s.grad is not None
    assert t.grad is not None
    assert s.grad.abs().sum() > 0
    assert t.grad.abs().sum() > 0


def test_crd_of_one_image_is_zero():
    s = torch.randn(1, 8, requires_grad=True)
    got = losses.crd(s, torch.randn(1, 8))
    got.backward()
    assert got.item() == 0
    assert s.grad is not None


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_finite_at_large_and_at_dead_features(name, dtype):
    loss, shape_s, shape_t = CASES[name]
    for scale in (0.0, 1e4):
        s = (scale * torch.randn(shape_s)).to(dtype).requires_grad_()
        t = (scale * torch.randn(shape_t)).to(dtype)
        got = loss(s, t)
        assert got.dtype == torch.float32
        assert got.isfinite()
        got.backward()
        assert s.grad is not None
        assert (s.grad.isfinite() | (dtype == torch.float16)).all()


@every_loss
def test_half_precision_features_are_compared_in_float32(name):
    loss, shape_s, shape_t = CASES[name]
    s, t = torch.randn(shape_s).bfloat16(), torch.randn(shape_t).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(s, t), loss(s.float(), t.float()), rtol=0, atol=0)


@every_loss
def test_order_of_the_batch_does_not_matter(name):
    loss, shape_s, shape_t = CASES[name]
    s, t = torch.randn(shape_s), torch.randn(shape_t)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(s[order], t[order]), loss(s, t))


@pytest.mark.parametrize("name", sorted(set(CASES) - {"crd"}))
def test_only_the_student_learns(name):
    loss, shape_s, shape_t = CASES[name]
    s, t = torch.randn(shape_s, requires_grad=True), torch.randn(shape_t, requires_grad=True)
    loss(s, t).backward()
    assert s.grad is not None
    assert s.grad.abs().sum() > 0
    assert t.grad is None


@pytest.mark.parametrize("name", ["fitnets", "attention_transfer", "fitnets of vectors", "reviewkd"])
def test_zero_when_the_student_is_the_teacher(name):
    loss, shape_s, _ = CASES[name]
    t = torch.randn(shape_s)
    s = t.clone().requires_grad_()
    got = loss(s, t)
    got.backward()
    assert got.item() == 0
    assert s.grad is not None
    assert s.grad.abs().max() < 1e-6


def test_cam_is_zero_for_the_same_maps_from_other_channels():
    f, w = torched(normal(0, 2, 3, 4, 4), normal(1, 5, 3))
    twice, halved = torch.cat([f, f], 1), torch.cat([w, w], 1) / 2
    assert losses.cam(f, w, twice, halved).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("name", ["fitnets", "crd"])
def test_features_of_unlike_shapes_are_refused(name):
    with pytest.raises(ValueError, match="put an adapter between"):
        CASES[name][0](torch.zeros(2, 3), torch.zeros(2, 4))
