from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import f1_score

from cxr_common.decisions import decide, fit_temperature, fit_thresholds, probabilities
from cxr_common.errors import BadInput


def data(seed=0, n=400, labels=3):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(n, labels))
    targets = (rng.random((n, labels)) < expit(logits / 2)).astype(float)
    targets[rng.random((n, labels)) < 0.1] = np.nan
    return logits, targets


def test_probabilities_are_those_of_scipy() -> None:
    logits, _ = data()
    assert probabilities(logits, "multiclass", {"temperature": 2.0}) == pytest.approx(softmax(logits / 2, 1))
    assert probabilities(logits * 500, "multilabel") == pytest.approx(expit(logits * 500))


def test_temperature_is_the_likeliest() -> None:
    logits, targets = data()

    def loss(log_t):
        z = logits / np.exp(log_t)
        return np.nansum(np.logaddexp(0, z) - targets * z)

    found: Any = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    expected = np.exp(found.x)
    assert fit_temperature(logits, targets, "multilabel") == pytest.approx(expected, rel=1e-4)
    assert 1.5 < expected < 2.5  # the labels were drawn at T = 2

    rng = np.random.default_rng(1)
    one_hot = np.eye(3)[[rng.choice(3, p=p) for p in softmax(logits / 2, 1)]]
    fitted = fit_temperature(logits, one_hot, "multiclass")
    worse = [-(one_hot * log_softmax(logits / t, 1)).sum() for t in (fitted * 0.9, fitted, fitted * 1.1)]
    assert worse[1] < min(worse[0], worse[2])


def test_thresholds_are_the_best_of_all() -> None:
    logits, targets = data()
    p = probabilities(logits, "multilabel")
    youden, f1 = (fit_thresholds(p, targets, "multilabel", rule) for rule in ("youden", "f1"))
    for i in range(3):
        known = ~np.isnan(targets[:, i])
        t, q = targets[known, i] > 0.5, p[known, i]

        def index(c, t=t, q=q):
            return (q >= c)[t].mean() - (q >= c)[~t].mean()

        grid = np.unique(q)
        assert index(youden[i]) == pytest.approx(max(index(c) for c in grid))
        assert f1_score(t, q >= f1[i]) == pytest.approx(max(f1_score(t, q >= c) for c in grid[1:]))


def test_two_classes_decide_by_the_second() -> None:
    logits = np.array([[0, -1.0], [0, 0.5], [0, 2.0], [0, 3.0]])
    targets = np.eye(2)[[0, 0, 1, 1]]
    p = probabilities(logits, "multiclass")
    thresholds = fit_thresholds(p, targets, "multiclass")
    assert sum(thresholds) == pytest.approx(1)
    assert decide(p, thresholds, "multiclass").tolist() == (targets == 1).tolist()


def test_nothing_to_fit_on() -> None:
    p = np.full((4, 2), 0.3)
    assert fit_thresholds(p, np.full((4, 2), np.nan), "multilabel") == (0.5, 0.5)
    assert fit_thresholds(p, np.ones((4, 2)), "multilabel") == (0.5, 0.5)
    assert fit_temperature(p, np.full((4, 2), np.nan), "multilabel") == 1.0
    assert fit_thresholds(np.ones((4, 3)), np.eye(3)[[0, 1, 2, 0]], "multiclass") == ()
    assert decide(np.array([[0.2, 0.5, 0.3]]), (), "multiclass").tolist() == [[False, True, False]]


def test_unknown_rule() -> None:
    with pytest.raises(BadInput, match="did you mean youden"):
        fit_thresholds(np.ones((1, 1)), np.ones((1, 1)), "multilabel", "yuden")
