from types import SimpleNamespace
from typing import Any

from cxr_common.checkpoint import Header, Input
from cxr_eval.models import Match
from cxr_eval.notes import notes

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
    assert found[1].startswith("What c was trained on is not said")
    assert len(found) == 2


def test_thresholds_and_pixels_that_do_not_fit_are_named():
    odd = header(thresholds=None, pixels={"aspect": "pad"})
    found = notes("test", {"m": odd}, {96: COHORT}, MATCH)
    assert any("aspect pad" in note and "aspect squash" in note for note in found)
    assert any("0.5 decides" in note for note in found)
    assert len(found) == 2
