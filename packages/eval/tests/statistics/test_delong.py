import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_data.models.metrics import auroc
from cxr_eval.statistics import bootstrap, delong
from cxr_eval.statistics.ranking import ranking


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
    drawn = ranking(target[:, None], score[:, None], patient, weights, ["auroc"])["auroc"]
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


# The 43 complete patients of the example in DeLong, DeLong & Clarke-Pearson 1988: albumin, total protein, K-G score,
# and whether surgery relieved the obstruction.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def test_published_example_of_the_method():
    """Areas, standard errors and tests as printed in the SAS/STAT User's Guide, "Comparing ROC Curves"."""
    albumin, protein, score, relieved = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    tests = np.stack([albumin, protein, 10 - score])
    areas, cov = delong.covariance(relieved, tests)
    np.testing.assert_allclose(areas, [0.7366, 0.6478, 0.7258], atol=5e-5)
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), [0.0927, 0.1000, 0.1028], atol=5e-5)
    for first, gap, error, p in ((0, 0.0108, 0.0953, 0.9102), (1, -0.0780, 0.1046, 0.4561)):
        actual = delong.difference(areas, cov, first, 2)
        np.testing.assert_allclose([actual.difference, actual.standard_error, actual.p], [gap, error, p], atol=5e-5)


def slow_clustered_variance(target, score, cluster):
    """Obuchowski 1997, from all pairs and with one loop a cluster."""
    positive, negative = score[target == 1], score[target == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    area, m, n = wins.mean(), len(positive), len(negative)
    v10, v01 = wins.mean(axis=1), wins.mean(axis=0)
    of_positive, of_negative = cluster[target == 1], cluster[target == 0]
    i10, i01, i = len(set(of_positive)), len(set(of_negative)), len(set(cluster))
    s10 = s01 = s11 = 0.0
    for c in set(cluster):
        x, y = np.sum(v10[of_positive == c] - area), np.sum(v01[of_negative == c] - area)
        s10, s01, s11 = s10 + x * x, s01 + y * y, s11 + x * y
    s10, s01, s11 = i10 / ((i10 - 1) * m) * s10, i01 / ((i01 - 1) * n) * s01, i / (i - 1) * s11
    return s10 / m + s01 / n + 2 * s11 / (m * n)


@given(st.integers(20, 60), st.sampled_from([3, 1000]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_clustered_variance_equals_the_definition(n, grid, seed):
    rng = np.random.default_rng(seed)
    target = np.arange(n) % 2
    score = np.floor((target + rng.normal(size=n)) * grid)
    cluster = rng.integers(0, n // 3, n)
    cluster[:8] = [0, 1, 2, 3, 4, 5, 6, 7]
    _, cov = delong.covariance(target.astype(np.float32), score[None], cluster)
    np.testing.assert_allclose(cov[0, 0], slow_clustered_variance(target, score, cluster), rtol=1e-9, atol=1e-14)


def test_a_gap_without_variance_is_no_proof():
    target = np.arange(20) % 2 * 1.0
    actual = delong.compare(target, target, np.full(20, 0.5))
    assert (actual.difference, actual.standard_error) == (0.5, 0)
    assert np.isnan(actual.p)
    assert delong.compare(target, target, 2 * target).p == 1.0
