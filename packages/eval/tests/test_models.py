from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cxr_common.checkpoint import Header, Input
from cxr_data.errors import BadInput
from cxr_eval.models import aligned_targets, controls, match_labels, relation, teachers


def header(labels, task="multilabel", **more):
    return Header("model", "resnet18", Input(32, 0.5, 0.25), task=task, labels=tuple(labels), **more)


def test_multilabel_matches_what_all_share_in_the_order_of_the_first():
    headers = {"t": header(["Mass", "Edema", "Hernia"]), "s": header(["Edema", "Mass"])}
    match = match_labels(headers, "multilabel", ["Edema", "Nodule", "Mass"])
    assert match.labels == ("Mass", "Edema")
    assert any("t" in note and "Hernia" in note for note in match.notes)
    assert any("cohort" in note and "Nodule" in note for note in match.notes)
    assert any("matched by name" in note for note in match.notes)
    targets = np.array([[1, 0, np.nan]], np.float32)
    np.testing.assert_array_equal(aligned_targets(targets, ["Edema", "Nodule", "Mass"], match), [[np.nan, 1]])


def test_equal_labels_need_no_note():
    assert match_labels({"t": header(["A", "B"])}, "multilabel", ["A", "B"]).notes == ()


def test_a_class_the_cohort_lacks_is_never_right():
    headers = {"t": header(["COVID", "Normal", "Viral"], "multiclass")}
    match = match_labels(headers, "multiclass", ["Normal", "COVID"])
    assert match.labels == ("COVID", "Normal", "Viral")
    assert any("Viral" in note for note in match.notes)
    targets = np.array([[1, 0], [np.nan, np.nan]], np.float32)
    aligned = aligned_targets(targets, ["Normal", "COVID"], match)
    np.testing.assert_array_equal(aligned, [[0, 1, 0], [np.nan] * 3])


@pytest.mark.parametrize(
    ("ours", "theirs", "task"),
    [
        (["NORMAL", "PNEUMONIA"], ["healthy", "pneumonia"], "multiclass"),
        (["NORMAL", "PNEUMONIA"], ["NORMAL", "PNEUMONIA", "COVID"], "multiclass"),
        (["Mass"], ["Edema"], "multilabel"),
        (["NORMAL", "PNEUMONIA"], ["NORMAL", "PNEUMONIA"], "multilabel"),
    ],
)
def test_what_does_not_match_is_refused_with_both_lists(ours, theirs, task):
    with pytest.raises(BadInput) as caught:
        match_labels({"teacher": header(ours, "multiclass" if len(ours) > 1 else "multilabel")}, task, theirs)
    assert ", ".join(ours) in str(caught.value)
    assert ", ".join(theirs) in str(caught.value)


def test_models_of_other_classes_or_without_a_common_label_are_refused():
    three = {"a": header(["A", "B"], "multiclass"), "b": header(["A", "B", "C"], "multiclass")}
    with pytest.raises(BadInput, match="same classes"):
        match_labels(three, "multiclass", ["A", "B"])
    with pytest.raises(BadInput, match="all models share"):
        match_labels({"a": header(["A", "B"]), "b": header(["C"])}, "multilabel", ["A", "B", "C"])


def test_relation_to_the_training_cohort():
    trained = header(["A"], cohort={"name": "nih", "fingerprint": "1"})
    assert relation(trained, cohort("nih", "1")) == "internal"
    assert relation(trained, cohort("renamed", "1")) == "internal"  # the content counts
    assert relation(trained, cohort("nih", "2")) == "other state"
    assert relation(trained, cohort("padchest", "2")) == "external"
    assert relation(header(["A"]), cohort("nih", "1")) == "unknown"


def cohort(name: str, fingerprint: str, **parts: str) -> Any:
    listed = tuple({"name": part, "fingerprint": content} for part, content in parts.items())
    return SimpleNamespace(name=name, fingerprint=fingerprint, parts=listed)


def test_relation_of_joined_cohorts_is_that_of_their_parts():
    alone = header(["A"], cohort={"name": "nih", "fingerprint": "1"})
    assert relation(alone, cohort("nih + padchest", "x", nih="1", padchest="2")) == "overlapping"
    assert relation(alone, cohort("nih + padchest", "x", nih="9", padchest="2")) == "other state"
    assert relation(alone, cohort("a + b", "x", a="8", b="9")) == "external"
    parts = [{"name": "nih", "fingerprint": "1"}, {"name": "padchest", "fingerprint": "2"}]
    joined = header(["A"], cohort={"name": "nih + padchest", "fingerprint": "x", "parts": parts})
    assert relation(joined, cohort("nih", "1")) == "overlapping"
    assert relation(joined, cohort("padchest", "9")) == "other state"
    assert relation(joined, cohort("nih + chexpert", "y", nih="1", chexpert="3")) == "overlapping"
    assert relation(joined, cohort("vindr", "3")) == "external"
    assert relation(joined, cohort("padchest + nih", "y", padchest="2", nih="1")) == "internal"


def test_teachers_are_found_by_their_files():
    def parent(role, sha):
        return {"role": role, "path": "x", "sha256": sha}

    headers = {
        "t": header(["A"], parents=(parent("start", "s"),)),
        "a": header(["A"], parents=(parent("start", "t1"), parent("teacher", "t1"))),
        "b": header(["A"], parents=(parent("teacher", "gone"),)),
    }
    assert teachers(headers, {"t": "t1", "a": "a1", "b": "b1"}) == {"a": "t"}


def test_a_control_is_known_by_its_record_and_not_by_its_name():
    config = {"control": True, "loss": "dkd", "lr": 0.1}
    taught = header(["A"], config=config, seed=3, parents=({"role": "teacher", "sha256": "1"},))
    alone = header(["A"], config=dict(config), seed=3, parents=({"role": "start", "sha256": "2"},))
    assert controls({"teacher": header(["A"]), "x": taught, "y": alone}) == {"x": "y"}
    others = {
        "another seed": header(["A"], config=config, seed=4),
        "another setting": header(["A"], config={**config, "lr": 0.2}, seed=3),
        "taught too": taught,
    }
    for other in others.values():
        assert controls({"x": taught, "y": other}) == {}
    assert controls({"x": header(["A"], config={}, seed=3, parents=taught.parents), "y": header(["A"], seed=3)}) == {}
