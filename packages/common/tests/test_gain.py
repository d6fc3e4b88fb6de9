import numpy as np
import pytest
from scipy.stats import t

from cxr_common.gain import LEAST_PATIENTS, auroc_gain, leave_one_out, over_seeds
from cxr_data.models.metrics import auroc, macro


def case(n: int = 120, labels: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, labels)) < 0.4).astype(np.float64)
    first, second = (np.round(y * strength + rng.normal(size=y.shape), 1) for strength in (1.4, 0.9))  # with ties
    y[rng.random(y.shape) < 0.1] = np.nan
    return y, first, second, np.arange(n) // 2


def test_one_label_and_a_patient_an_image_is_delong() -> None:
    y, first, second, _ = (a[:, :1] if a.ndim == 2 else a for a in case())
    known = ~np.isnan(y[:, 0])
    positive = y[known, 0] == 1
    differences = []
    for one in (first, second):
        own = one[known, 0]
        pairs = own[positive][:, None] - own[~positive]
        differences.append(np.where(pairs > 0, 1.0, np.where(pairs == 0, 0.5, 0.0)))
    psi = differences[0] - differences[1]
    m, n = psi.shape
    variance = np.var(psi.mean(1), ddof=1) / m + np.var(psi.mean(0), ddof=1) / n  # DeLong et al. 1988, eq. 4 to 6
    gain = auroc_gain(y, first, second, np.arange(len(y)))
    assert gain.difference == pytest.approx(psi.mean(), abs=1e-12)
    assert (gain.high - gain.low) / 2 == pytest.approx(1.98 * np.sqrt(variance), rel=0.05)  # t and the jackknife


def test_the_interval_is_that_of_the_bootstrap_by_patient() -> None:
    y, first, second, patients = case(n=400)
    rng = np.random.default_rng(1)
    members = [np.flatnonzero(patients == p) for p in range(patients.max() + 1)]
    drawn = []
    for _ in range(400):
        rows = np.concatenate([members[p] for p in rng.integers(0, len(members), len(members))])
        drawn.append(macro(auroc(y[rows], first[rows])) - macro(auroc(y[rows], second[rows])))
    gain = auroc_gain(y, first, second, patients)
    assert gain.difference == pytest.approx(macro(auroc(y, first)) - macro(auroc(y, second)), abs=1e-12)
    assert (gain.high - gain.low) / 2 == pytest.approx(1.96 * np.std(drawn), rel=0.12)


def test_every_image_twice_is_no_news() -> None:
    y, first, second, _ = case()
    once = auroc_gain(y, first, second, np.arange(len(y)))
    rows = np.repeat(np.arange(len(y)), 2)
    twice = auroc_gain(y[rows], first[rows], second[rows], rows)
    assert twice == pytest.approx(once)


def test_undefined_is_nan_and_equal_is_zero() -> None:
    y, first, second, patients = case()
    assert auroc_gain(y, first, first, patients) == (0, 0, 0)
    assert np.isnan(auroc_gain(np.zeros_like(y), first, second, patients)).all()
    alone = auroc_gain(y, first, second, np.zeros(len(y)))
    assert np.isfinite(alone.difference)
    assert np.isnan(alone.low)
    # One patient with the finding says nothing on how the next would be ranked.
    once = auroc_gain([[1], [0], [0], [0], [0]], np.arange(5)[:, None], -np.arange(5)[:, None], np.arange(5))
    assert once.difference == -1
    assert np.isnan(once.low)
    assert np.isnan(once.high)


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.91, 0.93, 0.95]
    mean, half = over_seeds(values)
    expected = t.interval(0.95, 2, loc=np.mean(values), scale=np.std(values, ddof=1) / np.sqrt(3))
    assert (mean - half, mean + half) == pytest.approx(expected)
    assert over_seeds([0.9]) == (0.9, pytest.approx(np.nan, nan_ok=True))


def test_leaving_out_a_patient_is_computing_without_his_images() -> None:
    y, first, _, patients = case(labels=1)
    known = ~np.isnan(y[:, 0])
    target, score, patient = y[known, 0], first[known, 0], patients[known]
    value, without = leave_one_out(target, score, patient, patients.max() + 1)
    assert value == pytest.approx(auroc(target[:, None], score[:, None])[0])
    for one in range(patients.max() + 1):
        kept = patient != one
        assert without[one] == pytest.approx(auroc(target[kept][:, None], score[kept][:, None])[0], abs=1e-12)


def test_a_single_label_of_few_patients_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 60, 1))
    for positive in (LEAST_PATIENTS - 1, LEAST_PATIENTS):
        y = (np.arange(60) < positive)[:, None] * 1.0
        assert np.isnan(auroc_gain(y, first, second, np.arange(60)).low) == (positive < LEAST_PATIENTS)
