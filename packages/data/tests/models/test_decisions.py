from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import f1_score

from cxr_data.errors import BadInput
from cxr_data.models import decisions
from cxr_data.models.decisions import decide, fit_calibration, fit_platt, fit_temperature, fit_thresholds, probabilities


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
        called = q >= grid[1:, None]  # (thresholds, images)
        best = (2 * (called & t).sum(1) / (called.sum(1) + t.sum())).max()
        assert f1_score(t, q >= f1[i]) == pytest.approx(best)


def test_two_classes_decide_by_the_second() -> None:
    logits = np.array([[0, -1.0], [0, 0.5], [0, 2.0], [0, 3.0]])
    targets = np.eye(2)[[0, 0, 1, 1]]
    p = probabilities(logits, "multiclass")
    thresholds = fit_thresholds(p, targets, "multiclass")
    assert sum(filter(None, thresholds)) == pytest.approx(1)
    assert decide(p, thresholds, "multiclass").tolist() == (targets == 1).tolist()


def test_nothing_to_fit_on() -> None:
    p = np.full((4, 2), 0.3)
    assert fit_thresholds(p, np.full((4, 2), np.nan), "multilabel") == (None, None)
    assert fit_thresholds(p, np.ones((4, 2)), "multilabel") == (None, None)
    assert fit_thresholds(p, np.eye(2)[[0, 1, 0, 1]], "multilabel") == (None, None)  # a constant answer
    assert decide(p + np.array([0, 0.3]), (None, None), "multilabel").tolist() == [[False, True]] * 4
    assert decisions.in_use((None, 0.2), 2) == [0.5, 0.2]
    assert decisions.in_use(None, 2) == [0.5, 0.5]
    assert decisions.unfitted((None, 0.2), "ab", "multilabel") == ["a"]
    assert decisions.unfitted((), "ab", "multiclass") == ["a", "b"]
    assert decisions.unfitted((), "abc", "multiclass") == []
    assert fit_temperature(p, np.full((4, 2), np.nan), "multilabel") == 1.0
    assert fit_thresholds(np.ones((4, 3)), np.eye(3)[[0, 1, 2, 0]], "multiclass") == ()
    assert decide(np.array([[0.2, 0.5, 0.3]]), (), "multiclass").tolist() == [[False, True, False]]


def test_unknown_rule() -> None:
    with pytest.raises(BadInput, match="did you mean youden"):
        fit_thresholds(np.ones((1, 1)), np.ones((1, 1)), "multilabel", "yuden")


def test_platt_finds_slope_and_shift_of_each_label() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 2))
    scale, shift = np.array([2.5, 0.5]), np.array([-1.5, 1.0])
    y = (rng.random(z.shape) < 1 / (1 + np.exp(-(scale * z + shift)))).astype(np.float64)
    y[::5, 0] = np.nan
    fitted = fit_calibration(z, y, "multilabel", "platt")
    assert fitted["scale"] == pytest.approx(scale, rel=0.06)
    assert fitted["shift"] == pytest.approx(shift, abs=0.06)
    assert probabilities(z, "multilabel", fitted) == pytest.approx(
        1 / (1 + np.exp(-(np.array(fitted["scale"]) * z + fitted["shift"])))
    )
    # At the minimum the mean probability is the mean of Platt's targets.
    known = ~np.isnan(y[:, 0])
    up = y[known, 0].sum()
    wanted = (up * (up + 1) / (up + 2) + (known.sum() - up) / (known.sum() - up + 2)) / known.sum()
    assert probabilities(z, "multilabel", fitted)[known, 0].mean() == pytest.approx(wanted, abs=1e-8)


def test_platt_of_classes_shifts_them_against_each_other() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(20_000, 3))
    p = probabilities(2 * z + [0.6, 0.0, -0.6], "multiclass")
    y = np.eye(3)[(p.cumsum(1) < rng.random((len(z), 1))).sum(1)]
    fitted = fit_calibration(z, y, "multiclass", "platt")
    assert fitted["scale"] == pytest.approx([2.0] * 3, rel=0.06)
    assert fitted["shift"] == pytest.approx([0.6, 0.0, -0.6], abs=0.06)
    assert fit_calibration(z, y, "multiclass", "none") == {}
    assert fit_calibration(z, y, "multiclass") == {"temperature": fit_temperature(z, y, "multiclass")}
    with pytest.raises(BadInput, match="did you mean platt"):
        fit_calibration(z, y, "multiclass", "plat")


def test_platt_stays_finite_and_never_turns_a_ranking_round() -> None:
    z = np.array([[-2.0], [-1], [1], [2]])
    separated = fit_platt(z, z > 0, "multilabel")
    assert 0.05 <= separated["scale"][0] <= 20
    assert separated["shift"][0] == pytest.approx(0, abs=1e-6)
    assert fit_platt(z, z < 0, "multilabel")["scale"] == [0.05]
    assert fit_platt(z, np.zeros_like(z), "multilabel") == {"scale": [1.0], "shift": [0.0]}


def test_a_threshold_of_fixed_sensitivity() -> None:
    rng = np.random.default_rng(2)
    y = np.repeat([1.0, 0.0], [20, 60])[:, None]
    p = np.clip(0.3 * y + rng.random((80, 1)) * 0.6, 0, 1)
    for wanted in (0.5, 0.95, 1.0):
        (threshold,) = decisions.in_use(fit_thresholds(p, y, "multilabel", "sensitivity", wanted), 1)
        assert (p[y == 1] >= threshold).mean() >= wanted
        higher = np.unique(p[p > threshold])[0] + 1e-9  # calling one case less would miss it
        assert (p[y == 1] >= higher).mean() < wanted or (p[y == 0] >= higher).mean() == (p[y == 0] >= threshold).mean()
    lowest_is_positive = fit_thresholds([[0.2], [0.6], [0.9]], [[1.0], [0], [1]], "multilabel", "sensitivity", 1.0)
    assert lowest_is_positive == (0.1,)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_one_outcome_alone_calibrates_nothing_and_is_named(task):
    logits = np.random.default_rng(0).normal(size=(40, 2))
    targets = np.tile([1.0, 0.0], (40, 1))
    assert decisions.fit_temperature(logits, targets, task) == 1
    expected = () if task == "multiclass" else (None, None)
    assert decisions.fit_thresholds(decisions.probabilities(logits, task), targets, task) == expected
    notes = decisions.not_fitted(logits, targets, ("healthy", "ill"), task)
    assert len(notes) == (1 if task == "multiclass" else 2)
    assert "one class only (healthy)" in notes[0] or "no validation image without healthy" in notes[0]


def test_labels_of_one_outcome_do_not_move_the_temperature_of_the_others():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, 2)), rng.integers(0, 2, (200, 2)).astype(float)
    alone = decisions.fit_temperature(logits[:, :1], targets[:, :1], "multilabel")
    targets[:, 1] = 0
    assert decisions.fit_temperature(logits, targets, "multilabel") == pytest.approx(alone)
    assert decisions.not_fitted(np.zeros((3, 1)), np.full((3, 1), np.nan), ("a",), "multilabel") == [
        "no validation image with a: its threshold of 0.5 and its scale are not fitted; it is left out of the mean "
        "AUROC"
    ]
    assert decisions.not_fitted(np.eye(4)[:, :2], np.eye(2)[[0, 1, 0, 1]], ("a", "b"), "multiclass", "none") == []


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_single_patient_with_a_finding_fits_no_threshold(task):
    targets = np.eye(2)[[0] * 6 + [1] * 3]
    logits = np.random.default_rng(0).normal(size=(9, 2))
    patients = np.array([*range(6), 7, 7, 7])
    several = decisions.of_several_patients(targets, patients)
    assert np.isnan(several).all()
    assert not np.isnan(decisions.of_several_patients(targets, range(9))).any()
    thresholds = fit_thresholds(probabilities(logits, task), several, task)
    assert thresholds == (() if task == "multiclass" else (None, None))
    notes = decisions.not_fitted(logits, targets, ("healthy", "ill"), task, "none", patients)
    assert notes[-1].startswith("only one validation patient with ill: its threshold of 0.5")
    assert len(notes) == (1 if task == "multiclass" else 2)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("size", [0.01, 1, 1000])
def test_validation_without_an_error_fits_no_temperature_and_says_so(task, size):
    """Its likelihood only grows as the temperature falls: what was fitted would be the bound of the search."""
    rng = np.random.default_rng(0)
    targets = np.eye(3)[rng.integers(0, 3, 60)]
    logits = size * (2 * targets - 1 + 0.3 * rng.uniform(-1, 1, targets.shape))
    assert fit_temperature(logits, targets, task) == 1
    (note,) = decisions.not_fitted(logits, targets, "abc", task)
    assert "no error on the validation images" in note
    assert "temperature 1 is kept" in note
    assert decisions.not_fitted(logits, targets, "abc", task, "none") == []
    one_wrong = logits.copy()
    one_wrong[0] = -logits[0]
    fitted = fit_temperature(one_wrong, targets, task)
    assert fitted != 1
    assert decisions.not_fitted(one_wrong, targets, "abc", task) == (
        ["temperature at its bound of 0.05: the logits of the validation images hardly differ"] if size < 1 else
        ["temperature at its bound of 20: the logits do not rank the validation images"] if size > 1 else []
    )  # fmt: skip
    if task == "multiclass":
        assert fit_platt(logits, targets, task) == {"scale": [1.0] * 3, "shift": [0.0] * 3}
        assert "slope 1 and shifts 0 are kept" in decisions.not_fitted(logits, targets, "abc", task, "platt")[0]


def test_a_label_of_one_outcome_hides_no_perfect_separation_of_the_others():
    targets = np.array([[1.0, 0.0, np.nan], [0, 0, 0], [1, 0, 1], [0, 0, np.nan]])
    logits = np.where(targets[:, :1] == 1, 3.0, -3.0) * np.array([1, -1, 1])
    notes = decisions.not_fitted(logits, targets, "abc", "multilabel")
    assert "no validation image with b" in notes[0]
    assert "only one validation patient with c" in notes[1]
    assert "no error on the validation images" in notes[2]
    assert fit_temperature(logits, targets, "multilabel") == 1
