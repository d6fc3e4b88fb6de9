import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cxr_common.jackknife import SCALES, Spread, interval, p_below, p_value, spread


def without_each(values: np.ndarray) -> np.ndarray:
    return (values.sum() - values) / (len(values) - 1)


def test_of_a_mean_it_is_the_standard_error_and_t_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    about = spread(values.mean(), without_each(values))
    assert about.error == pytest.approx(values.std(ddof=1) / 2000**0.5)
    assert about.degrees == pytest.approx(2000, rel=0.15)
    expected = stats.norm.interval(0.95, values.mean(), about.error)
    assert interval(values.mean(), about) == pytest.approx(expected, abs=1e-4)
    assert p_value(values.mean(), about) == pytest.approx(tuple(stats.ttest_1samp(values, 0))[1], rel=0.01)


def test_degrees_of_freedom_count_the_patients_that_carry_the_variance() -> None:
    values = np.zeros(300)
    values[:8] = np.random.default_rng(0).choice([-1.0, 1.0], 8)
    about = spread(values.mean(), without_each(values))
    assert 12 < about.degrees < 20  # 2 · 8, as their fourth powers are those of signs, not of normals


def test_wilson_is_scipys_for_independent_trials_and_many_patients() -> None:
    hits, n = 950, 1000
    about = Spread((0.95 * 0.05 / n) ** 0.5, 1e9)
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert interval(0.95, about, "proportion") == pytest.approx((expected.low, expected.high))


@given(st.floats(0.01, 0.99), st.floats(1e-4, 0.3), st.floats(1, 500), st.sampled_from(SCALES))
def test_an_interval_holds_its_value_and_stays_in_its_range(value, error, degrees, scale) -> None:
    low, high = interval(value, Spread(error, degrees), scale)
    assert low <= value <= high
    if scale in ("logit", "proportion"):
        assert low >= 0
        assert high <= 1
    elif scale == "signed logit":
        assert low >= -1
        assert high <= 1


def test_p_and_interval_agree() -> None:
    for value in (-0.3, 0.05, 0.2):
        about = Spread(0.08, 7.0)
        low, high = interval(value, about, "difference")
        assert high - value == pytest.approx(stats.t.isf(0.025, 2 * 7) * 0.08)
        assert (p_value(value, about) < 0.05) == (low > 0 or high < 0)
        assert (p_below(value, about, -0.02) < 0.025) == (low > -0.02)


def test_undefined_is_nan() -> None:
    assert np.isnan(spread(0.5, np.array([0.5, np.nan]))).all()
    assert np.isnan(spread(0.5, np.array([0.5]))).all()
    assert np.isnan(spread(np.nan, np.zeros(3))).all()
    still = spread(1.0, np.ones(10))
    assert still.error == 0
    for scale in SCALES:
        assert np.isnan(interval(1.0, still, scale)).all()
        assert np.isnan(interval(1.0, Spread(np.nan, np.nan), scale)).all()
    assert np.isnan(p_value(0.5, still))
    with pytest.raises(ValueError, match="scale"):
        interval(0.5, Spread(0.1, 5.0), "log")
