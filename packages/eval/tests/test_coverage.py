"""Intervals cover what they say: the short form of benchmarks/coverage.py."""

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from cxr_eval import compare, evaluate

COHORTS, PATIENTS, IMAGES = 250, 60, 2
STRENGTHS = (1.2, 0.9)
"""Mean of the positives in standard deviations, for each of two models."""


def cohort(rng):
    """Targets of two labels, and probabilities of two models whose errors are alike, of patients with two images."""
    patient = np.repeat(np.arange(PATIENTS), IMAGES)

    def clustered(share):
        own = rng.normal(size=(len(patient), 2))
        return np.sqrt(share) * rng.normal(size=(PATIENTS, 2))[patient] + np.sqrt(1 - share) * own

    targets = (clustered(0.7) > norm.isf((0.35, 0.2))).astype(float)
    common = clustered(0.5)
    scores = [expit(strength * targets + 0.8 * common + 0.6 * clustered(0.5)) for strength in STRENGTHS]
    return targets, *scores, patient


def test_intervals_of_auroc_of_its_mean_and_of_differences_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    # Normal scores of variance 1: the AUROC is that of two normals a strength apart.
    true, other = (float(norm.cdf(strength / np.sqrt(2))) for strength in STRENGTHS)
    hits = {"common": 0, "rare": 0, "macro": 0, "difference": 0, "macro difference": 0}
    counted = dict.fromkeys(hits, 0)
    for seed in range(COHORTS):
        targets, first, second, patient = cohort(rng)
        options = {"groups": patient, "metrics": ["auroc"], "resamples": 1, "seed": seed}
        one, both = evaluate(targets, first, **options), compare(targets, first, second, **options)
        actual = {
            "common": (one.labels["0"], true),
            "rare": (one.labels["1"], true),
            "macro": (one.overall, true),
            "difference": (both.labels["0"], true - other),
            "macro difference": (both.overall, true - other),
        }
        for name, (figures, truth) in actual.items():
            low, high = figures["auroc"].low, figures["auroc"].high
            counted[name] += not np.isnan(low)
            hits[name] += low <= truth <= high
    # 95 % with a standard error of 1.4 %: two and a half of them to either side.
    for name, count in counted.items():
        assert count > 0.95 * COHORTS, name
        assert 0.915 < hits[name] / count < 0.985, (name, hits[name] / count)
