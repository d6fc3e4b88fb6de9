import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_data.models.metrics import auroc
from cxr_eval.metrics import classification, compute, records
from cxr_eval.metrics.records import METRICS, Metric
from cxr_eval.statistics import bootstrap


@st.composite
def problems(draw):
    n, labels, patients = draw(st.integers(2, 40)), draw(st.integers(1, 3)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    targets = (rng.random((n, labels)) < draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))).astype(np.float32)
    targets[rng.random((n, labels)) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    scores = rng.integers(0, draw(st.sampled_from([1, 4, 1000])) + 1, (n, labels)) / 1000
    patient = np.unique(rng.integers(0, patients, n), return_inverse=True)[1]
    return targets, scores, scores >= 0.002, patient


EXACT = [*records.of_family("ranking"), *records.of_family("decision"), "brier"]
"""What a resample gives exactly; ECE and recalibration are tested with the calibration of resamples."""


@given(problems())
@settings(deadline=None, max_examples=40)
def test_a_resample_equals_the_metric_of_the_images_drawn(problem):
    """Weights must do what repeating the images of each drawn patient does."""
    targets, scores, decisions, patient = problem
    weights = bootstrap.draw_weights(int(patient.max()) + 1, 5, seed=1)
    drawn = compute.resample(targets, scores, decisions, patient, weights, EXACT)
    for r in range(5):
        rows = np.repeat(np.arange(len(targets)), weights[patient, r].astype(int))
        expected = compute.per_label(targets[rows], scores[rows], decisions[rows], EXACT)
        for name in EXACT:
            limit = 1e-6 if name == "brier" else 1e-9
            np.testing.assert_allclose(drawn[name][r], expected[name], rtol=limit, atol=limit, err_msg=name)
        np.testing.assert_array_equal(drawn["positives"][r], expected["tp"] + expected["fn"])
        for name in EXACT:
            one = classification.macro(expected[name])
            other = classification.weighted(expected[name], expected["tp"] + expected["fn"])
            np.testing.assert_allclose(classification.macro(drawn[name][r]), one, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(
                classification.weighted(drawn[name][r], drawn["positives"][r]), other, rtol=1e-6, atol=1e-7
            )


def test_weights_are_draws_with_replacement_and_the_same_for_the_same_seed():
    weights = bootstrap.draw_weights(50, 200, seed=3)
    assert weights.shape == (50, 200)
    np.testing.assert_array_equal(weights.sum(axis=0), 50)
    np.testing.assert_array_equal(weights, bootstrap.draw_weights(50, 200, seed=3))
    # Each count is Binomial(50, 1/50): mean 1, variance 0.98.
    assert abs(weights.var() - 0.98) < 0.06
    assert not np.array_equal(weights, bootstrap.draw_weights(50, 200, seed=4))


def test_clusters_widen_the_interval_when_images_of_a_patient_are_copies():
    rng = np.random.default_rng(0)
    targets = (rng.random((100, 1)) < 0.5).astype(np.float32).repeat(8, axis=0)
    scores = (targets[::8] + rng.normal(size=(100, 1))).repeat(8, axis=0)

    def error(patient):
        draws = bootstrap.draw(int(patient.max()) + 1, 10, 0)
        values = bootstrap.replicates(targets, scores, scores > 0.5, patient, draws, ["auroc"])["auroc"][:, 0]
        return bootstrap.spread_of(METRICS["auroc"], float(auroc(targets, scores)[0]), values).error

    assert error(np.arange(100).repeat(8)) / error(np.arange(800)) == pytest.approx(8**0.5, rel=0.1)


def test_the_jackknife_leaves_out_each_patient_or_each_group_of_patients():
    draws = bootstrap.draw(7, 3, seed=0)
    np.testing.assert_array_equal(draws.jackknife, 1 - np.eye(7))
    many = bootstrap.draw(bootstrap.MOST_GROUPS * 2 + 1, 3, seed=0).jackknife
    assert many.shape[1] == bootstrap.MOST_GROUPS
    np.testing.assert_array_equal((many == 0).sum(axis=1), 1)
    assert set((many == 0).sum(axis=0)) == {2, 3}
    some = draws.of(np.array([3, 5]))
    np.testing.assert_array_equal(some.jackknife, draws.jackknife[[3, 5]])
    np.testing.assert_array_equal(some.bootstrap, draws.bootstrap[[3, 5]])


def test_each_metric_comes_from_the_replicates_that_its_record_names():
    rng = np.random.default_rng(0)
    targets, p = (rng.random((80, 2)) < 0.3) * 1.0, rng.random((80, 2))
    draws = bootstrap.draw(80, 30, seed=0)
    actual = bootstrap.replicates(targets, p, p > 0.5, np.arange(80), draws)
    for kind, weights in (("jackknife", draws.jackknife), ("bootstrap", draws.bootstrap)):
        names = [name for name, metric in METRICS.items() if metric.interval == kind]
        alone = compute.resample(targets, p, p > 0.5, np.arange(80), weights, names)
        for name in names:
            np.testing.assert_array_equal(actual[name], alone[name], err_msg=name)
    assert set(actual) == {n for n, m in METRICS.items() if m.interval != "none"} | {"positives", "bootstrap positives"}


def test_a_metric_that_knows_no_weights_is_computed_for_each_replicate(monkeypatch):
    mean = Metric("mean", "Mean", "mean score", "ranking", of_arrays=lambda t, s, d: s.mean(axis=0))
    monkeypatch.setitem(METRICS, "mean", mean)
    p = np.random.default_rng(0).random((20, 2))
    draws = bootstrap.draw(10, 5, seed=0)
    actual = bootstrap.replicates(p * 0, p, p > 0.5, np.arange(20) // 2, draws, ["mean"])["mean"]
    np.testing.assert_allclose(actual[3], np.delete(p, [6, 7], axis=0).mean(axis=0))


def test_what_is_called_prevalence_dependent_is_and_nothing_else():
    """Every negative twice: the model answers each class as before, and only the prevalence is another."""
    rng = np.random.default_rng(0)
    targets = (np.arange(400)[:, None] < 150) * 1.0
    z = 0.5 * targets + rng.normal(size=(400, 1))
    rows = np.concatenate([np.arange(150), np.arange(150, 400).repeat(2)])
    before, after = (compute.per_label(targets[i], 1 / (1 + np.exp(-z[i])), z[i] > 0.3) for i in (np.arange(400), rows))
    changed = {name for name in METRICS if abs(before[name][0] - after[name][0]) > 1e-12}
    assert changed == {name for name, metric in METRICS.items() if metric.prevalence}


@pytest.mark.parametrize("n", [1, 7, 20, 500])
def test_exact_interval_is_scipys(n):
    for hits in (0, n):
        for level in (0.9, 0.95):
            expected = stats.binomtest(hits, n).proportion_ci(level, method="exact")
            assert bootstrap.exact_interval(hits / n, n, level) == pytest.approx((expected.low, expected.high))
    assert np.isnan(bootstrap.exact_interval(0.5, n)).all()


def test_the_bootstrap_of_any_statistic_draws_whole_groups():
    rng = np.random.default_rng(0)
    values = rng.normal(size=60).repeat(5)
    patients = np.arange(60).repeat(5)
    actual = bootstrap.bootstrap(np.mean, values, groups=patients, resamples=800)
    assert actual.value == pytest.approx(values.mean())
    assert actual.high - actual.low == pytest.approx(2 * 1.96 * values[::5].std(ddof=1) / 60**0.5, rel=0.15)
    assert actual == bootstrap.bootstrap(np.mean, values, groups=patients, resamples=800)
    rarely = bootstrap.bootstrap(lambda x: np.nan, values, resamples=10)
    assert np.isnan(rarely).all()
    with pytest.raises(ValueError, match="one length"):
        bootstrap.bootstrap(np.mean, [1, 2], [1])
    with pytest.raises(ValueError, match="one entry per row"):
        bootstrap.bootstrap(np.mean, [1, 2], groups=[1])
