import numpy as np
import pytest

from cxr_eval.metrics import calibration as metrics
from cxr_eval.statistics import bootstrap, calibration


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    patient = np.sort(rng.integers(0, 300, 900))
    patient = np.unique(patient, return_inverse=True)[1]
    z = rng.normal(size=(900, 2)) * 1.5 - 0.5
    targets = (rng.random((900, 2)) < 1 / (1 + np.exp(-0.7 * z - 0.3))).astype(np.float32)
    targets[rng.random((900, 2)) < 0.1] = np.nan
    weights = bootstrap.draw_weights(int(patient.max()) + 1, 200, seed=0)
    return targets, 1 / (1 + np.exp(-z)), patient, weights


def rows_of(patient, weights, r):
    return np.repeat(np.arange(len(patient)), weights[patient, r].astype(int))


def test_one_step_estimates_come_close_to_the_regression_of_each_resample(problem):
    targets, p, patient, weights = problem
    drawn = calibration.resample(targets, p, patient, weights, ["calibration_slope", "calibration_intercept"])
    refitted = {"calibration_slope": [], "calibration_intercept": []}
    for r in range(60):
        rows = rows_of(patient, weights, r)
        slope, intercept = metrics.recalibration(targets[rows], p[rows])
        refitted["calibration_slope"].append(slope)
        refitted["calibration_intercept"].append(intercept)
    for name, values in refitted.items():
        exact, quick = np.array(values), drawn[name][:60]
        spread = exact.std(axis=0)
        assert np.all(np.sqrt(np.mean((quick - exact) ** 2, axis=0)) < 0.2 * spread), name
        np.testing.assert_allclose(quick.std(axis=0), spread, rtol=0.1)


def test_figures_of_a_label_without_both_classes_are_nan():
    targets = np.stack([np.zeros(40), np.full(40, np.nan)], axis=1).astype(np.float32)
    weights = bootstrap.draw_weights(40, 3, seed=0)
    drawn = calibration.resample(targets, np.full((40, 2), 0.3), np.arange(40), weights)
    np.testing.assert_allclose(drawn["brier"][:, 0], 0.09, rtol=1e-6)
    assert np.isnan(drawn["calibration_slope"]).all()
    assert np.isnan(drawn["calibration_intercept"]).all()
    assert np.isnan(drawn["brier"][:, 1]).all()
