import numpy as np
import pytest
import sklearn.metrics as peer
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_eval.curves import curves, index_of, thin


def area(curve):
    x, y = curve.roc
    return float(np.trapezoid(y, x))


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 30, 10**6]), st.sampled_from([0.02, 0.5]))
@settings(deadline=None, max_examples=20)
def test_exact_curve_has_the_area_of_scikit_learn_and_the_thinned_one_almost(seed, grid, prevalence):
    rng = np.random.default_rng(seed)
    target = (rng.random(3000) < prevalence).astype(np.float32)
    target[:2] = 0, 1
    score = np.floor((target * 1.2 + rng.normal(size=3000)) * grid) / grid
    curve = curves(target, score)
    assert area(curve) == pytest.approx(peer.roc_auc_score(target, score), abs=1e-12)
    thinned = thin(curve, points=100, keep=0.37)
    assert abs(area(thinned) - area(curve)) < 1 / 100
    assert len(thinned.tp) <= 310
    assert (thinned.tp[0], thinned.fp[0]) == (0, 0)
    assert (thinned.tp[-1], thinned.fp[-1]) == (curve.positives, curve.negatives)
    at = index_of(thinned, 0.37)
    called = score >= 0.37
    assert thinned.tp[at] == np.sum(called & (target == 1))
    assert thinned.fp[at] == np.sum(called & (target == 0))


def test_a_step_right_after_a_kept_point_does_not_lose_area():
    # One early false positive, then one huge tie: the corner between them must stay.
    target = np.concatenate([np.ones(400), np.zeros(600)])
    score = np.concatenate([np.linspace(2, 3, 400), np.full(600, 0.5)])
    assert area(thin(curves(target, score), points=20)) == pytest.approx(1.0)


def test_curves_of_one_class_and_of_nothing_are_empty():
    only = curves(np.array([1.0, 1.0, np.nan]), np.array([0.1, 0.9, 0.5]))
    assert len(only.roc[0]) == 0
    assert only.precision_recall[1].tolist() == [1, 1]
    nothing = curves(np.array([np.nan]), np.array([0.5]))
    assert len(nothing.roc[0]) == len(nothing.precision_recall[0]) == 0
