from typing import Any

import numpy as np
import pytest
import sklearn.metrics as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from cxr_eval.metrics.calibration import (
    brier,
    brier_parts,
    expected_calibration_error,
    fit_recalibration,
    recalibration,
    reliability,
)


def test_reliability_bins_hold_equal_mass_and_average_to_the_prevalence():
    rng = np.random.default_rng(0)
    p = rng.random(1500)
    target = (rng.random(1500) < p**2).astype(np.float32)
    curve = reliability(target, p, bins=15)
    assert curve.count.tolist() == [100] * 15
    assert np.all(np.diff(curve.predicted) > 0)
    np.testing.assert_allclose(np.average(curve.observed, weights=curve.count), target.mean())
    np.testing.assert_allclose(np.average(curve.predicted, weights=curve.count), p.mean())


def test_ece_of_a_constant_answer_is_its_distance_to_the_prevalence():
    target = np.array([1.0] * 30 + [0.0] * 70)[:, None]
    np.testing.assert_allclose(expected_calibration_error(target, np.full((100, 1), 0.5)), [0.2])


def test_ece_of_calibrated_probabilities_is_small_and_of_squared_ones_is_not():
    rng = np.random.default_rng(0)
    p = rng.random((20_000, 1))
    target = (rng.random((20_000, 1)) < p).astype(np.float32)
    assert expected_calibration_error(target, p)[0] < 0.015
    # E|p - p^2| = 1/6 for uniform p
    np.testing.assert_allclose(expected_calibration_error(target, p**2), [1 / 6], atol=0.01)


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_calibration_does_not_depend_on_order_nor_on_unknown_rows(n, seed):
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 5, (n, 2)) / 4
    target = (rng.random((n, 2)) < 0.5).astype(np.float32)
    target[rng.random((n, 2)) < 0.2] = np.nan
    order = rng.permutation(n)
    np.testing.assert_allclose(
        expected_calibration_error(target, p), expected_calibration_error(target[order], p[order]), atol=1e-12
    )
    for label in range(2):
        known = ~np.isnan(target[:, label])
        expected = peer.brier_score_loss(target[known, label], p[known, label]) if known.any() else np.nan
        np.testing.assert_allclose(brier(target, p)[label], expected, atol=1e-12)


def test_unknown_labels_have_no_calibration():
    unknown = np.full((4, 1), np.nan)
    assert np.isnan(expected_calibration_error(unknown, np.zeros((4, 1)))[0])
    assert np.isnan(brier(unknown, np.zeros((4, 1)))[0])
    assert len(reliability(unknown[:, 0], np.zeros(4)).count) == 0


@given(st.integers(1, 300), st.sampled_from([3, 1000]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_parts_of_the_brier_score_add_up_to_it(n, grid, seed):
    rng = np.random.default_rng(seed)
    p = rng.integers(0, grid + 1, n) / grid
    target = (rng.random(n) < p).astype(np.float32)
    parts = brier_parts(target, p)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    np.testing.assert_allclose(total, peer.brier_score_loss(target, p), atol=1e-12)
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0


def test_parts_of_forecasts_that_do_not_vary_within_a_bin_are_murphys():
    p = np.repeat([0.1, 0.5, 0.9], 200)
    target = np.concatenate([np.arange(200) < k for k in (40, 90, 170)]).astype(np.float32)
    parts = brier_parts(target, p, bins=3)
    observed, prevalence = np.array([0.2, 0.45, 0.85]), 300 / 600
    assert parts.within == pytest.approx(0, abs=1e-15)
    assert parts.reliability == pytest.approx(np.mean((observed - [0.1, 0.5, 0.9]) ** 2))
    assert parts.resolution == pytest.approx(np.mean((observed - prevalence) ** 2))
    assert parts.uncertainty == pytest.approx(prevalence * (1 - prevalence))


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3), st.floats(-2, 2))
@settings(deadline=None, max_examples=15)
def test_recalibration_is_the_most_likely_logistic_regression(seed, slope, shift):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=400) * 2
    target = (rng.random(400) < 1 / (1 + np.exp(-shift - slope * z))).astype(np.float32)
    target[:2] = 0, 1
    p = 1 / (1 + np.exp(-z))

    def loss(beta):
        line = beta[0] + beta[1] * z
        return np.sum(np.logaddexp(0, line) - target * line)

    def gradient(beta):
        excess = 1 / (1 + np.exp(-beta[0] - beta[1] * z)) - target
        return np.array([excess.sum(), (excess * z).sum()])

    expected = optimize.minimize(loss, [0.0, 0.0], jac=gradient, method="L-BFGS-B", tol=1e-14)
    fit = fit_recalibration(target, p)
    np.testing.assert_allclose([fit.shift, fit.slope], expected.x, rtol=1e-4, atol=1e-4)
    alone: Any = optimize.minimize_scalar(lambda a: loss([a, 1.0]), tol=1e-10)
    np.testing.assert_allclose(fit.intercept, alone.x, atol=1e-4)


def test_calibrated_answers_have_slope_one_and_overconfident_ones_less():
    rng = np.random.default_rng(0)
    z = rng.normal(size=20_000) * 1.5 - 1
    target = (rng.random(20_000) < 1 / (1 + np.exp(-z))).astype(np.float32)
    answers = np.stack([1 / (1 + np.exp(-k * z - b)) for k, b in ((1, 0), (2, 0), (1, 1))], axis=1)
    slope, intercept = recalibration(target[:, None].repeat(3, axis=1), answers)
    np.testing.assert_allclose(slope, [1, 0.5, 1], atol=0.04)
    np.testing.assert_allclose(intercept[[0, 2]], [0, -1], atol=0.04)


@pytest.mark.parametrize(
    ("target", "p", "intercept_exists"),
    [
        ([1, 1, 1], [0.2, 0.5, 0.9], False),
        ([0, 0, 1, 1], [0.1, 0.2, 0.2, 0.9], True),  # separated, touching
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.9], True),  # separated the wrong way
        ([0, 1, 0, 1], [0.4, 0.4, 0.4, 0.4], True),
        ([np.nan, np.nan], [0.1, 0.9], False),
    ],
)
def test_without_a_finite_fit_there_is_no_slope(target, p, intercept_exists):
    fit = fit_recalibration(np.array(target, np.float32), np.array(p))
    assert np.isnan(fit.slope)
    assert np.isfinite(fit.intercept) == intercept_exists


def test_certain_answers_stay_finite():
    fit = fit_recalibration(np.array([0, 1, 0, 1.0]), np.array([0.0, 1.0, 1.0, 0.4]))
    assert np.isfinite([fit.slope, fit.intercept]).all()
