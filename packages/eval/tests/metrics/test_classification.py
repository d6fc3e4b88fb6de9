from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_eval.metrics import classification as ours
from cxr_eval.metrics import compute
from cxr_eval.metrics.records import METRICS

peer: Any = sklearn.metrics

SKLEARN = {
    "f1": lambda t, p, d: peer.f1_score(t, d, zero_division=np.nan),
    "accuracy": lambda t, p, d: peer.accuracy_score(t, d),
    "precision": lambda t, p, d: peer.precision_score(t, d, zero_division=np.nan),
    "recall": lambda t, p, d: peer.recall_score(t, d, zero_division=np.nan),
    "specificity": lambda t, p, d: peer.recall_score(t, d, pos_label=0, zero_division=np.nan),
    "npv": lambda t, p, d: peer.precision_score(t, d, pos_label=0, zero_division=np.nan),
}


@st.composite
def problems(draw, least=1):
    """Targets, scores and decisions; scores on a coarse grid, so that ties abound, and labels may be degenerate."""
    n, width = draw(st.integers(1, 40)), draw(st.integers(least, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    targets = (rng.random((n, width)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))).astype(np.float32)
    targets[rng.random((n, width)) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    scores = rng.integers(0, draw(st.sampled_from([1, 3, 1000])) + 1, (n, width)) / 1000
    return targets, scores, scores >= draw(st.sampled_from([0.0, 0.001, 0.5]))


def at_levels(t, p):
    """Points of scikit-learn's ROC curve; levels compared as whole numbers of images."""
    if not 0 < t.sum() < len(t):
        return dict.fromkeys((n for n in METRICS if "_at_" in n), np.nan)
    fpr, tpr, _ = peer.roc_curve(t, p, drop_intermediate=False)
    positives, negatives = t.sum(), len(t) - t.sum()
    tp, fp = np.rint(tpr * positives), np.rint(fpr * negatives)
    actual = {}
    for level in (90, 95):
        actual[f"sensitivity_at_specificity_{level}"] = tpr[100 * (negatives - fp) >= level * negatives].max()
        actual[f"specificity_at_sensitivity_{level}"] = 1 - fpr[100 * tp >= level * positives].min()
    return actual


@given(problems())
@settings(deadline=None, max_examples=60)
def test_every_metric_equals_scikit_learn_and_is_nan_where_that_is_undefined(problem):
    targets, scores, decisions = problem
    values = compute.per_label(targets, scores, decisions)
    for label in range(targets.shape[1]):
        known = ~np.isnan(targets[:, label])
        t, p, d = targets[known, label], scores[known, label], decisions[known, label]
        if len(t) == 0:
            assert all(np.isnan(values[name][label]) for name in METRICS)
            continue
        for name, reference in SKLEARN.items():
            np.testing.assert_allclose(values[name][label], reference(t, p, d), rtol=1e-12, err_msg=name)
        both = 0 < t.sum() < len(t)
        expected = peer.roc_auc_score(t, p) if both else np.nan
        np.testing.assert_allclose(values["auroc"][label], expected, rtol=1e-12)
        expected = peer.average_precision_score(t, p) if t.sum() else np.nan
        np.testing.assert_allclose(values["auprc"][label], expected, rtol=1e-12)
        expected = peer.balanced_accuracy_score(t, d) if both else np.nan
        np.testing.assert_allclose(values["balanced_accuracy"][label], expected, rtol=1e-12)
        expected = peer.matthews_corrcoef(t, d) if both and 0 < d.sum() < len(d) else np.nan
        np.testing.assert_allclose(values["mcc"][label], expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(values["brier"][label], np.mean((p - t) ** 2), rtol=1e-12)
        for name, expected in at_levels(t, p).items():
            np.testing.assert_allclose(values[name][label], expected if both else np.nan, rtol=1e-12, err_msg=name)
        counts = peer.confusion_matrix(t, d, labels=[0, 1])
        assert [[values[c][label] for c in row] for row in (("tn", "fp"), ("fn", "tp"))] == counts.tolist()


@given(problems(least=2))
@settings(deadline=None, max_examples=30)
def test_averages_equal_scikit_learn_on_the_defined_labels(problem):
    targets, scores, decisions = problem
    targets = np.nan_to_num(targets)  # scikit-learn knows no missing labels
    values = compute.per_label(targets, scores, decisions)
    macro = {name: ours.macro(values[name]) for name in METRICS}
    weighted = {name: ours.weighted(values[name], values["tp"] + values["fn"]) for name in METRICS}
    micro = compute.per_label(*(array.reshape(-1, 1) for array in (targets, scores, decisions)))
    for name, score in (("f1", peer.f1_score), ("precision", peer.precision_score), ("recall", peer.recall_score)):
        per_label = np.asarray(score(targets, decisions, average=None, zero_division=np.nan))
        defined = ~np.isnan(per_label)
        expected = per_label[defined].mean() if defined.any() else np.nan
        np.testing.assert_allclose(macro[name], expected, rtol=1e-12)
        support = targets.sum(axis=0)[defined]
        expected = np.average(per_label[defined], weights=support) if support.sum() else np.nan
        np.testing.assert_allclose(weighted[name], expected, rtol=1e-12)
        expected = score(targets, decisions, average="micro", zero_division=np.nan)
        np.testing.assert_allclose(micro[name][0], expected, rtol=1e-12)
    if 0 < targets.sum() < targets.size:
        np.testing.assert_allclose(micro["auroc"][0], peer.roc_auc_score(targets.ravel(), scores.ravel()), rtol=1e-12)


def of_classes(matrix):
    return {name: metric.of_classes(matrix) for name, metric in METRICS.items() if metric.of_classes is not None}


@given(st.integers(3, 6), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15)
def test_multiclass_accuracy_and_confusion_matrix_equal_scikit_learn(classes, seed):
    rng = np.random.default_rng(seed)
    truth, answer = rng.integers(0, classes, 50), rng.integers(0, classes, 50)
    targets, decisions = np.eye(classes, dtype=np.float32)[truth], np.eye(classes, dtype=bool)[answer]
    targets[:5] = np.nan
    expected = peer.confusion_matrix(truth[5:], answer[5:], labels=range(classes))
    matrix = ours.confusion_matrix(targets, decisions)
    assert matrix.tolist() == expected.tolist()
    figures = of_classes(matrix)
    np.testing.assert_allclose(figures["accuracy"], peer.accuracy_score(truth[5:], answer[5:]))
    recalls = peer.recall_score(truth[5:], answer[5:], labels=np.unique(truth[5:]), average=None, zero_division=0)
    np.testing.assert_allclose(figures["balanced_accuracy"], np.mean(recalls))
    np.testing.assert_allclose(figures["mcc"], peer.matthews_corrcoef(truth[5:], answer[5:]), atol=1e-12)


def test_multiclass_metrics_of_degenerate_matrices_are_nan():
    nothing = of_classes(np.zeros((3, 3)))
    assert all(np.isnan(value) for value in nothing.values())
    # One class alone, always answered: right, but a correlation of constants does not exist.
    alone = of_classes(np.diag([5, 0, 0]))
    assert alone["accuracy"] == alone["balanced_accuracy"] == 1
    assert np.isnan(alone["mcc"])


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("targets", "called"),
    [([0, 0], [1, 0]), ([1, 1], [1, 0]), ([0, 1], [0, 0]), ([0, 1], [1, 1]), ([0, 0], [0, 0]), ([np.nan] * 2, [0, 1])],
)
def test_a_reason_is_known_for_every_undefined_metric(name, targets, called):
    column = np.array(targets, np.float32)[:, None]
    values = compute.per_label(column, np.array([[0.2], [0.8]]), np.array(called, bool)[:, None])
    counts = {key: int(values[key][0]) for key in ours.COUNTS}
    if np.isnan(values[name][0]):
        assert METRICS[name].why_undefined(counts).startswith(("no ", "the probabilities"))


def test_reasons_name_what_is_missing():
    assert METRICS["auroc"].why_undefined({"tp": 3, "fp": 0, "fn": 2, "tn": 0}) == "no negative image"
    assert METRICS["precision"].why_undefined({"tp": 0, "fp": 0, "fn": 2, "tn": 4}) == "no image was called positive"


def test_operating_points_merge_ties_and_begin_with_nothing_called():
    tp, fp, thresholds = ours.operating_points(np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1]))
    assert thresholds.tolist() == [np.inf, 0.9, 0.5, 0.1]
    assert tp.tolist() == [0, 1, 2, 2]
    assert fp.tolist() == [0, 0, 1, 2]
