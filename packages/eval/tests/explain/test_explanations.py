import importlib
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cxr_common.checkpoint import load
from cxr_data import open_cohort
from cxr_data.errors import BadInput
from cxr_eval.explain import explanations
from cxr_eval.explain.methods import METHODS
from cxr_eval.models import Match
from cxr_eval.predictions import answers, predict


@pytest.fixture
def compared(make_model):
    """What the evaluation has at hand when two models have answered: the arguments of ``explain``."""

    def make(data="phantom:60", task="multilabel", sizes=(64, 32)):
        cohorts = {64: open_cohort(data, pixel_size=64, show=False), 96: open_cohort(data, pixel_size=96, show=False)}
        cohort = cohorts[64]
        networks, headers, given = {}, {}, {}
        labels = tuple(reversed(cohort.labels))
        rows = cohort.rows("test")
        for seed, (name, size) in enumerate(zip(("teacher", "student"), sizes, strict=True)):
            path = make_model(name, labels, task, seed=seed, architecture="test_resnet", size=size)
            network, headers[name] = load(path)
            networks[name] = (network, size)
            logits = predict(network, cohorts[96 if size == 64 else 64].pixels, size, rows=rows)
            given[name] = answers(logits, headers[name], cohort.labels, name)
        match = Match(task, cohort.labels, ())
        return (networks, headers, cohorts, given, match, cohort.targets[rows].copy(), rows)

    return make


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_every_score_and_picture_of_a_comparison(compared, monkeypatch, task):
    monkeypatch.setitem(METHODS, "layercam", replace(METHODS["layercam"], tested=2))
    monkeypatch.setattr(explanations, "STEPS", 4)
    data = "phantom:60" if task == "multilabel" else "phantom-multiclass:60"
    given = compared(data, task)
    before = torch.random.get_rng_state()
    actual = explanations.explain("layercam", *given, cases=1, resamples=50)
    assert torch.equal(before, torch.random.get_rng_state())
    assert actual["method"] == "LayerCAM"
    assert actual["levels"] == {"teacher": "level2", "student": "level1"}

    labels = given[4].labels
    assert [page["label"] for page in actual["labels"]] == list(labels)
    cases = [case for page in actual["labels"] for case in page["cases"]]
    assert {case["kind"] for case in cases} == {"right", "wrong"}
    for case in cases:
        picture = cv2.imdecode(np.frombuffer(case["png"], np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (192, 3 * 192 + 8, 3)
        assert "student" in case["caption"]
        assert ("outlined" in case["caption"]) <= case["caption"].startswith("Present")

    scores = actual["scores"]
    json.dumps(scores, allow_nan=False)
    overall = {(s["model"], s["name"]): s for s in scores if s["label"] is None}
    for model in ("teacher", "student"):
        for name in (
            "Pointing game",
            "Pointing game of the image centre",
            "Pointing game of a random point",
            "IoU of map and lesion",
            "Energy in the lesion",
            "Deletion area",
            "Insertion area of a random map",
            "Empty maps",
            "Similarity after random weights, head",
            "Similarity after random weights, head to level1",
        ):
            entry = overall[model, name]
            assert entry["images"] > 0
            assert -1 <= entry["value"] <= 1
            assert entry["low"] is None or entry["low"] <= entry["value"] <= entry["high"]
        above = overall[model, "Pointing game above the image centre"]["value"]
        centre = overall[model, "Pointing game of the image centre"]["value"]
        assert above == pytest.approx(overall[model, "Pointing game"]["value"] - centre)
    agreement = overall["student", "Agreement with teacher, Spearman"]
    assert agreement["low"] is not None or "fewer than 5" in agreement["interval_reason"]
    assert ("teacher", "Agreement with teacher, Spearman") not in overall
    one = [s for s in scores if s["label"] is not None and s["name"] == "Pointing game" and s["model"] == "teacher"]
    total = sum(s["value"] * s["images"] for s in one) / sum(s["images"] for s in one)
    assert total == pytest.approx(overall["teacher", "Pointing game"]["value"])
    curve = actual["curves"]["student"]["deletion"]
    assert len(curve) == 5
    assert np.mean(curve[1:] + curve[:-1]) == pytest.approx(overall["student", "Deletion area"]["value"], abs=0.2)


def test_unknown_labels_are_left_out_and_labels_without_cases_stay(compared, monkeypatch):
    monkeypatch.setitem(METHODS, "gradcam", replace(METHODS["gradcam"], tested=1))
    monkeypatch.setattr(explanations, "STEPS", 1)
    given = compared()
    given[5][:, 0] = np.nan
    given[5][:, 1] = 0
    actual = explanations.explain("gradcam", *given, resamples=0)
    named = {score["label"] for score in actual["scores"] if score["label"]}
    assert named == set(given[4].labels[2:])
    assert actual["labels"][0]["cases"] == []
    assert all(score["low"] is None for score in actual["scores"])
    given[5][:] = np.nan
    nothing = explanations.explain("gradcam", *given, resamples=10)
    assert all(score["value"] is None and score["reason"] for score in nothing["scores"])


def test_what_is_drawn_depends_on_the_seed_alone():
    wanted = np.ones((100, 2), bool)
    rows, match = np.arange(100) + 7, Match("multilabel", ("a", "b"), ())
    one, same, other = (explanations._draw(wanted, rows, match, 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.row, same.row)
    assert not np.array_equal(one.row, other.row)
    np.testing.assert_array_equal(one.row, one.image + 7)
    assert one.label == ("a",) * 5 + ("b",) * 5
    assert len(explanations._draw(~wanted, rows, match, 5, 1)) == 0


def test_the_interval_of_a_mean_leaves_out_each_patient():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(10), 3)
    values = rng.random(30) * 2
    values[4] = np.nan
    pairs = explanations.Pairs(np.arange(30), np.arange(30), ("a",) * 30)
    entry = explanations.Mean(patient).score("m", "n", values, pairs)
    without = np.array([np.nanmean(values[patient != one]) for one in range(10)])
    error = np.sqrt(9 / 10 * np.sum((without - np.nanmean(values)) ** 2))
    assert 2 * error < entry["value"] - entry["low"] < 4 * error
    assert entry["value"] == pytest.approx(np.nanmean(values))
    assert entry["images"] == 29
    always = explanations.Mean(patient).score("m", "n", np.ones(30), pairs)
    assert (always["value"], always["low"], always["high"]) == (1, None, None)
    assert "too few errors" in always["interval_reason"]
    few = explanations.Mean(patient // 3).score("m", "n", values, pairs)
    assert few["interval_reason"] == "4 patients: fewer than 5"
    assert "low" in (bare := explanations.Mean(patient, intervals=False).score("m", "n", values, pairs))
    assert bare["low"] is None


def test_an_unknown_method_is_refused():
    no_targets = np.zeros((0, 0), np.float32)
    with pytest.raises(BadInput, match="gradcam"):
        explanations.explain("grad-cam", {}, {}, {}, {}, Match("multilabel", (), ()), no_targets, np.zeros(0, np.int64))


def test_every_method_has_a_title_and_a_function():
    for method in METHODS.values():
        assert method.title
        module, _, name = str(method.function).partition(":")
        assert callable(getattr(importlib.import_module(module), name))
