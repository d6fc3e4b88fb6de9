from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.cohorts.cohort import Cohort, Task
from cxr_data.errors import BadInput
from cxr_data.preparation.splits import assign, join_groups, kfold, label_fraction, redraw, stratified


def one_hot(classes: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[np.asarray(classes).astype(int)]


def cohort(patients: Sequence[str], targets: np.ndarray, split: Sequence[str], task: Task = "multiclass") -> Cohort:
    labels = tuple("abcdefgh"[: targets.shape[1]])
    columns = {f"label:{name}": targets[:, i] for i, name in enumerate(labels)}
    names = [str(i) for i in range(len(targets))]
    table = pl.DataFrame({"image": names, "patient": patients, "split": split, **columns})
    pixels = np.zeros((len(targets), 8, 8), np.uint8)
    return Cohort("test", task, labels, table, pixels, {}, "here", "0")


def random_targets(rng: np.random.Generator, images: int, labels: int) -> np.ndarray:
    targets = (rng.random((images, labels)) < rng.uniform(0.02, 0.5, labels)).astype(np.float32)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    return targets


def test_groups_join_patients_over_identical_images_transitively():
    patients = ["a", "b", "a", "c", "d", "e"]
    digests = [b"1", b"2", b"3", b"3", b"2", None]
    assert join_groups(patients, digests).tolist() == [0, 1, 0, 0, 1, 2]
    assert join_groups(["x", "y"], [None, None]).tolist() == [0, 1]
    assert join_groups([], []).tolist() == []


@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 300),
    labels=st.integers(0, 6),
    parts=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
)
@settings(deadline=None, max_examples=25)
def test_stratified_keeps_groups_whole_and_sizes_due(seed, images, labels, parts):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, max(images // 2, 1), images)
    targets = random_targets(rng, images, labels)
    part = stratified(groups, targets, parts, seed=3)
    assert all(len(np.unique(part[groups == group])) == 1 for group in np.unique(groups))
    assert not np.isin(part, [p for p, size in enumerate(parts) if not size]).any()
    np.testing.assert_array_equal(part, stratified(groups, targets, parts, seed=3))
    # Every stratum (a label each, "none" and "unknown") can leave a part behind by less than one group.
    slack = (labels + 2) * np.bincount(groups).max()
    due = np.array(parts) / sum(parts) * images
    assert np.abs(np.bincount(part, minlength=len(parts)) - due).max() <= slack


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=4)
def test_stratified_balances_labels_as_well_as_images(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(400), rng.integers(1, 4, 400))
    targets = (rng.random((len(groups), 5)) < [0.03, 0.05, 0.1, 0.2, 0.3]).astype(np.float32)
    part = stratified(groups, targets, (7, 1, 2), seed)
    for p, share in enumerate((0.7, 0.1, 0.2)):
        assert abs((part == p).mean() - share) < 0.01
        missed = targets[part == p].sum(axis=0) - share * targets.sum(axis=0)
        # A random split would miss a label with 240 positives by 4.6 (one standard deviation) in the middle part.
        assert np.abs(missed).max() <= 6


def test_stratified_does_not_depend_on_the_numbers_given_to_groups():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 100)
    targets = random_targets(rng, 100, 3)
    renamed = rng.permutation(1000)[groups]
    np.testing.assert_array_equal(stratified(groups, targets, (7, 1, 2), 5), stratified(renamed, targets, (7, 1, 2), 5))


def test_other_seeds_give_other_splits():
    groups = np.arange(100)
    targets = one_hot(groups % 2, 2)
    parts = [stratified(groups, targets, (7, 1, 2), seed).tolist() for seed in range(3)]
    assert parts[0] != parts[1] != parts[2] != parts[0]


def test_without_a_split_patients_are_split_70_10_20():
    groups = np.repeat(np.arange(100), 2)
    split, notes = assign([None] * 200, groups, one_hot(groups % 2, 2), 0)
    assert [split.count(name) for name in ("train", "val", "test")] == [140, 20, 40]
    assert notes == ["the data set has no split: patients were split 70 / 10 / 20 % (70 train, 10 val, 20 test)"]


def test_without_labels_nothing_is_kept_for_test():
    split, _ = assign([None] * 50, np.arange(50), np.zeros((50, 0), np.float32), 0)
    assert [split.count(name) for name in ("train", "val", "test")] == [45, 5, 0]


def test_too_few_patients_are_refused():
    with pytest.raises(BadInput, match="8 images of 2"):
        assign([None] * 8, np.repeat([0, 1], 4), one_hot(np.repeat([0, 1], 4), 2), 0)


def test_an_official_split_with_enough_validation_images_is_left_alone():
    official = ["train"] * 300 + ["val"] * 100 + ["test"] * 50
    split, notes = assign(official, np.arange(450), one_hot(np.arange(450) % 2, 2), 0)
    assert split == official
    assert notes == []


def test_a_small_validation_part_gets_whole_training_patients_and_test_is_untouched():
    groups = np.concatenate([np.repeat(np.arange(500), 2), np.arange(500, 508), np.arange(0, 1000, 20) + 10])
    official = ["train"] * 1000 + ["val"] * 8 + ["test"] * 50  # 25 patients of test are in train as well
    targets = one_hot(np.arange(len(groups)) % 4 == 0, 2)
    split, notes = assign(official, groups, targets, 0)
    train, val, test = (np.array(split) == name for name in ("train", "val", "test"))
    assert test.tolist() == [name == "test" for name in official]
    assert val[1000:1008].all()
    assert not np.intersect1d(groups[train], groups[val]).size
    assert val[:1000].sum() == 100
    assert targets[val, 1].mean() == pytest.approx(targets[:1000, 1].mean(), abs=0.02)
    assert "the official validation part has 8 images" in notes[0]
    assert "100 images of 50 training patients" in notes[0]
    crossing = [note for note in notes if "in both" in note]
    assert sum(int(note.split()[0]) for note in crossing) == 25


def test_training_images_of_a_small_validation_parts_patients_follow_it():
    groups = np.concatenate([np.arange(200), [0, 1]])
    official = ["train"] * 200 + ["val"] * 2 + ["test"] * 0
    split, _ = assign(official, groups, np.zeros((202, 0), np.float32), 0)
    assert split[0] == split[1] == "val"


def test_no_official_validation_part():
    official = ["train"] * 200 + ["test"] * 40
    split, notes = assign(official, np.arange(240), one_hot(np.arange(240) % 2, 2), 0)
    assert (split.count("train"), split.count("val"), split.count("test")) == (180, 20, 40)
    assert "no validation part: 20 images of 20 training patients became validation" in notes[0]


def test_no_official_test_part():
    official = ["train"] * 1000 + ["val"] * 150
    split, notes = assign(official, np.arange(1150), one_hot(np.arange(1150) % 2, 2), 0)
    assert split[1000:] == ["val"] * 150
    assert split.count("test") == 200
    assert "no test part: 200 images of 200 training patients became test" in notes[0]


def test_patients_across_an_official_split_are_told():
    groups = np.concatenate([np.arange(300), np.arange(100), np.arange(50)])
    official = ["train"] * 300 + ["val"] * 100 + ["test"] * 50
    _, notes = assign(official, groups, one_hot(np.arange(450) % 2, 2), 0)
    assert [note.split(" ", 1)[0] for note in notes] == ["100", "50", "50"]


def test_a_split_without_training_images_is_refused():
    with pytest.raises(BadInput, match=r"(?s)found only test images.*where: .*--split patients"):
        assign(["test"] * 10, np.arange(10), one_hot(np.zeros(10, int), 2), 0)


def test_a_split_whose_training_patients_are_all_in_validation_is_refused():
    official = ["train", "val", "test"] * 10
    with pytest.raises(BadInput, match=r"(?s)none: all 10 lie in both parts.*where: .*--split patients"):
        assign(official, np.arange(30) // 3, one_hot(np.zeros(30, int), 2), 0)


@given(seed=st.integers(0, 1000), low=st.floats(0.01, 1), high=st.floats(0.01, 1))
@settings(deadline=None, max_examples=30)
def test_label_fractions_are_nested_and_patient_wise(seed, low, high):
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(80), rng.integers(1, 4, 80))
    split = ["train" if n % 4 else "test" for n in numbers]
    data = cohort([f"p{n}" for n in numbers], one_hot(numbers % 3, 3), split)
    small, large = (label_fraction(data, f, seed=seed) for f in sorted((low, high)))
    assert set(small) <= set(large) <= set(data.rows("train"))
    left = np.setdiff1d(data.rows("train"), small)
    assert not np.intersect1d(numbers[small], numbers[left]).size
    assert set(numbers[small] % 3) == {0, 1, 2}


def test_label_fractions_have_the_size_and_mix_asked_for():
    classes = np.arange(2000) % 4 == 0
    data = cohort([f"p{n}" for n in range(2000)], one_hot(classes, 2), ["train"] * 2000)
    for fraction in (0.01, 0.1, 0.5):
        rows = label_fraction(data, fraction, seed=1)
        assert len(rows) == pytest.approx(2000 * fraction, abs=1)
        assert classes[rows].mean() == pytest.approx(0.25, abs=0.06 if fraction == 0.01 else 0.01)
    np.testing.assert_array_equal(label_fraction(data, 1.0), np.arange(2000))


def test_label_fractions_count_labelled_images_only():
    targets = one_hot(np.arange(100) % 2, 2)
    targets[50:] = np.nan
    data = cohort([f"p{n}" for n in range(100)], targets, ["train"] * 100)
    np.testing.assert_array_equal(label_fraction(data, 1.0), np.arange(50))
    assert len(label_fraction(data, 0.5)) == 25
    with pytest.raises(BadInput, match="1 %"):
        label_fraction(data, 0.0)


def test_folds_cover_train_and_val_once_and_leave_test_out():
    numbers = np.repeat(np.arange(60), 2)
    split = [("train", "train", "val", "test")[n % 4] for n in numbers]
    data = cohort([f"p{n}" for n in numbers], one_hot(numbers % 2, 2), split)
    folds = kfold(data, 5, seed=2)
    held_out = np.concatenate([val for _, val in folds])
    np.testing.assert_array_equal(np.sort(held_out), np.flatnonzero(np.array(split) != "test"))
    for train, val in folds:
        assert not np.intersect1d(numbers[train], numbers[val]).size
        assert len(train) + len(val) == 90
        assert abs(len(val) - 18) <= 2
    with pytest.raises(BadInput, match="2 to 45 folds"):
        kfold(data, 46)


def test_a_new_split_keeps_patients_together_or_says_that_it_does_not() -> None:
    groups = np.repeat(np.arange(200), 3)
    targets = (np.arange(600) % 4 == 0).astype(np.float32)[:, None]
    split, notes = redraw(groups, targets, by="patients", test_share=0.3, seed=0)
    assert all(len({split[i] for i in np.flatnonzero(groups == g)}) == 1 for g in range(200))
    assert np.mean(np.array(split) == "test") == pytest.approx(0.3, abs=0.01)
    assert len(notes) == 1
    split, notes = redraw(groups, targets, by="images", test_share=0.3, seed=0)
    assert np.mean(np.array(split) == "test") == pytest.approx(0.3, abs=0.01)
    assert any("lie in both train and test of this split" in note for note in notes)
    with pytest.raises(BadInput, match="--test_share"):
        redraw(groups, targets, by="images", test_share=1.0, seed=0)
