import numpy as np
import pytest

from cxr_deploy.export.agreement import agreement
from cxr_deploy.export.export import _decision_lines


def test_decisions_are_compared_by_the_thresholds_of_the_file(lively):
    _, header = lively()  # multilabel, thresholds 0.4, 0.5, 0.6
    targets = np.array([[1, 0, 1], [0, 1, 0], [1, 1, np.nan], [0, 0, 0]], np.float32)
    before = np.array([[0.9, 0.1, 0.7], [0.1, 0.9, 0.1], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]], np.float32)
    after = before.copy()
    after[0, 0], after[3, 2], after[0, 2] = 0.39, 0.61, 0.65  # a hit lost, an alarm more, and no change
    actual = agreement(targets, before, after, header)
    assert actual["agreement"] == pytest.approx(10 / 12)
    assert actual["sensitivity_change"] == pytest.approx(-0.5 / 3)
    assert actual["specificity_change"] == pytest.approx(-0.5 / 3)
    assert agreement(targets * 0, before, before, header)["sensitivity_change"] is None


def test_of_two_classes_the_positive_one_counts(lively):
    _, header = lively(task="multiclass", labels=("NORMAL", "PNEUMONIA"))  # thresholds 0.4, 0.5
    targets = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    before = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8]], np.float32)
    after = before.copy()
    after[3] = 0.6, 0.4
    actual = agreement(targets, before, after, header)
    assert actual == {"agreement": 0.75, "sensitivity_change": -0.5, "specificity_change": 0.0}


def test_a_warning_is_said_where_thresholds_fit_no_more():
    kept = {"agreement": 0.96, "sensitivity_change": -0.05, "specificity_change": None}
    said, warning = _decision_lines(kept)
    assert said == "96.0% of its decisions are those of the float file, sensitivity -0.050"
    assert warning.startswith("warning: below 97%")
    assert len(_decision_lines({**kept, "agreement": 0.97})) == 1
