from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
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
    actual = notes("all", {"own": header(), "guest": elsewhere, "other": header()}, {96: COHORT}, MATCH)
    assert "training images of own, other among them" in actual[0]
    parts = ({"name": "nih", "fingerprint": "1"}, {"name": "padchest", "fingerprint": "2"})
    both: Any = SimpleNamespace(**{**vars(COHORT), "name": "nih + padchest", "fingerprint": "x", "parts": parts})
    actual = notes("all", {"m": header()}, {96: both}, MATCH)
    assert "training images of m among them" in actual[0]
    assert actual[1].startswith("Overlapping cohorts: m was trained on nih")


def test_weights_of_others_are_said_to_have_seen_nobody_knows_what():
    ours = {"name": "teacher/model.safetensors", "sha256": "1", "licence": "unknown", "source": "cxr resnet50"}
    theirs = {"name": "nih-pc.pt", "sha256": "2", "licence": "unknown", "source": ""}
    actual = notes("test", {"a": header(ancestors=(ours, theirs)), "b": header(ancestors=(ours,))}, {96: COHORT}, MATCH)
    assert actual == [
        "Nothing says which images nih-pc.pt was trained on, which a comes from: some of these may be among them."
    ]


def test_what_forbids_commercial_use_is_said_at_the_head():
    rad = {"name": "rad/model.safetensors", "sha256": "2", "licence": "MSRLA", "source": "cxr vit"}
    found = notes("test", {"a": header(ancestors=(rad,)), "b": header(licence="MIT")}, {96: COHORT}, MATCH)
    assert found == [
        "a: WARNING: NOT FOR COMMERCIAL USE: the licence of rad/model.safetensors forbids it, and binds this file."
    ]


def test_patients_on_both_sides_of_the_split_are_named_first():
    leaky: Any = SimpleNamespace(**{**vars(COHORT), "shared_groups": {("train", "test"): 3, ("train", "val"): 2}})
    (actual,) = notes("test", {"m": header()}, {96: leaky}, MATCH)
    assert actual.startswith("3 patients (or patients with an identical image) lie in both train and test")
    assert any(note.startswith("2 patients") for note in notes("val", {"m": header()}, {96: leaky}, MATCH))
    elsewhere = header(cohort={"name": "padchest", "fingerprint": "2"})
    assert not any("lie in both" in note for note in notes("test", {"m": elsewhere}, {96: leaky}, MATCH))


def test_models_of_one_origin_share_a_sentence():
    other = header(cohort={"name": "nih", "fingerprint": "2"})
    actual = notes("test", {"a": other, "b": other, "c": header(cohort=None)}, {96: COHORT}, MATCH)
    assert actual[0].startswith("a, b were trained on another state of nih")
    assert actual[1].startswith("The file does not say what c was trained on")
    assert len(actual) == 2


def test_thresholds_and_pixels_that_do_not_fit_are_named():
    odd = header(thresholds=None, pixels={"aspect": "pad"})
    actual = notes("test", {"m": odd}, {96: COHORT}, MATCH)
    assert any("aspect pad" in note and "aspect squash" in note for note in actual)
    assert any("0.5 decides" in note for note in actual)
    assert len(actual) == 2


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
    same = {"evaluated": 6, "identical": 3, "copies": 0, "not_compared": None}
    assert met == dict.fromkeys(files, same)
    (said,) = seen_in_training(met)
    assert said.startswith(
        "Of 6 evaluated images 3 are identical to training or validation images of backbone, teacher, student"
    )


def test_copies_that_were_saved_anew_at_another_size_are_met_again(tmp_path):
    """Smooth pictures of their own each, trained on at 96 pixels, validated on with the last two of them."""
    rng = np.random.default_rng(0)
    smooth = np.stack([cv2.GaussianBlur(rng.normal(0, 1, (96, 96)), (0, 0), 5) for _ in range(12)])
    pixels = np.rint(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    table = stored(96).table.with_columns(split=pl.Series(["train", "test"] * 5 + ["val", "val"]))
    before = replace(stored(96), pixels=pixels, table=table)
    file = tmp_path / "model.safetensors"
    save(file, {"w": torch.zeros(1)}, header(), training_images=trained_on(before, ()))
    anew = np.stack([cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in pixels])
    again = [cv2.imdecode(cv2.imencode(".jpg", image, [1, 60])[1], cv2.IMREAD_GRAYSCALE) for image in anew]
    anew = np.stack([np.asarray(image) for image in again])
    anew[0] = 255 - anew[0]
    after = replace(stored(64), pixels=anew, table=table.with_columns(split=pl.lit("test")))
    met = met_in_training({"m": file}, {"m": header()}, {64: after}, after.rows("test"))
    assert met["m"] == {"evaluated": 12, "identical": None, "copies": 7, "not_compared": None}
    (said,) = seen_in_training(met)
    assert said.startswith(
        "Of 12 evaluated images 7 look like copies, saved anew, rescaled, toned or turned, of training"
    )


def test_what_cannot_be_compared_is_no_zero(tmp_path):
    cohort, rows = stored(96), stored(96).rows("test")
    silent, smaller, mapped = (tmp_path / f"{name}.safetensors" for name in ("silent", "smaller", "mapped"))
    weights = {"w": torch.zeros(1)}
    save(silent, weights, header())
    few = np.zeros((0, 16), np.int64)  # files of before this was kept
    save(smaller, weights, header(), training_images=trained_on(stored(64), ())._replace(likeness=few))
    save(mapped, weights, header(), training_images=trained_on(stored(96, seed=5), ()))
    files = {"silent": silent, "smaller": smaller, "mapped": mapped}
    headers = {"silent": header(), "smaller": header(), "mapped": header(pixels={"aspect": "pad"})}
    met = met_in_training(files, headers, {96: cohort}, rows)
    assert [one["identical"] for one in met.values()] == [None, None, 0]
    assert [one["copies"] for one in met.values()] == [None, None, 0]
    assert [one["not_compared"] for one in met.values()] == [
        "its file does not say which images it was trained on",
        "its file does not say what its training images look like: copies of them are not found; "
        "6 training images were stored at 64 pixels, these at 96",
        "its training images were mapped to pixels otherwise",
    ]
    assert len(seen_in_training(met)) == 2
