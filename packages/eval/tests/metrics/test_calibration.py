import numpy as np
import sklearn.metrics as peer
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_eval.metrics.calibration import brier, expected_calibration_error, reliability


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
