import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss.swav_loss import sinkhorn as plain_sinkhorn

from cxr_ssl import codes as codes_module
from cxr_ssl.codes import sinkhorn


@pytest.fixture(scope="module", autouse=True)
def _exponentials():
    """Small matrices too are scaled by exponentials here, as large ones are."""
    before, codes_module.SMALL = codes_module.SMALL, 0
    yield
    codes_module.SMALL = before


def test_small_matrices_take_logarithms_to_the_same_codes(monkeypatch):
    scores = unit_scores(16, 300, 64, 0)
    expected = sinkhorn(scores)
    monkeypatch.setattr(codes_module, "SMALL", 2**15)
    monkeypatch.setattr(codes_module, "_by_exponentials", None)
    torch.testing.assert_close(sinkhorn(scores), expected, atol=1e-6, rtol=1e-4)


def unit_scores(batch: int, prototypes: int, dim: int, seed: int, dtype=torch.float32) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    a = torch.nn.functional.normalize(torch.randn(batch, dim, generator=random, dtype=dtype), dim=1)
    b = torch.nn.functional.normalize(torch.randn(prototypes, dim, generator=random, dtype=dtype), dim=1)
    return a @ b.T


def sinkhorn_by_hand(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Section A.1 of the paper in float64 with plain exponentials, rows = prototypes."""
    q = np.exp(scores.T / epsilon)
    q /= q.sum()
    prototypes, batch = q.shape
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True) * prototypes
        q /= q.sum(0, keepdims=True) * batch
    return (q * batch).T


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 40),
    prototypes=st.integers(2, 60),
    dim=st.integers(1, 16),
    epsilon=st.sampled_from([0.03, 0.05, 0.1, 1.0]),
    iterations=st.integers(1, 6),
    seed=st.integers(0, 2**31 - 1),
)
def test_codes_equal_lightly_and_the_formula(batch, prototypes, dim, epsilon, iterations, seed):
    scores = unit_scores(batch, prototypes, dim, seed, torch.float64)
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    theirs = plain_sinkhorn(scores, iterations=iterations, epsilon=epsilon)
    by_hand = sinkhorn_by_hand(scores.numpy(), epsilon, iterations)
    assert codes.dtype == torch.float64
    np.testing.assert_allclose(codes.numpy(), theirs.numpy(), atol=1e-9)
    np.testing.assert_allclose(codes.numpy(), by_hand, atol=1e-9)
    in_single = sinkhorn(scores.float(), epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(in_single.numpy(), by_hand, atol=2e-5)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.sampled_from([1, 2, 7, 64]),
    prototypes=st.sampled_from([2, 30, 300]),
    epsilon=st.sampled_from([1e-4, 0.01, 0.05, 1.0]),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 100.0, 1e4]),
    kind=st.sampled_from(["spread", "collapsed", "one prototype", "low rank"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**31 - 1),
)
def test_codes_are_finite_distributions_on_the_whole_grid(batch, prototypes, epsilon, scale, kind, dtype, seed):
    scores = unit_scores(batch, prototypes, 2 if kind == "low rank" else 16, seed)
    if kind == "collapsed":
        scores = scores[:1].expand(batch, -1)
    if kind == "one prototype":
        scores = torch.full_like(scores, -1.0).index_fill(1, torch.tensor([0]), 1.0)
    codes = sinkhorn((scores * scale).to(dtype), epsilon=epsilon)
    assert codes.dtype == torch.float32
    assert torch.isfinite(codes).all()
    assert (codes >= 0).all()
    # At scores / epsilon = 1e8 the spacing of float32 is 8: sums of exponentials stay 1 because the last step
    # makes them so.
    torch.testing.assert_close(codes.sum(1), torch.ones(batch), atol=1e-4, rtol=0)


def test_finite_where_plain_exponentials_are_not():
    collapsed = unit_scores(1, 30, 16, 0).expand(64, -1) * 10
    assert not torch.isfinite(plain_sinkhorn(collapsed, epsilon=0.05)).all()
    codes = sinkhorn(collapsed, epsilon=0.05)
    torch.testing.assert_close(codes, torch.full((64, 30), 1 / 30), atol=1e-4, rtol=0)


def test_many_iterations_balance_the_prototypes():
    codes = sinkhorn(unit_scores(60, 12, 8, 3), iterations=200)
    torch.testing.assert_close(codes.sum(0), torch.full((12,), 60 / 12), atol=1e-2, rtol=0)


def test_codes_carry_no_gradient_and_order_does_not_matter():
    scores = unit_scores(20, 9, 8, 1).requires_grad_()
    codes = sinkhorn(scores)
    assert not codes.requires_grad
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sinkhorn(scores[order]), codes[order], atol=1e-6, rtol=0)


def test_nan_is_handed_on_and_bad_settings_are_refused():
    assert sinkhorn(torch.full((4, 3), float("nan"))).isnan().all()
    with pytest.raises(ValueError, match="epsilon > 0"):
        sinkhorn(torch.zeros(4, 3), epsilon=0.0)
    with pytest.raises(ValueError, match="iterations >= 1"):
        sinkhorn(torch.zeros(4, 3), iterations=0)


@pytest.mark.parametrize("kind", ["spread", "collapsed", "one prototype", "outlier"])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_codes_follow_the_logarithms_in_float64(kind, scale, sign):
    """Also where exponentials vanish: those of float32 end at 1e-38, and scores of 1e4 reach exp(-4e5)."""
    scores = unit_scores(48, 30, 16, 3, torch.float64)
    if kind == "collapsed":
        scores = scores[:1].expand(48, -1) + 1e-3 * scores
    if kind == "one prototype":
        scores[:, 0] += 1
    if kind == "outlier":
        scores[0] *= 1e3
    scores = (scores * scale * sign).float().double()
    reference = codes_module._by_logarithms(scores / 0.05, 3)
    single = sinkhorn(scores.float())
    # float32 holds scores / epsilon to a share of 6e-8 each, which is an error of exp by as much times the score.
    coarse = 4e-7 * float(scores.abs().max()) / 0.05
    torch.testing.assert_close(single.double(), reference, atol=max(2e-5, coarse), rtol=0)
    torch.testing.assert_close(sinkhorn(scores), reference, atol=1e-9 * max(1.0, scale), rtol=0)


def test_ordinary_scores_need_no_logarithms_and_vanished_ones_do(monkeypatch):
    taken = []
    monkeypatch.setattr(codes_module, "_by_logarithms", lambda *args: taken.append(args) or torch.zeros(()))
    sinkhorn(unit_scores(64, 300, 16, 0))
    assert not taken
    far = unit_scores(64, 300, 16, 0)
    far[0] -= 100  # an image whose exponentials all vanish beside those of the others
    sinkhorn(far)
    sinkhorn(torch.full((4, 3), torch.nan))
    assert len(taken) == 2


def test_on_a_device_nothing_is_read_back():
    """Reading a number of a meta tensor raises, where that of a GPU would make the step wait."""
    assert sinkhorn(torch.empty(256, 300, device="meta")).shape == (256, 300)
