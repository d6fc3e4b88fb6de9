"""Logit distillation losses against their formulas in float64 NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cxr_distill.losses import Outputs, squared
from cxr_distill.losses import logits as losses

few = settings(max_examples=15, deadline=None)
shapes = {"seed": st.integers(0, 10_000), "images": st.integers(1, 9), "labels": st.integers(2, 7)}
temperatures = st.sampled_from([0.5, 1.0, 4.0])

Y = F.one_hot(torch.tensor([1, 1, 2, 0]), 3).float()
SOFTMAX = {
    "kd": losses.kd,
    "kd_plain": lambda s, t, **k: losses.kd(s, t, scale_by_t2=False, **k),
    "kd_standardised": lambda s, t, **k: losses.kd(s, t, standardise=True, **k),
    "dist": losses.dist,
    "softmax_mse": squared.softmax_mse,
}
SIGMOID = {"multilabel_kd": losses.multilabel_kd, "sigmoid_mse": squared.sigmoid_mse}
LABELLED = {
    "dkd": lambda s, t: losses.dkd(s, t, Y),
    "dkd_standardised": lambda s, t: losses.dkd(s, t, Y, standardise=True),
}
every_loss = pytest.mark.parametrize("loss", [pytest.param(f, id=n) for n, f in (SOFTMAX | SIGMOID | LABELLED).items()])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def draw(seed, images, labels):
    rng = np.random.default_rng(seed)
    known = rng.random((images, labels)) < 0.7
    known[0] = True
    return rng.normal(0, 3, (images, labels)), rng.normal(0, 3, (images, labels)), known


def torched(*arrays):
    return [torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in arrays]


@few
@given(**shapes, t=temperatures, squared=st.booleans())
def test_kd_is_its_formula(seed, images, labels, t, squared):
    s, te, known = draw(seed, images, labels)
    rows = np.all(known, axis=1)
    p_s, p_t = softmax(s / t), softmax(te / t)
    divergences = [sum(p_t[i] * np.log(p_t[i] / p_s[i])) for i in range(images) if rows[i]]
    expected = np.mean(divergences) * (t * t if squared else 1)
    got = losses.kd(*torched(s, te), temperature=t, scale_by_t2=squared, known=torch.from_numpy(rows))
    assert got.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_kd_is_torch_batch_mean_and_not_its_mean():
    s, t, _ = draw(0, 8, 5)
    s, t = torched(s, t)
    log_s, p_t = F.log_softmax(s / 2, 1), F.softmax(t / 2, 1)
    expected = 4 * F.kl_div(log_s, p_t, reduction="batchmean")
    torch.testing.assert_close(losses.kd(s, t, temperature=2), expected)


def test_kd_plain_lacks_the_squared_temperature():
    s, t = torch.randn(4, 3), torch.randn(4, 3)
    plain = losses.PlainKD(temperature=3)(Outputs(s), Outputs(t), torch.zeros(4, 3))
    torch.testing.assert_close(9 * plain, losses.kd(s, t, temperature=3))


@few
@given(**shapes, t=temperatures)
def test_multilabel_kd_is_its_formula(seed, images, labels, t):
    s, te, known = draw(seed, images, labels)
    p_s, p_t = sigmoid(s / t), sigmoid(te / t)
    divergence = p_t * np.log(p_t / p_s) + (1 - p_t) * np.log((1 - p_t) / (1 - p_s))
    expected = t * t * divergence[known].sum() / known.any(axis=1).sum()
    got = losses.multilabel_kd(*torched(s, te), temperature=t, known=torch.from_numpy(known))
    assert got.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_multilabel_kd_of_one_label_is_kd_of_two_classes():
    s, t, _ = draw(2, 6, 1)
    s, t = torched(s, t)
    zero = torch.zeros(6, 1)
    two_classes = losses.kd(torch.cat([zero, s], 1), torch.cat([zero, t], 1), temperature=2)
    torch.testing.assert_close(losses.multilabel_kd(s, t, temperature=2), two_classes)


@few
@given(**shapes, t=temperatures, beta=st.sampled_from([0.0, 0.5, 8.0]))
def test_dkd_is_its_formula(seed, images, labels, t, beta):
    s, te, known = draw(seed, images, labels)
    own = np.random.default_rng(seed).integers(0, labels, images)
    y = np.eye(labels)[own]
    y[~np.all(known, axis=1)] = np.nan
    values = []
    for i in range(images):
        if np.isnan(y[i]).any():
            continue
        p_s, p_t, c = softmax(s[i] / t), softmax(te[i] / t), own[i]
        b_s, b_t = np.array([p_s[c], 1 - p_s[c]]), np.array([p_t[c], 1 - p_t[c]])
        rest_s, rest_t = np.delete(p_s, c) / (1 - p_s[c]), np.delete(p_t, c) / (1 - p_t[c])
        values.append(1.5 * sum(b_t * np.log(b_t / b_s)) + beta * sum(rest_t * np.log(rest_t / rest_s)))
    got = losses.dkd(*torched(s, te, y), temperature=t, alpha=1.5, beta=beta)
    assert got.item() == pytest.approx(t * t * np.mean(values), rel=1e-3, abs=1e-5)


def test_dkd_adds_up_to_kd_with_the_teachers_own_weight():
    """Eq. 7 of the paper: KD = TCKD + (1 - p_t of the class) NCKD, image by image."""
    s, t, _ = draw(3, 1, 5)
    s, t = torched(s, t)
    y = F.one_hot(torch.tensor([2]), 5).float()
    rest = float(1 - F.softmax(t / 2, 1)[0, 2])
    torch.testing.assert_close(losses.dkd(s, t, y, temperature=2, beta=rest), losses.kd(s, t, temperature=2))


@few
@given(**shapes, t=temperatures)
def test_dist_is_its_formula(seed, images, labels, t):
    s, te, known = draw(seed, images + 2, labels + 1)
    rows = np.all(known, axis=1)
    rows[:3] = True
    p_s, p_t = softmax(s / t)[rows], softmax(te / t)[rows]

    def correlation(a, b):
        a, b = a - a.mean(), b - b.mean()
        return (a * b).sum() / np.sqrt(((a**2).sum() + 1e-8) * ((b**2).sum() + 1e-8))

    inter = np.mean([1 - correlation(a, b) for a, b in zip(p_s, p_t, strict=True)])
    intra = np.mean([1 - correlation(a, b) for a, b in zip(p_s.T, p_t.T, strict=True)])
    got = losses.dist(*torched(s, te), temperature=t, beta=2.0, gamma=0.5, known=torch.from_numpy(rows))
    assert got.item() == pytest.approx(t * t * (2 * inter + 0.5 * intra), rel=1e-3, abs=1e-4)


@few
@given(**shapes, t=temperatures)
def test_squared_errors_are_their_formulas(seed, images, labels, t):
    s, te, known = draw(seed, images, labels)
    rows = np.all(known, axis=1)
    of_labels = ((sigmoid(s / t) - sigmoid(te / t)) ** 2)[known].mean()
    of_classes = ((softmax(s / t) - softmax(te / t)) ** 2)[rows].mean()
    got = squared.sigmoid_mse(*torched(s, te), temperature=t, known=torch.from_numpy(known))
    assert got.item() == pytest.approx(of_labels, rel=1e-4, abs=1e-7)
    got = squared.softmax_mse(*torched(s, te), temperature=t, known=torch.from_numpy(rows))
    assert got.item() == pytest.approx(of_classes, rel=1e-4, abs=1e-7)


@few
@given(**shapes, ddof=st.sampled_from([0, 1]))
def test_standardised_logits_have_no_size(seed, images, labels, ddof):
    """With the paper's division by L and with the division by L - 1 of its authors' code."""
    z, _, _ = draw(seed, images, labels)
    expected = (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, ddof=ddof, keepdims=True) + 1e-6)
    actual = losses.standardise_logits(torch.from_numpy(z), ddof=ddof)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    scaled, z32 = torched(3 * z + 5, z)
    torch.testing.assert_close(losses.kd(scaled, z32, standardise=True), torch.tensor(0.0), atol=1e-4, rtol=0)


@every_loss
def test_zero_and_flat_when_the_student_is_the_teacher(loss):
    t = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)) * 3
    s = t.clone().requires_grad_()
    got = loss(s, t)
    got.backward()
    assert abs(got.item()) < 1e-5
    assert s.grad is not None
    assert s.grad.abs().max() < 1e-4


@every_loss
def test_only_the_student_learns(loss):
    s, t = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    loss(s, t).backward()
    assert s.grad is not None
    assert s.grad.abs().sum() > 0
    assert t.grad is None


@every_loss
def test_a_step_downhill_brings_the_student_nearer(loss):
    g = torch.Generator().manual_seed(2)
    s, t = torch.randn(4, 3, generator=g, requires_grad=True), torch.randn(4, 3, generator=g)
    before = loss(s, t)
    (gradient,) = torch.autograd.grad(before, s)
    assert before.item() > 0
    assert loss(s - 0.05 * gradient / gradient.norm(), t).item() < before.item()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_finite_at_extreme_logits(loss, dtype):
    s = torch.tensor([[1e4, -1e4, 0], [-3e4, 3e4, 0], [3e4, 3e4, -3e4], [0, 0, 0]], dtype=dtype, requires_grad=True)
    t = torch.tensor([[-3e4, 1e4, 0], [3e4, -3e4, 0], [0, 0, 0], [1e4, 1e4, 1e4]], dtype=dtype)
    for student, teacher in ((s, t), (t.clone().requires_grad_(), s.detach())):
        got = loss(student, teacher)
        got.backward()
        assert got.dtype == torch.float32
        assert got.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()


@every_loss
def test_half_precision_logits_are_compared_in_float32(loss):
    t = torch.randn(4, 3, generator=torch.Generator().manual_seed(4)).bfloat16()
    s = (t + 0.5).bfloat16() + torch.tensor([0.25, 0.0, 0.0], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(s, t), loss(s.float(), t.float()), rtol=0, atol=0)


@pytest.mark.parametrize("name", [*SOFTMAX, *SIGMOID])
def test_what_is_unknown_takes_no_part(name):
    s, t, _ = draw(7, 6, 4)
    s, t = torched(s, t)
    keep = torch.tensor([True, False, True, True, False, True])
    loss = (SOFTMAX | SIGMOID)[name]
    known = keep if name in SOFTMAX else keep[:, None].expand(6, 4)
    s.requires_grad_()
    got = loss(s, t, known=known)
    torch.testing.assert_close(got, loss(s[keep], t[keep]))
    got.backward()
    assert s.grad is not None
    assert (s.grad[~keep] == 0).all()
    assert loss(s, t, known=torch.zeros_like(known)).item() == 0


@pytest.mark.parametrize("name", [*SOFTMAX, *SIGMOID])
def test_order_of_the_batch_does_not_matter(name):
    s, t, known = draw(8, 7, 4)
    s, t, known = *torched(s, t), torch.from_numpy(known)
    if name in SOFTMAX:
        known = known.all(1)
    order = torch.tensor([4, 0, 2, 6, 1, 3, 5])
    loss = (SOFTMAX | SIGMOID)[name]
    torch.testing.assert_close(loss(s[order], t[order], known=known[order]), loss(s, t, known=known))


@pytest.mark.parametrize("name", ["dist", "kd_standardised"])
def test_a_classifier_that_starts_from_zero_gets_a_bounded_gradient(name):
    s = torch.zeros(4, 3, requires_grad=True)
    SOFTMAX[name](s, torch.randn(4, 3, generator=torch.Generator().manual_seed(6))).backward()
    assert s.grad is not None
    assert 0.1 < s.grad.abs().max() < 1e4


def test_dist_is_of_pearson_correlations():
    s, t, _ = draw(4, 8, 5)
    p_s, p_t = softmax(s), softmax(t)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p_s, p_t, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p_s.T, p_t.T, strict=True)])
    assert losses.dist(*torched(s, t)).item() == pytest.approx(2 - rows - columns, rel=1e-5)


def test_a_flat_row_correlates_with_nothing():
    got = losses.dist(torch.zeros(4, 3), torch.randn(4, 3))
    assert got.item() == pytest.approx(2.0)
