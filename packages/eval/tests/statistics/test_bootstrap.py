import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_eval.metrics import classification
from cxr_eval.metrics.classification import DECISION, METRICS, PREVALENCE_DEPENDENT, RANKING
from cxr_eval.statistics import bootstrap
from cxr_eval.statistics.ranking import ranking


@st.composite
def problems(draw):
    n, labels, patients = draw(st.integers(2, 40)), draw(st.integers(1, 3)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    targets = (rng.random((n, labels)) < draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))).astype(np.float32)
    targets[rng.random((n, labels)) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    scores = rng.integers(0, draw(st.sampled_from([1, 4, 1000])) + 1, (n, labels)) / 1000
    patient = np.unique(rng.integers(0, patients, n), return_inverse=True)[1]
    return targets, scores, scores >= 0.002, patient


EXACT = (*RANKING, *DECISION, "brier")
"""What a resample gives exactly; ECE and recalibration are tested with the calibration of resamples."""


@given(problems())
@settings(deadline=None, max_examples=40)
def test_a_resample_equals_the_metric_of_the_images_drawn(problem):
    """Weights must do what repeating the images of each drawn patient does."""
    targets, scores, decisions, patient = problem
    weights = bootstrap.draw_weights(bootstrap.strata(targets, patient), 5, seed=1)
    drawn = bootstrap.resample(targets, scores, decisions, patient, weights, EXACT)
    for r in range(5):
        rows = np.repeat(np.arange(len(targets)), weights[patient, r].astype(int))
        expected = classification.per_label(targets[rows], scores[rows], decisions[rows], EXACT)
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
    nobody = np.zeros(50, np.int64)
    weights = bootstrap.draw_weights(nobody, 200, seed=3)
    assert weights.shape == (50, 200)
    np.testing.assert_array_equal(weights.sum(axis=0), 50)
    np.testing.assert_array_equal(weights, bootstrap.draw_weights(nobody, 200, seed=3))
    # Each count is Binomial(50, 1/50): mean 1, variance 0.98.
    assert abs(weights.var() - 0.98) < 0.06
    assert not np.array_equal(weights, bootstrap.draw_weights(nobody, 200, seed=4))


def test_every_resample_holds_as_many_patients_of_each_stratum_as_the_data():
    stratum = np.array([0] * 30 + [2] * 12 + [5] * 7)
    weights = bootstrap.draw_weights(stratum, 100, seed=0)
    for number, size in ((0, 30), (2, 12), (5, 7)):
        np.testing.assert_array_equal(weights[stratum == number].sum(axis=0), size)
        assert weights[stratum == number].std() > 0.5


def test_the_stratum_of_a_patient_is_its_rarest_finding():
    patient = np.arange(60).repeat(2)
    targets = np.zeros((120, 3), np.float32)
    targets[:80:2, 0] = 1  # patients 0-39, in one of their two images
    targets[:20, 1] = 1  # patients 0-9
    targets[100:106, 2] = 1  # patients 50-52: too few
    targets[110, :] = np.nan
    expected = [2] * 10 + [1] * 30 + [0] * 20
    assert bootstrap.strata(targets, patient).tolist() == expected


def test_strata_too_small_to_resample_join_the_others():
    targets = np.zeros((40, 2), np.float32)
    targets[:12, 0] = targets[:10, 1] = 1  # the rarer finding leaves the commoner one 2 patients
    assert bootstrap.strata(targets, np.arange(40)).tolist() == [2] * 10 + [0] * 30
    everyone = np.ones((20, 1), np.float32)
    everyone[:2] = 0
    assert bootstrap.strata(everyone, np.arange(20)).tolist() == [1] * 20


def test_clusters_widen_the_interval_when_images_of_a_patient_are_copies():
    rng = np.random.default_rng(0)
    targets = (rng.random((100, 1)) < 0.5).astype(np.float32).repeat(8, axis=0)
    scores = (targets[::8] + rng.normal(size=(100, 1))).repeat(8, axis=0)

    def width(patient):
        weights = bootstrap.draw_weights(np.zeros(patient.max() + 1, np.int64), 400, seed=0)
        low, high = bootstrap.interval(ranking(targets, scores, patient, weights, ["auroc"])["auroc"])
        return float(high[0] - low[0])

    ratio = width(np.arange(100).repeat(8)) / width(np.arange(800))
    assert 2.2 < ratio < 3.6  # sqrt(8) = 2.83 in theory


def test_interval_covers_the_true_auroc_as_often_as_it_says():
    rng = np.random.default_rng(0)
    true = 0.7602499389065233  # Phi(1 / sqrt(2)): two unit normals one apart
    hits = 0
    for seed in range(100):
        targets = np.arange(120)[:, None] % 2 * 1.0
        scores = targets + rng.normal(size=(120, 1))
        weights = bootstrap.draw_weights(bootstrap.strata(targets, np.arange(120)), 200, seed)
        low, high = bootstrap.interval(ranking(targets, scores, np.arange(120), weights, ["auroc"])["auroc"])
        hits += low[0] <= true <= high[0]
    assert 87 <= hits <= 100


def test_the_plain_draw_varies_the_prevalence_and_the_stratified_one_does_not():
    targets = (np.arange(100)[:, None] < 30) * 1.0
    draws = bootstrap.draw(targets, np.arange(100), 400, seed=0)
    sick = [weights[:30].sum(axis=0) for weights in (draws.stratified, draws.plain)]
    np.testing.assert_array_equal(sick[0], 30)
    assert sick[1].std() == pytest.approx((100 * 0.3 * 0.7) ** 0.5, rel=0.1)
    # Two streams: neither draw says anything of the other.
    assert abs(np.corrcoef(draws.stratified.ravel(), draws.plain.ravel())[0, 1]) < 0.03
    some = draws.of(np.array([3, 50]))
    np.testing.assert_array_equal(some.plain, draws.plain[[3, 50]])
    np.testing.assert_array_equal(some.stratified, draws.stratified[[3, 50]])


def test_each_metric_comes_from_the_draw_that_suits_it():
    rng = np.random.default_rng(0)
    targets, p = (rng.random((80, 2)) < 0.3) * 1.0, rng.random((80, 2))
    draws = bootstrap.draw(targets, np.arange(80), 30, seed=0)
    found = bootstrap.resample_each(targets, p, p > 0.5, np.arange(80), draws)
    assert list(found) == list(METRICS)
    for dependent, weights in ((False, draws.stratified), (True, draws.plain)):
        alone = bootstrap.resample(targets, p, p > 0.5, np.arange(80), weights)
        for name in METRICS:
            if (name in PREVALENCE_DEPENDENT) == dependent:
                np.testing.assert_array_equal(found[name], alone[name], err_msg=name)


def test_what_is_called_prevalence_dependent_is_and_nothing_else():
    """Every negative twice: the model answers each class as before, and only the prevalence is another."""
    rng = np.random.default_rng(0)
    targets = (np.arange(400)[:, None] < 150) * 1.0
    z = 0.5 * targets + rng.normal(size=(400, 1))
    rows = np.concatenate([np.arange(150), np.arange(150, 400).repeat(2)])
    before, after = (
        classification.per_label(targets[i], 1 / (1 + np.exp(-z[i])), z[i] > 0.3) for i in (np.arange(400), rows)
    )
    changed = {name for name in METRICS if abs(before[name][0] - after[name][0]) > 1e-12}
    assert changed == PREVALENCE_DEPENDENT


@pytest.mark.parametrize("prevalence", [0.1, 0.3, 0.75])
def test_intervals_cover_what_depends_on_the_prevalence_as_often_as_they_say(prevalence):
    """Of a model that calls nearly everything; strata would cover 0.76-0.89, 0.36-0.51 and 0.39-0.70 of the time."""
    rng = np.random.default_rng(0)
    sensitivity, false_alarms, n, sets = 0.95, 0.85, 250, 500
    called = prevalence * sensitivity + (1 - prevalence) * false_alarms
    true = {
        "accuracy": prevalence * sensitivity + (1 - prevalence) * (1 - false_alarms),
        "precision": prevalence * sensitivity / called,
        "f1": 2 * prevalence * sensitivity / (prevalence + called),
    }
    hits = dict.fromkeys(true, 0)
    for seed in range(sets):
        targets = (rng.random((n, 1)) < prevalence) * 1.0
        decisions = rng.random((n, 1)) < np.where(targets == 1, sensitivity, false_alarms)
        draws = bootstrap.draw(targets, np.arange(n), 200, seed)
        drawn = bootstrap.resample_each(targets, targets, decisions, np.arange(n), draws, list(true))
        for name, value in true.items():
            low, high = bootstrap.interval(drawn[name])
            hits[name] += low[0] <= value <= high[0]
    assert {name: 0.91 <= count / sets <= 0.98 for name, count in hits.items()} == dict.fromkeys(true, True), hits


def test_interval_is_nan_when_most_resamples_are_undefined():
    values = np.full((10, 2), np.nan)
    values[:4, 0], values[:6, 1] = 0.5, 0.7
    low, high = bootstrap.interval(values)
    assert np.isnan(low[0])
    assert np.isnan(high[0])
    assert low[1] == high[1] == 0.7


@pytest.mark.parametrize("n", [1, 7, 20, 500])
def test_exact_interval_is_scipys(n):
    for hits in (0, n):
        for level in (0.9, 0.95):
            expected = stats.binomtest(hits, n).proportion_ci(level, method="exact")
            assert bootstrap.exact_interval(hits / n, n, level) == pytest.approx((expected.low, expected.high))
    assert np.isnan(bootstrap.exact_interval(0.5, n)).all()


def test_resamples_are_constant_where_the_defined_ones_agree():
    assert bootstrap.constant(np.array([1.0, np.nan, 1.0]))
    assert not bootstrap.constant(np.array([1.0, 0.99]))
    assert not bootstrap.constant(np.full(3, np.nan))


def test_paired_difference_of_a_model_with_itself_is_nothing():
    values = np.random.default_rng(0).random(100)
    same = bootstrap.paired_difference(values, values)
    assert (same.low, same.high, same.p) == (0, 0, 1)


def test_paired_difference_p_counts_the_tail():
    reference = np.zeros(99)
    values = np.where(np.arange(99) < 4, -0.1, 0.1)
    assert bootstrap.paired_difference(values, reference).p == pytest.approx(2 * 5 / 100)
    assert bootstrap.paired_difference(np.full(99, 0.1), reference).p == pytest.approx(2 / 100)
    assert np.isnan(bootstrap.paired_difference(np.full(99, np.nan), reference).p)


def test_basic_interval_takes_out_the_bias_of_absolute_errors():
    drawn = np.linspace(0.04, 0.12, 1001)  # centred on 0.08: twice the estimate
    low, high = bootstrap.basic_interval(drawn, 0.04)
    assert low == pytest.approx(0.0)
    assert high == 0.04  # 2 * 0.04 - 0.042 would lie below the estimate
    low, high = bootstrap.basic_interval(drawn, 0.08)
    assert (low, high) == pytest.approx((0.16 - 0.118, 0.16 - 0.042))
    assert np.isnan(bootstrap.basic_interval(np.full(10, np.nan), 0.1)).all()
