from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch

from cxr_common.checkpoint import Header, Input, parent, save, trained_on
from cxr_data.cohorts.cohort import Cohort
from cxr_eval.models import Match
from cxr_eval.notes import met_in_training, notes, seen_in_training

COHORT: Any = SimpleNamespace(
    name="nih", fingerprint="1", parts=(), pixel_mapping={"aspect": "squash"}, shared_groups={}
)
MATCH = Match("multilabel", ("A",), ())


def header(**more):
    given = {"thresholds": (0.4,), "cohort": {"name": "nih", "fingerprint": "1"}, **more}
    pixels = given.pop("pixels", {})
    return Header("model", "resnet18", Input(64, 0.5, 0.25, pixels=pixels), task="multilabel", labels=("A",), **given)


def test_a_model_on_the_test_part_of_its_own_cohort_needs_no_note():
    assert notes("test", {"m": header()}, {96: COHORT}, MATCH) == []


def test_images_that_were_trained_on_are_said_to_flatter():
    assert "flatter" in notes("val", {"m": header()}, {96: COHORT}, MATCH)[0]
    assert "training images of m among them" in notes("all", {"m": header()}, {96: COHORT}, MATCH)[0]
    elsewhere = header(cohort={"name": "padchest", "fingerprint": "2"})
    (external,) = notes("all", {"m": elsewhere}, {96: COHORT}, MATCH)
    assert external.startswith("External cohort: m was trained on padchest, not on nih.")


def test_all_images_flatter_every_model_that_is_not_external():
    elsewhere = header(cohort={"name": "padchest", "fingerprint": "2"})
    found = notes("all", {"own": header(), "guest": elsewhere, "other": header()}, {96: COHORT}, MATCH)
    assert "training images of own, other among them" in found[0]
    parts = ({"name": "nih", "fingerprint": "1"}, {"name": "padchest", "fingerprint": "2"})
    both: Any = SimpleNamespace(**{**vars(COHORT), "name": "nih + padchest", "fingerprint": "x", "parts": parts})
    found = notes("all", {"m": header()}, {96: both}, MATCH)
    assert "training images of m among them" in found[0]
    assert found[1].startswith("Overlapping cohorts: m was trained on nih")


def test_weights_of_others_are_said_to_have_seen_nobody_knows_what():
    ours = {"name": "teacher/model.safetensors", "sha256": "1", "licence": "unknown", "source": "cxr resnet50"}
    theirs = {"name": "nih-pc.pt", "sha256": "2", "licence": "unknown", "source": ""}
    found = notes("test", {"a": header(ancestors=(ours, theirs)), "b": header(ancestors=(ours,))}, {96: COHORT}, MATCH)
    assert found == [
        "Nothing says which images nih-pc.pt was trained on, which a comes from: some of these may be among them."
    ]


def test_patients_on_both_sides_of_the_split_are_named_first():
    leaky: Any = SimpleNamespace(**{**vars(COHORT), "shared_groups": {("train", "test"): 3, ("train", "val"): 2}})
    (found,) = notes("test", {"m": header()}, {96: leaky}, MATCH)
    assert found.startswith("3 patients (or patients with an identical image) lie in both train and test")
    assert any(note.startswith("2 patients") for note in notes("val", {"m": header()}, {96: leaky}, MATCH))
    elsewhere = header(cohort={"name": "padchest", "fingerprint": "2"})
    assert not any("lie in both" in note for note in notes("test", {"m": elsewhere}, {96: leaky}, MATCH))


def test_models_of_one_origin_share_a_sentence():
    other = header(cohort={"name": "nih", "fingerprint": "2"})
    found = notes("test", {"a": other, "b": other, "c": header(cohort=None)}, {96: COHORT}, MATCH)
    assert found[0].startswith("a, b were trained on another state of nih")
    assert found[1].startswith("The file does not say what c was trained on")
    assert len(found) == 2


def test_thresholds_and_pixels_that_do_not_fit_are_named():
    odd = header(thresholds=None, pixels={"aspect": "pad"})
    found = notes("test", {"m": odd}, {96: COHORT}, MATCH)
    assert any("aspect pad" in note and "aspect squash" in note for note in found)
    assert any("0.5 decides" in note for note in found)
    assert len(found) == 2


def stored(edge, images=12, *, seed=0):
    """A cohort of noise, half of it for training, stored at an edge."""
    pixels = np.random.default_rng(seed).integers(0, 256, (images, edge, edge), dtype=np.uint8)
    split = ["train", "test"] * (images // 2)
    names = [f"{i}" for i in range(images)]
    table = pl.DataFrame({"image": names, "patient": names, "split": split})
    return Cohort("noise", None, (), table, pixels, {"aspect": "squash"}, "noise", f"{seed}")


def test_images_that_a_start_was_trained_on_are_met_again_by_all_made_from_it(tmp_path):
    weights = {"w": torch.zeros(1)}
    first, other = stored(96), stored(96, seed=1)
    backbone = tmp_path / "backbone.safetensors"
    save(backbone, weights, header(), training_images=trained_on(first, ()))
    teacher = tmp_path / "teacher.safetensors"
    save(teacher, weights, header(), training_images=trained_on(other, (parent("start", backbone),)))
    student = tmp_path / "student.safetensors"
    save(student, weights, header(), training_images=trained_on(stored(64, seed=2), (parent("teacher", teacher),)))
    # Three training images of the start come back as test images.
    pixels = stored(96, seed=3).pixels.copy()
    pixels[1:7:2] = first.pixels[0:6:2]
    cohort = replace(stored(96), pixels=pixels)
    files = {"backbone": backbone, "teacher": teacher, "student": student}
    met = met_in_training(files, dict.fromkeys(files, header()), {96: cohort}, cohort.rows("test"))
    assert {name: one["identical"] for name, one in met.items()} == dict.fromkeys(files, 3)
    assert all(one["evaluated"] == 6 for one in met.values())
    assert met["teacher"]["not_compared"] is None
    assert met["student"]["not_compared"] == "6 training images were stored at 64 pixels, these at 96"
    said = seen_in_training(met)
    assert said[0].startswith("3 of 6 evaluated images are identical to training images of backbone, teacher, student")
    assert said[1].startswith(
        "student: not all images that it, its teacher or its start were trained on can be compared"
    )
    # Evaluated beside a model of the other size, nothing is left uncompared.
    both = {96: cohort, 64: stored(64, seed=2)}
    assert met_in_training(files, dict.fromkeys(files, header()), both, cohort.rows("test"))["student"] == {
        "evaluated": 6,
        "identical": 3,
        "not_compared": None,
    }


def test_what_cannot_be_compared_is_no_zero(tmp_path):
    cohort, rows = stored(96), stored(96).rows("test")
    silent, smaller, mapped = (tmp_path / f"{name}.safetensors" for name in ("silent", "smaller", "mapped"))
    weights = {"w": torch.zeros(1)}
    save(silent, weights, header())
    save(smaller, weights, header(), training_images=trained_on(stored(64), ()))
    save(mapped, weights, header(), training_images=trained_on(stored(96, seed=5), ()))
    files = {"silent": silent, "smaller": smaller, "mapped": mapped}
    headers = {"silent": header(), "smaller": header(), "mapped": header(pixels={"aspect": "pad"})}
    met = met_in_training(files, headers, {96: cohort}, rows)
    assert [one["identical"] for one in met.values()] == [None, None, 0]
    assert [one["not_compared"] for one in met.values()] == [
        "its file does not say which images it was trained on",
        "6 training images were stored at 64 pixels, these at 96",
        "its training images were mapped to pixels otherwise",
    ]
    assert len(seen_in_training(met)) == 2
