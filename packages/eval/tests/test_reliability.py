import numpy as np
from scipy import stats

from cxr_eval.reliability import curve, wilson


def test_wilson_is_scipys():
    for hits, n in ((0, 10), (3, 10), (10, 10), (40, 333)):
        low, high = wilson(np.array([hits / n]), np.array([n]))
        expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
        np.testing.assert_allclose([low[0], high[0]], [expected.low, expected.high], atol=1e-12)


def test_a_curve_without_known_targets_is_empty():
    assert curve(np.full(5, np.nan), np.full(5, 0.5)) == []
