import subprocess
import sys

import numpy as np
import pytest

import cxr_eval
from cxr_data.errors import BadInput
from cxr_data.models.metrics import auroc
from cxr_eval import METRICS, compare, delong, evaluate
from cxr_eval.statistics import delong as tests


def case(labels=2, n=300):
    rng = np.random.default_rng(0)
    y = (rng.random((n, labels)) < 0.4).astype(float)
    y[:5, 0] = np.nan
    p, q = (np.clip(np.nan_to_num(y) * k + rng.random(y.shape) * (1 - k), 0, 1) for k in (0.4, 0.2))
    return y, p, q, np.array([f"patient {i // 3}" for i in range(n)])


def test_figures_are_those_of_the_metrics_one_or_many_labels():
    y, p, _, groups = case()
    evaluated = evaluate(y, p, groups=groups, labels=["a", "b"])
    assert list(evaluated.overall) == list(METRICS)
    assert evaluated.labels["a"]["auroc"].value == pytest.approx(auroc(y, p)[0])
    assert evaluated.overall["auroc"].value == pytest.approx(auroc(y, p).mean())
    assert evaluated.overall["auroc"].low < evaluated.overall["auroc"].value < evaluated.overall["auroc"].high
    assert evaluated.overall["ece"].reason == METRICS["ece"].no_interval
    one = evaluate(y[:, 1], p[:, 1], groups=groups, metrics=["auroc"])
    assert one.overall == one.labels["0"] == {"auroc": evaluated.labels["b"]["auroc"]}
    alone = evaluate(y[:, 1], p[:, 1], metrics=["auroc"]).overall["auroc"]
    assert alone.value == one.overall["auroc"].value
    assert alone.low != one.overall["auroc"].low


def test_differences_are_paired_and_delong_is_the_tested_one():
    y, p, q, groups = case()
    actual = compare(y, p, q, groups=groups, metrics=["auroc", "f1"])
    gain = actual.overall["auroc"]
    assert gain.value == pytest.approx(auroc(y, p).mean() - auroc(y, q).mean())
    assert 0 < gain.low < gain.value < gain.high
    assert gain.p < 0.01
    same = compare(y, p, p, groups=groups, metrics=["auroc"]).overall["auroc"]
    assert (same.value, same.p) == (0, 1)
    number = np.unique(groups, return_inverse=True)[1]
    assert delong(y[:, 1], p[:, 1], q[:, 1], groups=groups) == tests.compare(y[:, 1], p[:, 1], q[:, 1], number)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y, p: (y[:-1], p), "one shape"),
        (lambda y, p: (y + 1, p), "0, 1 or NaN"),
        (lambda y, p: (y, p * 9 - 3), "apply the sigmoid"),
        (lambda y, p: (y, np.where(p > 0.5, np.nan, p)), "finite"),
        (lambda y, p: (y[:0], p[:0]), "one shape"),
    ],
)
def test_wrong_arrays_are_refused(change, message):
    y, p = case()[:2]
    with pytest.raises(ValueError, match=message):
        evaluate(*change(y, p))


def test_wrong_names_and_groups_are_refused():
    y, p, _, groups = case()
    with pytest.raises(BadInput, match="did you mean auroc"):
        evaluate(y, p, metrics=["aurok"])
    with pytest.raises(ValueError, match="one entry per row"):
        evaluate(y, p, groups=groups[1:])
    with pytest.raises(ValueError, match="2 different names"):
        evaluate(y, p, labels=["a", "a"])
    with pytest.raises(ValueError, match="three arrays"):
        delong(y, p, p)


def test_a_metric_added_from_outside_appears_with_an_interval(monkeypatch):
    def youden(targets, scores, decisions):
        return np.array([np.mean(d[t == 1]) - np.mean(d[t == 0]) for t, d in zip(targets.T, decisions.T, strict=True)])

    record = cxr_eval.Metric("youden", "Youden", "sensitivity + specificity - 1", "decision", of_arrays=youden)
    monkeypatch.setitem(METRICS, "youden", record)
    y, p, q, groups = case()
    evaluated = evaluate(y, p, groups=groups)
    expected = evaluated.labels["1"]["recall"].value + evaluated.labels["1"]["specificity"].value - 1
    assert evaluated.labels["1"]["youden"].value == pytest.approx(expected)
    assert evaluated.labels["1"]["youden"].low < expected < evaluated.labels["1"]["youden"].high
    assert "youden" in compare(y, p, q, groups=groups).overall


def test_importing_and_computing_brings_in_neither_torch_nor_onnx():
    code = (
        "import sys, time; start = time.perf_counter(); import cxr_eval; took = time.perf_counter() - start\n"
        "light = set(sys.modules) & {'numpy', 'scipy', 'polars', 'torch'}\n"
        "cxr_eval.evaluate([0, 1] * 20, [.2, .7] * 20)\n"
        "print(took, light, sorted({'torch', 'onnx', 'onnxruntime', 'cv2', 'polars'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, rest = done.stdout.split(" ", 1)
    assert rest.strip() == "set() []"
    assert float(took) < 0.3


def test_what_is_listed_is_there():
    for name in cxr_eval.__all__:
        assert getattr(cxr_eval, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        cxr_eval.nothing  # noqa: B018
