import json

import numpy as np
import pytest
import sklearn.metrics as peer
from scipy import stats

from cxr_eval import entries, results
from cxr_eval.metrics.records import METRICS
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


def measured(task, labels, targets, answers, resamples=100, **more):
    patients = np.arange(len(targets)) // 2
    patient, weights = results.draws_of(patients, resamples, 0)
    return results.measure(task, labels, targets, answers, patient, weights, **more)


def test_of_two_classes_the_second_is_the_headline():
    targets, answers = made_up("multiclass", 2)
    document = measured("multiclass", ["NORMAL", "PNEUMONIA"], targets, answers)
    teacher = document["models"]["teacher"]
    assert list(teacher["labels"]) == ["PNEUMONIA"]
    p = answers["teacher"].probabilities[:, 1]
    assert teacher["overall"]["auroc"]["value"] == pytest.approx(peer.roc_auc_score(targets[:, 1], p))
    assert teacher["overall"] == {key: teacher["labels"]["PNEUMONIA"][key] for key in METRICS}
    assert results.headline("multiclass", ["NORMAL", "PNEUMONIA"]) == "PNEUMONIA"


def test_of_more_classes_accuracy_is_that_of_the_chosen_class():
    targets, answers = made_up("multiclass", 4)
    document = measured("multiclass", list("abcd"), targets, answers)["models"]["student"]
    chosen = answers["student"].probabilities.argmax(axis=1)
    accuracy = document["overall"]["accuracy"]
    assert accuracy["value"] == pytest.approx(peer.accuracy_score(targets.argmax(axis=1), chosen))
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert document["macro"]["accuracy"]["value"] > accuracy["value"]  # one class against the rest is easier
    expected = peer.roc_auc_score(targets.argmax(axis=1), answers["student"].probabilities, multi_class="ovr")
    assert document["overall"]["auroc"]["value"] == pytest.approx(expected)
    mcc = peer.matthews_corrcoef(targets.argmax(axis=1), chosen)
    assert document["overall"]["mcc"]["value"] == pytest.approx(mcc)
    assert document["overall"]["mcc"]["low"] < mcc < document["overall"]["mcc"]["high"]
    assert document["confusion_matrix"] == peer.confusion_matrix(targets.argmax(axis=1), chosen).tolist()


def test_every_value_lies_in_its_interval_and_every_gap_has_a_reason():
    targets, answers = made_up("multilabel", 3)
    targets[:, 2] = 0  # no positive: no AUROC, no recall
    targets[:20, 0] = np.nan
    document = measured("multilabel", ["a", "b", "c"], targets, answers)
    json.dumps(document, allow_nan=False)
    for model in document["models"].values():
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
        nothing = {"value": None, "low": None, "high": None, "reason": "no positive image"}
        nothing["delong_standard_error"] = None
        assert model["labels"]["c"]["auroc"] == nothing
        assert model["labels"]["a"]["unknown"] == 20
    missing = document["differences"]["student"]["labels"]["c"]["auroc"]
    assert missing["value"] is None
    assert missing["reason"] == "undefined for one of the two"


def test_differences_are_this_minus_the_reference_and_paired():
    targets, answers = made_up("multilabel", 2)
    document = measured("multilabel", ["a", "b"], targets, answers, resamples=300)
    difference = document["differences"]["student"]["overall"]["auroc"]
    value = [document["models"][name]["overall"]["auroc"]["value"] for name in ("student", "teacher")]
    assert difference["value"] == pytest.approx(value[0] - value[1])
    assert difference["low"] < difference["value"] < difference["high"] < 0
    assert difference["p"] <= 2 * 2 / 301
    label = document["differences"]["student"]["labels"]["a"]["auroc"]
    ours, theirs = (answers[name].probabilities[:, 0] for name in ("student", "teacher"))
    assert label["delong_p"] == pytest.approx(delong.compare(targets[:, 0], ours, theirs, np.arange(200) // 2).p)


def test_p_values_are_adjusted_within_a_metric():
    targets, answers = made_up("multilabel", 2)
    answers["copy"] = answers["teacher"]
    document = measured("multilabel", ["a", "b"], targets, answers)["differences"]
    for key in ("auroc", "f1"):
        raw = [document[name]["overall"][key]["p"] for name in ("student", "copy")]
        adjusted = [document[name]["overall"][key]["p_holm"] for name in ("student", "copy")]
        assert raw[1] == adjusted[1] == 1
        assert adjusted[0] == pytest.approx(2 * raw[0])
    # Of the labels: two models, two labels.
    delong_p = [document["student"]["labels"][label]["auroc"]["delong_p"] for label in "ab"]
    adjusted = [document["student"]["labels"][label]["auroc"]["delong_p_holm"] for label in "ab"]
    assert min(adjusted) == pytest.approx(4 * min(delong_p))


def never_calls_the_last():
    """Two models that answer alike, but that the second never calls the last label, which the first calls badly."""
    targets, answers = made_up("multilabel", 3, n=300)
    first = answers["teacher"]
    poor = np.stack([first.decisions[:, 0], first.decisions[:, 1], np.arange(300) % 2 == 0], axis=1)
    silent = poor & [True, True, False]
    return targets, {"speaks": Answers(first.probabilities, poor), "silent": Answers(first.probabilities, silent)}


def test_a_model_that_never_calls_a_label_gains_nothing_by_it():
    targets, answers = never_calls_the_last()
    document = measured("multilabel", ["a", "b", "c"], targets, answers, resamples=200)
    speaks, silent = (document["models"][name] for name in ("speaks", "silent"))
    # Its mean is larger, but says of how many labels; the difference is over those that both have.
    assert silent["overall"]["precision"]["value"] > speaks["overall"]["precision"]["value"] + 0.05
    for scope in ("overall", "macro", "weighted"):
        assert silent[scope]["precision"]["labels"] == 2
        assert "labels" not in speaks[scope]["precision"]
        assert "labels" not in silent[scope]["recall"]
    difference = document["differences"]["silent"]["overall"]["precision"]
    assert (difference["value"], difference["labels"], difference["p"]) == (0, 2, 1)
    assert "labels" not in document["differences"]["silent"]["overall"]["recall"]
    remark = next(
        row["reason"]
        for row in results.as_rows(document)
        if (row["model"], row["scope"], row["metric"]) == ("silent", "overall", "precision")
    )
    assert "mean of 2 labels" in remark


def test_a_difference_is_that_of_the_means_over_shared_labels_and_noninferiority_too():
    targets, answers = made_up("multilabel", 4, n=300)
    targets[:, 3] = 0  # no AUROC for either model
    document = measured("multilabel", list("abcd"), targets, answers)
    for key in ("auroc", "precision", "mcc"):
        of_labels = [
            [document["models"][name]["labels"][label][key]["value"] for label in "abcd"]
            for name in ("student", "teacher")
        ]
        gaps = [one - other for one, other in zip(*of_labels, strict=True) if one is not None and other is not None]
        entry = document["differences"]["student"]["overall"][key]
        assert entry["value"] == pytest.approx(np.mean(gaps))
        assert entry.get("labels", 4) == len(gaps)
    test = document["noninferiority"]["student"]
    assert test["labels"] == 3
    assert test["value"] == document["differences"]["student"]["overall"]["auroc"]["value"]
    assert test["low"] == document["differences"]["student"]["overall"]["auroc"]["low"]


def test_an_average_that_a_single_patient_decides_has_no_interval():
    """The last label is positive in one patient: without him the average is over other labels."""
    targets, answers = made_up("multilabel", 2, n=200)
    targets[:, 1] = np.arange(200) < 2
    document = measured("multilabel", ["a", "b"], targets, answers)
    label = document["models"]["teacher"]["labels"]["b"]
    assert (label["positives"], label["positive_patients"]) == (2, 1)
    assert label["auroc"]["interval_reason"] == "1 patient with the finding: fewer than 5"
    difference = document["differences"]["student"]
    assert difference["labels"]["b"]["auroc"]["interval_reason"] == label["auroc"]["interval_reason"]
    for entry in (document["models"]["teacher"]["macro"]["auroc"], difference["overall"]["auroc"]):
        assert entry["value"] is not None
        assert (entry["low"], entry["interval_reason"]) == (None, entries.RARELY_DEFINED)


def test_the_decided_class_has_no_labels_to_average():
    targets, answers = made_up("multiclass", 3)
    decisions = np.zeros_like(answers["student"].decisions)
    decisions[np.arange(200), targets[:, :2].argmax(axis=1)] = True  # never the third class
    answers["student"] = Answers(answers["student"].probabilities, decisions)
    document = measured("multiclass", list("abc"), targets, answers)
    overall = [document["models"][name]["overall"] for name in ("student", "teacher")]
    difference = document["differences"]["student"]["overall"]
    for key in ("accuracy", "balanced_accuracy", "mcc"):
        assert "labels" not in overall[0][key]
        assert "labels" not in difference[key]
        assert difference[key]["value"] == overall[0][key]["value"] - overall[1][key]["value"]
        assert difference[key]["low"] < difference[key]["value"] < difference[key]["high"]
    assert overall[0]["precision"]["labels"] == difference["precision"]["labels"] == 2


def test_delong_error_stands_beside_the_aurocs_of_labels():
    targets, answers = made_up("multilabel", 2)
    entry = measured("multilabel", ["a", "b"], targets, answers)["models"]["teacher"]["labels"]["a"]["auroc"]
    _, cov = delong.covariance(targets[:, 0], answers["teacher"].probabilities[:, 0][None], np.arange(200) // 2)
    assert entry["delong_standard_error"] == pytest.approx(cov[0, 0] ** 0.5)
    # Two ways to the same width.
    assert (entry["high"] - entry["low"]) / (3.92 * entry["delong_standard_error"]) == pytest.approx(1, abs=0.1)


def test_a_student_is_held_against_its_own_teacher():
    targets, answers = made_up("multilabel", 2, n=600)
    noise = 0.01 * np.random.default_rng(1).random(targets.shape)
    answers["close"] = Answers(0.99 * answers["student"].probabilities + noise, answers["student"].decisions)
    document = measured("multilabel", ["a", "b"], targets, answers, teachers={"close": "student"})["noninferiority"]
    assert document["student"]["against"] == "teacher"
    assert document["student"]["noninferior"] is False
    assert document["close"]["against"] == "student"
    assert document["close"]["noninferior"] is True
    assert document["close"]["margin"] == 0.02
    assert document["close"]["p_holm"] == pytest.approx(2 * document["close"]["p"])
    bare = measured("multilabel", ["a", "b"], targets, answers, resamples=0)["noninferiority"]
    assert bare["student"]["noninferior"] is None
    assert bare["student"]["reason"] == entries.NO_RESAMPLES


def test_of_several_students_the_verdict_follows_the_adjusted_p():
    """One student just passes alone; beside others that are held against the same teacher it does not."""
    targets, answers = made_up("multilabel", 1, n=400)
    teacher = answers["teacher"]
    noise = np.random.default_rng(0).normal(size=targets.shape)
    others = {
        f"student {i}": Answers(np.clip(teacher.probabilities + spread * noise, 0, 1), teacher.decisions)
        for i, spread in enumerate((0.1, 0.5, 0.5, 0.5))
    }
    alone = measured("multilabel", ["a"], targets, {"teacher": teacher, "student 0": others["student 0"]}, 400)
    (drop,) = (entry["low"] for entry in alone["noninferiority"].values())
    margin = 1e-6 - drop  # the lower bound lies just above
    patient, draws = results.draws_of(np.arange(400) // 2, 400, 0)

    def judged(names):
        chosen = {"teacher": teacher, **{name: others[name] for name in names}}
        return results.measure("multilabel", ["a"], targets, chosen, patient, draws, margin=margin)["noninferiority"]

    one = judged(["student 0"])["student 0"]
    assert one["noninferior"] is True
    assert one["p_holm"] == one["p"]
    assert one["p"] == pytest.approx(0.025, abs=0.004)
    among = judged(others)["student 0"]
    assert (among["low"], among["p"]) == (one["low"], one["p"])
    assert among["p_holm"] > 0.025
    assert among["noninferior"] is False


def perfect(n=20):
    """Two models that separate 20 patients without error, one that answers all alike, and one that errs."""
    targets = (np.arange(n)[:, None] % 2).astype(np.float32)
    sure = targets * 0.6 + 0.1 + 0.1 * np.random.default_rng(0).random((n, 1))
    right = targets == 1
    errs = Answers(np.where(np.arange(n)[:, None] < 4, 1 - sure, sure), right ^ (np.arange(n)[:, None] < 4))
    flat = Answers(np.full((n, 1), 0.5), right)
    return targets, {"perfect": Answers(sure, right), "too": Answers(sure**2, right), "flat": flat, "errs": errs}


def of_patients(targets, answers, **more):
    patient, draws = results.draws_of(np.arange(len(targets)), 100, 0)
    return results.measure("multilabel", ["a"], targets, answers, patient, draws, **more)


def test_no_error_in_few_images_is_no_certainty():
    document = of_patients(*perfect())["models"]["perfect"]
    for scope in (document["labels"]["a"], document["overall"], document["macro"], document["micro"]):
        for key, patients in (("recall", 10), ("specificity", 10), ("precision", 10), ("npv", 10), ("accuracy", 20)):
            expected = stats.binomtest(patients, patients).proportion_ci(method="exact")
            assert scope[key]["low"] == pytest.approx(expected.low)
            assert (scope[key]["value"], scope[key]["high"], scope[key]["exact"]) == (1, 1, patients)
        for key in ("auroc", "auprc", "f1", "mcc", "balanced_accuracy", "sensitivity_at_specificity_90"):
            assert scope[key]["value"] == pytest.approx(1)
            assert (scope[key]["low"], scope[key]["high"]) == (None, None), key
            assert scope[key]["interval_reason"] == entries.ALL_EQUAL
    assert document["labels"]["a"]["auroc"]["delong_standard_error"] == 0


def test_the_patients_of_an_exact_interval_are_those_concerned():
    """Two images each; one patient is never sick, and one image of another is unknown."""
    targets = np.array([[1, 0], [1, 0], [0, 0], [1, np.nan], [1, 0], [1, 0]], np.float32).reshape(-1, 1)
    p = targets.astype(np.float64) * 0.5 + 0.2
    answers = {"m": Answers(p, targets == 1)}
    patient, draws = results.draws_of(np.arange(12) // 2, 50, 0)
    label = results.measure("multilabel", ["a"], targets, answers, patient, draws)["models"]["m"]["labels"]["a"]
    exact = {key: label[key].get("exact") for key in ("recall", "specificity", "precision", "npv", "accuracy")}
    assert exact == {"recall": 5, "specificity": 5, "precision": 5, "npv": 5, "accuracy": 6}
    none_found = Answers(p, targets == 2)
    document = results.measure("multilabel", ["a"], targets, {"m": none_found}, patient, draws)["models"]["m"]["labels"]
    recall = document["a"]["recall"]
    assert (recall["value"], recall["low"]) == (0, 0)
    assert recall["high"] == pytest.approx(stats.binomtest(0, 5).proportion_ci(method="exact").high)


def test_differences_without_spread_have_neither_interval_nor_certain_p():
    document = of_patients(*perfect())
    json.dumps(document, allow_nan=False)
    flat = document["differences"]["flat"]["labels"]["a"]["auroc"]
    assert (flat["value"], flat["low"], flat["p"], flat["p_holm"]) == (-0.5, None, None, None)
    assert flat["interval_reason"] == entries.ALL_EQUAL
    assert (flat["delong_p"], flat["delong_p_holm"], flat["delong_reason"]) == (None, None, entries.NO_VARIANCE)
    alike = document["differences"]["too"]["overall"]["auroc"]
    assert (alike["value"], alike["low"], alike["p"], alike["p_holm"]) == (0, None, 1, 1)
    assert document["differences"]["errs"]["overall"]["recall"]["low"] < 0
    for name in ("too", "flat"):
        test = document["noninferiority"][name]
        assert (test["low"], test["p"], test["noninferior"], test["reason"]) == (None, None, None, entries.ALL_EQUAL)


def test_calibration_before_and_after_the_temperature():
    targets, answers = made_up("multilabel", 2, n=600)
    p = answers["teacher"].probabilities
    logit = np.log(p / (1 - p))
    cold = Answers(1 / (1 + np.exp(-logit / 2)), answers["teacher"].decisions, p, 2.0)
    document = measured("multilabel", ["a", "b"], targets, {"cold": cold, "plain": answers["student"]})["models"]
    assert document["cold"]["calibration"]["temperature"] == 2.0
    assert document["plain"]["calibration"] == {"temperature": None, "before": None}
    label = document["cold"]["labels"]["a"]
    # Dividing the logits by two doubles the slope.
    before = label["calibration"]["before"]
    assert label["calibration_slope"]["value"] == pytest.approx(2 * before["calibration_slope"]["value"], rel=1e-6)
    assert before["brier"]["value"] == pytest.approx(peer.brier_score_loss(targets[:, 0], p[:, 0]))
    assert before["brier"]["low"] < before["brier"]["value"] < before["brier"]["high"]
    parts = label["calibration"]["after"]["brier_parts"]
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within"]
    assert total == pytest.approx(label["brier"]["value"])
    curve = label["calibration"]["after"]["curve"]
    assert sum(bin["count"] for bin in curve) == 600
    assert all(bin["low"] <= bin["observed"] <= bin["high"] for bin in curve)


def test_no_resamples_no_intervals_and_the_seed_fixes_them():
    targets, answers = made_up("multilabel", 2)
    bare = measured("multilabel", ["a", "b"], targets, answers, resamples=0)
    assert bare["models"]["teacher"]["overall"]["f1"]["interval_reason"] == entries.NO_RESAMPLES
    assert bare["differences"]["student"]["overall"]["f1"]["low"] is None
    again = [measured("multilabel", ["a", "b"], targets, answers) for _ in range(2)]
    assert again[0] == again[1]


def test_rows_of_the_table_hold_every_figure_once():
    targets, answers = made_up("multilabel", 2)
    document = measured("multilabel", ["a", "b"], targets, answers, resamples=10)
    rows = results.as_rows(document)
    keys = [(row["model"], row["scope"], row["label"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys) == 2 * ((4 + 2) * len(METRICS) + 2 * 9)
    row = next(row for row in rows if (row["scope"], row["metric"]) == ("micro", "f1"))
    assert row["value"] == document["models"]["teacher"]["micro"]["f1"]["value"]


def test_a_student_is_compared_with_its_control():
    targets, answers = made_up("multilabel", 2)
    answers["control"] = made_up("multilabel", 2, seed=1)[1]["student"]
    document = measured("multilabel", ["a", "b"], targets, answers, controls={"teacher": "student"})
    gain = document["gains"]["teacher"]
    assert gain["control"] == "student"
    mirrored = document["differences"]["student"]["overall"]["auroc"]
    assert gain["overall"]["auroc"]["value"] == pytest.approx(-mirrored["value"])
    assert gain["overall"]["auroc"]["low"] == pytest.approx(-mirrored["high"])
    assert gain["overall"]["auroc"]["p"] == pytest.approx(mirrored["p"])
    assert measured("multilabel", ["a", "b"], targets, answers)["gains"] == {}
