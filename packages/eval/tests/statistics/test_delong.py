import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_common.metrics import auroc
from cxr_eval.statistics import bootstrap, delong


def slow_covariance(target, scores):
    """DeLong et al. 1988, straight from the definition: all pairs of a positive and a negative."""
    positive, negative = scores[:, target == 1], scores[:, target == 0]
    wins = (positive[:, :, None] > negative[:, None, :]) + 0.5 * (positive[:, :, None] == negative[:, None, :])
    v10, v01 = wins.mean(axis=2), wins.mean(axis=1)
    return wins.mean(axis=(1, 2)), np.cov(v10) / positive.shape[1] + np.cov(v01) / negative.shape[1]


@given(st.integers(8, 60), st.sampled_from([3, 20, 10_000]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_covariance_equals_the_definition_over_all_pairs(n, grid, seed):
    rng = np.random.default_rng(seed)
    target = np.arange(n) % 3 % 2
    scores = np.floor((target + rng.normal(size=(2, n))) * grid)
    expected_auroc, expected = slow_covariance(target, scores)
    areas, cov = delong.covariance(target.astype(np.float32), scores)
    np.testing.assert_allclose(areas, expected_auroc, atol=1e-12)
    np.testing.assert_allclose(areas, auroc(np.stack([target] * 2, 1), scores.T), atol=1e-12)
    np.testing.assert_allclose(cov, expected, atol=1e-12)
    # Clusters of one image each change nothing.
    np.testing.assert_allclose(delong.covariance(target.astype(np.float32), scores, np.arange(n))[1], cov, atol=1e-12)


def test_unknown_images_are_left_out():
    rng = np.random.default_rng(0)
    target, scores = np.arange(30) % 2 * 1.0, rng.random((2, 30))
    masked = np.concatenate([target, [np.nan] * 5])
    padded = np.concatenate([scores, rng.random((2, 5))], axis=1)
    np.testing.assert_allclose(delong.covariance(masked, padded)[1], delong.covariance(target, scores)[1])


def test_p_value_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(1)
    target = np.arange(200) % 2 * 1.0
    good, poor = target + rng.normal(size=200), 0.3 * target + rng.normal(size=200)
    result = delong.compare(target, good, poor)
    assert result.difference > 0.1
    assert result.p == pytest.approx(2 * stats.norm.sf(result.difference / result.standard_error), rel=1e-9)
    assert delong.compare(target, poor, good).p == pytest.approx(result.p)


def test_a_model_against_itself_does_not_differ():
    scores = np.random.default_rng(0).random(40)
    assert delong.compare(np.arange(40) % 2 * 1.0, scores, scores).p == 1.0


def test_undefined_without_two_classes():
    assert np.isnan(delong.compare(np.ones(5), np.arange(5.0), np.arange(5.0)).p)
    assert np.isnan(delong.covariance(np.array([1.0, 0, 0]), np.zeros((1, 3)))[1]).all()


def test_clustered_variance_agrees_with_the_clustered_bootstrap():
    rng = np.random.default_rng(2)
    patient = np.arange(300).repeat(4)
    # Some patients change sides between images, most do not; what misleads the score stays with the
    # patient.
    target = (rng.random(300)[patient] + 0.1 * rng.normal(size=1200) > 0.5).astype(np.float32)
    score = target + rng.normal(size=300)[patient] + 0.3 * rng.normal(size=1200)
    _, clustered = delong.covariance(target, score[None], patient)
    _, independent = delong.covariance(target, score[None])
    weights = bootstrap.draw_weights(300, 2000, seed=0)
    drawn = bootstrap.ranking(target[:, None], score[:, None], patient, weights)[0]
    assert clustered[0, 0] ** 0.5 == pytest.approx(drawn.std(), rel=0.08)
    assert clustered[0, 0] > 2 * independent[0, 0]


def test_type_one_error_is_five_percent():
    rng = np.random.default_rng(3)
    target = np.arange(80) % 2 * 1.0
    false_alarms = 0
    for _ in range(400):
        common = rng.normal(size=80)
        first, second = (target + common + rng.normal(size=80) for _ in range(2))
        false_alarms += delong.compare(target, first, second).p < 0.05
    assert 8 <= false_alarms <= 34
