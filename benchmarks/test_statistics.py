"""Speed of the statistics, against the loops they replace.

    uv run pytest benchmarks/test_statistics.py -m benchmark -n 0 -s

A loop over scikit-learn takes minutes: a few of its resamples are timed and the rest is scaled, as all cost the same.
"""

import time

import numpy as np
import pytest
import sklearn.metrics as peer

from cxr_eval.metrics import compute
from cxr_eval.statistics import bootstrap, delong
from cxr_eval.statistics.ranking import ranking

TITLE = "Statistics"
IMAGES, LABELS, PATIENTS, RESAMPLES = 25_596, 14, 2_797, 2_000
TIMED = 3
"""Resamples of the scikit-learn loop that are timed."""
PROBLEM = f"{IMAGES:,} images, {LABELS} labels, {RESAMPLES:,} resamples"


@pytest.fixture(scope="module")
def problem():
    """Answers of the size of ChestX-ray14's test part, prevalence 20 to 0.4 %, a third of the scores tied."""
    rng = np.random.default_rng(0)
    targets = (rng.random((IMAGES, LABELS)) < np.geomspace(0.2, 0.004, LABELS)).astype(np.float32)
    scores = rng.random((IMAGES, LABELS)) * 0.6 + 0.4 * targets * rng.random((IMAGES, LABELS))
    scores[::3] = np.round(scores[::3], 2)
    patient = np.unique(rng.integers(0, PATIENTS, IMAGES), return_inverse=True)[1]
    return targets, scores, scores > 0.5, patient


def loop(problem, weights, resamples):
    """AUROC and F1 as a loop over scikit-learn, (resamples, L) each."""
    targets, scores, decisions, patient = problem
    areas, f1 = np.empty((resamples, LABELS)), np.empty((resamples, LABELS))
    for r in range(resamples):
        rows = np.repeat(np.arange(IMAGES), weights[patient, r].astype(int))
        for label in range(LABELS):
            areas[r, label] = peer.roc_auc_score(targets[rows, label], scores[rows, label])
            f1[r, label] = peer.f1_score(targets[rows, label], decisions[rows, label])
    return areas, f1


@pytest.mark.benchmark
def test_bootstrap_of_auroc_and_f1_is_at_least_35_times_a_scikit_learn_loop(problem, benchmark, record):
    targets, scores, decisions, patient = problem

    def ours():
        weights = bootstrap.draw_weights(int(patient.max()) + 1, RESAMPLES, seed=0)
        return weights, compute.resample(targets, scores, decisions, patient, weights, ["auroc", "f1"])

    weights, actual = benchmark.pedantic(ours, rounds=3, warmup_rounds=1)
    start = time.perf_counter()
    areas, f1 = loop(problem, weights, TIMED)
    slow = (time.perf_counter() - start) * RESAMPLES / TIMED
    np.testing.assert_allclose(actual["auroc"][:TIMED], areas, rtol=0, atol=1e-9)
    np.testing.assert_allclose(actual["f1"][:TIMED], f1, rtol=0, atol=1e-9)
    fast = benchmark.stats.stats.median
    record(
        f"Bootstrap of AUROC and F1, {PROBLEM}",
        slow / fast,
        "x",
        peer="a loop over scikit-learn",
        least=35,
        detail=f"scikit-learn {slow:.0f} s (scaled from {TIMED} resamples), ours {fast:.2f} s",
    )


@pytest.mark.benchmark
def test_delong_is_at_least_1000_times_the_bootstrap_it_replaces(problem, benchmark, record):
    """Against a loop over resamples with scikit-learn; the ratio to our own bootstrap is told beside it."""
    targets, scores, _, patient = problem

    def ours():
        return [delong.covariance(targets[:, i], scores[:, i][None], patient) for i in range(LABELS)]

    actual = benchmark.pedantic(ours, rounds=5, warmup_rounds=1)
    weights = bootstrap.draw_weights(int(patient.max()) + 1, RESAMPLES, seed=0)
    start = time.perf_counter()
    drawn = ranking(targets, scores, patient, weights, ["auroc"])["auroc"]
    own = time.perf_counter() - start
    start = time.perf_counter()
    for r in range(TIMED):
        rows = np.repeat(np.arange(IMAGES), weights[patient, r].astype(int))
        for label in range(LABELS):
            peer.roc_auc_score(targets[rows, label], scores[rows, label])
    slow = (time.perf_counter() - start) * RESAMPLES / TIMED
    fast = benchmark.stats.stats.median
    errors = [float(cov[0, 0]) ** 0.5 for _, cov in actual]
    np.testing.assert_allclose(errors, drawn.std(axis=0), rtol=0.1)
    record(
        f"DeLong errors of AUROC clustered by patient, {PROBLEM}",
        slow / fast,
        "x",
        peer="a bootstrap that loops over scikit-learn",
        least=1000,
        detail=f"scikit-learn {slow:.0f} s (scaled from {TIMED} resamples), ours {1e3 * fast:.0f} ms",
    )
    record(
        f"DeLong errors of AUROC clustered by patient, {PROBLEM}",
        own / fast,
        "x",
        peer="our own bootstrap",
        detail=f"bootstrap {own:.2f} s, DeLong {1e3 * fast:.0f} ms",
    )
