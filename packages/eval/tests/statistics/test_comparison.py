import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_eval.statistics.comparison import holm


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04: 4*.01, 3*.02, then never below what came before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, None, 0.4]) == pytest.approx([0.8, None, 0.8])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_adjustment_and_bonferroni_and_keeps_the_order(p):
    adjusted = np.array(holm(p), float)
    assert np.all(adjusted >= np.array(p))
    assert np.all(adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12)
    order = np.argsort(p)
    assert np.all(np.diff(adjusted[order]) >= 0)


def test_holm_rejects_a_true_hypothesis_as_rarely_as_promised():
    p = np.random.default_rng(0).random((2000, 6))
    wrong = np.mean([min(value for value in holm(list(row)) if value is not None) < 0.05 for row in p])
    assert 0.035 < wrong < 0.065
