import json

import numpy as np
import pytest
import sklearn.metrics as peer

from cxr_eval import results
from cxr_eval.metrics.classification import METRICS
from cxr_eval.predictions import Answers
from cxr_eval.statistics import delong


def made_up(task, labels, n=200, seed=0):
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        targets = np.eye(labels, dtype=np.float32)[rng.integers(0, labels, n)]
    else:
        targets = (rng.random((n, labels)) < 0.4).astype(np.float32)

    def answer(skill):
        z = targets * skill + rng.normal(size=targets.shape)
        if task == "multiclass":
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            return Answers(p, p >= p.max(axis=1, keepdims=True))
        p = 1 / (1 + np.exp(-z))
        return Answers(p, p >= 0.5)

    return targets, {"teacher": answer(2.0), "student": answer(1.0)}


def measured(task, labels, targets, answers, resamples=100):
    patients = np.arange(len(targets)) // 2
    return results.measure(task, labels, targets, answers, patients, resamples=resamples, seed=0)


def test_of_two_classes_the_second_is_the_headline():
    targets, answers = made_up("multiclass", 2)
    found = measured("multiclass", ["NORMAL", "PNEUMONIA"], targets, answers)
    teacher = found["models"]["teacher"]
    assert list(teacher["labels"]) == ["PNEUMONIA"]
    p = answers["teacher"].probabilities[:, 1]
    assert teacher["overall"]["auroc"]["value"] == pytest.approx(peer.roc_auc_score(targets[:, 1], p))
    assert teacher["overall"] == {key: teacher["labels"]["PNEUMONIA"][key] for key in METRICS}
    assert results.headline("multiclass", ["NORMAL", "PNEUMONIA"]) == "PNEUMONIA"


def test_of_more_classes_accuracy_is_that_of_the_chosen_class():
    targets, answers = made_up("multiclass", 4)
    found = measured("multiclass", list("abcd"), targets, answers)["models"]["student"]
    chosen = answers["student"].probabilities.argmax(axis=1)
    accuracy = found["overall"]["accuracy"]
    assert accuracy["value"] == pytest.approx(peer.accuracy_score(targets.argmax(axis=1), chosen))
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert found["macro"]["accuracy"]["value"] > accuracy["value"]  # one class against the rest is easier
    expected = peer.roc_auc_score(targets.argmax(axis=1), answers["student"].probabilities, multi_class="ovr")
    assert found["overall"]["auroc"]["value"] == pytest.approx(expected)
    assert found["confusion_matrix"] == peer.confusion_matrix(targets.argmax(axis=1), chosen).tolist()


def test_every_value_lies_in_its_interval_and_every_gap_has_a_reason():
    targets, answers = made_up("multilabel", 3)
    targets[:, 2] = 0  # no positive: no AUROC, no recall
    targets[:20, 0] = np.nan
    found = measured("multilabel", ["a", "b", "c"], targets, answers)
    json.dumps(found, allow_nan=False)
    for model in found["models"].values():
        scopes = [model[kind] for kind in ("overall", "macro", "micro", "weighted")] + list(model["labels"].values())
        for scope in scopes:
            for key in METRICS:
                entry = scope[key]
                if entry["value"] is None:
                    assert entry["reason"], key
                elif entry["low"] is None:
                    assert entry["interval_reason"], key
                else:
                    assert entry["low"] <= entry["value"] <= entry["high"], key
        assert model["labels"]["c"]["auroc"] == {
            "value": None,
            "low": None,
            "high": None,
            "reason": "no positive image",
        }
        assert model["labels"]["a"]["unknown"] == 20
    missing = found["differences"]["student"]["labels"]["c"]["auroc"]
    assert missing["value"] is None
    assert missing["reason"] == "undefined for one of the two"


def test_differences_are_this_minus_the_reference_and_paired():
    targets, answers = made_up("multilabel", 2)
    found = measured("multilabel", ["a", "b"], targets, answers, resamples=300)
    difference = found["differences"]["student"]["overall"]["auroc"]
    value = [found["models"][name]["overall"]["auroc"]["value"] for name in ("student", "teacher")]
    assert difference["value"] == pytest.approx(value[0] - value[1])
    assert difference["low"] < difference["value"] < difference["high"] < 0
    assert difference["p"] <= 2 * 2 / 301
    label = found["differences"]["student"]["labels"]["a"]["auroc"]
    ours, theirs = (answers[name].probabilities[:, 0] for name in ("student", "teacher"))
    assert label["delong_p"] == pytest.approx(delong.compare(targets[:, 0], ours, theirs, np.arange(200) // 2).p)


def test_no_resamples_no_intervals_and_the_seed_fixes_them():
    targets, answers = made_up("multilabel", 2)
    bare = measured("multilabel", ["a", "b"], targets, answers, resamples=0)
    assert bare["models"]["teacher"]["overall"]["f1"]["interval_reason"] == results.NO_RESAMPLES
    assert bare["differences"]["student"]["overall"]["f1"]["low"] is None
    again = [measured("multilabel", ["a", "b"], targets, answers) for _ in range(2)]
    assert again[0] == again[1]


def test_rows_of_the_table_hold_every_figure_once():
    targets, answers = made_up("multilabel", 2)
    found = measured("multilabel", ["a", "b"], targets, answers, resamples=10)
    rows = results.as_rows(found)
    keys = [(row["model"], row["scope"], row["label"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys) == 2 * ((4 + 2) * len(METRICS) + 2 * 7)
    row = next(row for row in rows if (row["scope"], row["metric"]) == ("micro", "f1"))
    assert row["value"] == found["models"]["teacher"]["micro"]["f1"]["value"]
