import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxr_data.models.metrics import auroc, macro


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 60), levels=st.integers(1, 12))
def test_equals_scikit_learn_with_ties_and_missing_labels(seed, n, levels) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.choice([0, 1, np.nan], (n, 3), p=[0.45, 0.45, 0.1])
    scores = rng.integers(0, levels, (n, 3)) / levels
    actual = auroc(targets, scores)
    for label in range(3):
        known = ~np.isnan(targets[:, label])
        if len(set(targets[known, label])) < 2:
            assert np.isnan(actual[label])
        else:
            expected = roc_auc_score(targets[known, label], scores[known, label])
            assert actual[label] == pytest.approx(expected, abs=1e-12)


def test_macro_skips_the_undefined() -> None:
    assert macro([0.5, np.nan, 0.7]) == pytest.approx(0.6)
    assert np.isnan(macro([np.nan]))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        auroc(np.zeros((3, 2)), np.zeros((3, 1)))
