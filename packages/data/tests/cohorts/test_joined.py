from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cxr_data import join, load, open_cohort, save
from cxr_data.cohorts.cohort import Cohort, Task
from cxr_data.cohorts.pixel_rows import PixelRows
from cxr_data.errors import BadInput
from cxr_data.preparation.sizes import pixel_size_for


def made(name: str, labels, n: int, task: Task | None = "multilabel", seed=0, **extras) -> Cohort:
    rng = np.random.default_rng([seed, n])
    targets = rng.integers(0, 2, (n, len(labels))).astype(np.float32)
    if task == "multiclass":
        targets = np.eye(len(labels), dtype=np.float32)[np.arange(n) % len(labels)]
    table = {
        "image": [f"{i}.png" for i in range(n)],
        "patient": [f"p{i // 2}" for i in range(n)],
        "split": [("train", "train", "val", "test")[i // 2 % 4] for i in range(n)],
        "group": np.arange(n) // 2,
        **{f"label:{label}": targets[:, i] for i, label in enumerate(labels)},
        **extras,
    }
    pixels = rng.integers(0, 256, (n, 16, 16)).astype(np.uint8)
    mapping = {"aspect": "squash", "window": "voi"}
    return Cohort(name, task, tuple(labels), pl.DataFrame(table), pixels, mapping, f"/{name}", f"{seed}{name}")


def test_labels_meet_by_name_and_are_unknown_where_a_cohort_does_not_know_them():
    one = made("one", ("Pleural Effusion", "Mass"), 10, age=[40.0] * 10)
    two = made("two", ("Edema", "pleural_effusion"), 6, seed=1)
    both = join([one, two])
    assert both.labels == ("Pleural Effusion", "Mass", "Edema")
    assert both.task == "multilabel"
    np.testing.assert_array_equal(both.targets[:10, :2], one.targets)
    np.testing.assert_array_equal(both.targets[10:, 0], two.targets[:, 1])
    np.testing.assert_array_equal(both.targets[10:, 2], two.targets[:, 0])
    assert np.isnan(both.targets[:10, 2]).all()
    assert np.isnan(both.targets[10:, 1]).all()
    assert both.table["age"].to_list() == [40.0] * 10 + [None] * 6
    assert both.table["cohort"].to_list() == ["one"] * 10 + ["two"] * 6
    assert "labels of all: Pleural Effusion" in both.notes
    assert "labels of one: Mass; unknown for images of cohorts without them (two)" in both.notes
    assert "labels of two: Edema; unknown for images of cohorts without them (one)" in both.notes


def test_parts_are_told_by_their_own_names_and_fingerprints(tmp_path):
    one, two = made("one", ("Mass",), 8), made("two", ("Mass",), 8, seed=1)
    both = join([one, two])
    told = [{"name": "one", "fingerprint": "0one"}, {"name": "two", "fingerprint": "1two"}]
    assert both.describe()["parts"] == told
    assert "parts" not in one.describe()
    save(both, tmp_path / "both")
    kept = load(tmp_path / "both")
    assert kept.describe()["parts"] == told
    third = made("three", ("Mass",), 8, seed=2)
    assert join([kept, third]).describe()["parts"] == [*told, {"name": "three", "fingerprint": "2three"}]


def test_images_and_patients_of_one_name_stay_apart():
    one, two = made("set", ("Mass",), 8), made("set", ("Mass",), 8, seed=1)
    both = join([one, two])
    assert both.table["image"].n_unique() == 16
    assert both.table["patient"].n_unique() == 8
    assert both.table["image"][8] == "set 2/0.png"
    assert len(np.unique(both.groups)) == 8
    assert not np.intersect1d(both.groups[:8], both.groups[8:]).size
    rows = [*one.rows("test"), *(two.rows("test") + 8)]
    assert both.rows("test").tolist() == rows
    assert both.fingerprint != join([two, one]).fingerprint


def test_every_cohort_has_a_name_of_its_own():
    cohorts = [made(name, ("Mass",), 8, seed=seed) for seed, name in enumerate(("set", "set", "set 2", "set"))]
    both = join(cohorts)
    assert both.name == "set + set 2 + set 2 2 + set 3"
    assert both.table["image"].n_unique() == len(both)
    assert both.table["patient"].n_unique() == sum(cohort.table["patient"].n_unique() for cohort in cohorts)


def test_signs_tell_labels_apart_and_spellings_do_not():
    for one, other in (("COVID+", "COVID-"), ("Nodule > 1 cm", "Nodule < 1 cm"), ("Mass", "Masses")):
        assert join([made("one", (one,), 8), made("two", (other,), 8, seed=1)]).labels == (one, other)
    for one, other in (
        ("Pleural Effusion", "pleural-effusion"),
        ("Épanchement", "e\u0301panchement"),
        ("A / B", "a_b"),
    ):
        assert join([made("one", (one,), 8), made("two", (other,), 8, seed=1)]).labels == (one,)


def test_what_may_be_the_same_is_said():
    one = made("one", ("NORMAL", "PNEUMONIA"), 8, "multiclass")
    two = made("two", ("No Finding", "pneumonia"), 16, "multiclass", seed=1)
    both = join([made("plain", (), 24, None, seed=2), one, two])
    assert "classes that may mean the same, kept apart by their names: NORMAL, No Finding" in both.notes
    assert "without labels, unknown for all images: plain" in both.notes
    assert "labels of one: NORMAL; absent for images of cohorts without them (plain and two)" in both.notes
    said = [note for note in both.notes if "called as patients of" in note]
    assert [note.split(":")[0] for note in said] == [
        "4 patients of plain are called as patients of one are",
        "8 patients of plain are called as patients of two are",
        "4 patients of one are called as patients of two are",
    ]
    alone = [replace(cohort, table=cohort.table.with_columns(patient="image")) for cohort in (one, two)]
    assert not any("called as" in note for note in join(alone).notes)


def test_a_class_one_cohort_does_not_know_is_absent():
    one = made("one", ("NORMAL", "PNEUMONIA"), 6, "multiclass")
    two = made("two", ("Normal", "COVID"), 6, "multiclass", seed=1)
    both = join([one, two])
    assert both.labels == ("NORMAL", "PNEUMONIA", "COVID")
    assert (both.targets.sum(axis=1) == 1).all()
    assert both.targets[:, 0].tolist() == [1, 0] * 6


def test_unlabelled_images_join_for_pretraining():
    both = join([made("one", (), 4, None), made("two", ("Mass",), 6)])
    assert (both.task, both.labels) == ("multilabel", ("Mass",))
    assert np.isnan(both.targets[:4]).all()
    assert not np.isnan(both.targets[4:]).any()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (made("two", ("NORMAL", "ILL"), 4, "multiclass"), "cohorts of one task, found multilabel"),
        (replace(made("two", ("Mass",), 4), pixels=np.zeros((4, 32, 32), np.uint8)), "same --size"),
        (replace(made("two", ("Mass",), 4), pixel_mapping={"aspect": "pad"}), "same --aspect and --window"),
        (made("one", ("Mass",), 6), "each cohort once"),
        (made("two", ("Mass", "mass"), 4), "Mass and mass"),
    ],
)
def test_cohorts_that_do_not_go_together_are_refused(other, message):
    with pytest.raises(BadInput, match=message):
        join([made("one", ("Mass",), 6), other])


def test_pixels_are_read_as_from_one_array():
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (n, 5, 5)).astype(np.uint8) for n in (4, 1, 6)]
    whole, rows = np.concatenate(parts), PixelRows(parts)
    assert (len(rows), rows.shape, rows.dtype, rows.ndim) == (11, (11, 5, 5), np.uint8, 3)
    for index in (0, -1, np.int64(4), slice(None), slice(3, 7), slice(9, 2, -3), [5, 0, 5, -1], np.arange(11) % 2 == 0):
        np.testing.assert_array_equal(rows[index], whole[index])
    np.testing.assert_array_equal(np.asarray(rows), whole)
    np.testing.assert_array_equal(np.stack(list(rows)), whole)
    for index in (11, [3, 11]):
        with pytest.raises(IndexError):
            rows[index]


def test_sixteen_bits_become_eight_by_rounding():
    values = np.arange(65_536, dtype=np.uint16).reshape(1, 256, 256)
    expected = np.rint(values.astype(np.float64) / 257).astype(np.uint8)
    np.testing.assert_array_equal(PixelRows([values])[:], expected)


def test_open_joins_what_is_named_and_reads_each_from_its_own_file(tmp_path, monkeypatch):
    for name, n in (("one", 40), ("two", 24)):
        save(made(name, ("Mass",), n), tmp_path / name)
    both = open_cohort([tmp_path / "one", str(tmp_path / "two")], pixel_size=16)
    assert isinstance(both.pixels, PixelRows)
    assert [type(part) for part in both.pixels.parts] == [np.memmap, np.memmap]
    assert len(both) == 64
    mean, std = both.mean_std()
    train = np.asarray(both.pixels)[both.rows("train")] / 255
    assert (mean, std) == (pytest.approx(train.mean()), pytest.approx(train.std()))
    save(both, tmp_path / "both")
    kept = load(tmp_path / "both")
    np.testing.assert_array_equal(kept.pixels, np.asarray(both.pixels))
    assert kept.table.equals(both.table)
    assert open_cohort([tmp_path / "one"], pixel_size=16).name == "one"
    with pytest.raises(BadInput, match="one cohort or several"):
        open_cohort([], pixel_size=16)


def test_masks_stay_with_their_images():
    both = open_cohort(["phantom:20", "phantom:24"], pixel_size=pixel_size_for(28))
    assert both.masks is not None
    actual = both.masks[30].reshape(len(both.labels), -1).any(axis=1)
    np.testing.assert_array_equal(actual, both.targets[30] == 1)


def test_patients_that_share_an_image_over_cohorts_are_one_group_and_never_in_two_splits():
    one, two = made("one", ("Mass",), 16), made("two", ("Mass",), 16, seed=1)
    pixels = two.pixels.copy()
    pixels[0] = one.pixels[6]  # a training image of "two" is a test image of "one"; its patient has row 1 too
    pixels[4] = one.pixels[0]  # a validation image of "two" is a training image of "one"
    pixels[2] = one.pixels[2]  # training images of both
    both = join([one, replace(two, pixels=pixels)])
    kept = both.table["image"].to_list()
    assert [f"two/{i}.png" in kept for i in range(6)] == [False, False, True, True, True, True]
    assert [f"one/{i}.png" in kept for i in range(8)] == [False, False, True, True, True, True, True, True]
    assert both.shared_groups == {}
    row = kept.index("two/2.png")
    assert both.groups[row] == both.groups[kept.index("one/2.png")]
    np.testing.assert_array_equal(both.pixels[row], pixels[2])
    assert both.notes[0].startswith("cohorts share images: 6 images are identical to an image of another")
    assert both.notes[1].startswith("4 images were left out")
    np.testing.assert_array_equal(both.targets[row], two.targets[2])
