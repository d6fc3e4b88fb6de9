import numpy as np

from cxr_data.auditing import leakage


def test_split_folders_at_any_depth():
    assert leakage.folder_split(["a/Train/x.png", "a/valid/y.png", "z.png"]) == ["train", "val", ""]
    assert leakage.folder_split(["train/x.png", "train/y.png"]) is None
    assert leakage.folder_split(["train.png", "test.png"]) is None  # names of files are no folders


def test_patients_in_two_splits_are_counted_by_pair():
    patients = ["a", "a", "b", "b", "c", "c", "c", "d", "e"]
    split = ["train", "test", "train", "train", "train", "val", "test", "", "val"]
    actual = leakage.shared_patients(patients, split)
    assert actual["shared"] == 2
    assert actual["patients"] == 4
    assert actual["pairs"] == {"train-val": 1, "train-test": 2, "val-test": 1}
    assert actual["images"] == 5
    assert actual["rows"] == [0, 1, 4, 5, 6]


def test_unknown_labels_do_not_conflict():
    targets = np.array([[0, np.nan], [0, 1], [1, 1]], np.float32)
    assert not leakage.labels_differ(targets, np.array([0, 1]))
    assert leakage.labels_differ(targets, np.array([0, 2]))


def test_folders_that_name_a_class_are_compared_with_the_labels(cohort_of):
    images = ["train/0_normal/a.png", "train/0_normal/b.png", "x/Mass/c.png", "x/Mass/d.png", "other/e.png"]
    mass, edema = np.array([0, 0, 1, 0, 1], np.float32), np.array([0, 1, 0, np.nan, 0], np.float32)
    columns = {"image": images, "label:Mass": mass, "label:Edema": edema}
    actual = leakage.folder_disagreements(cohort_of(np.zeros((5, 16, 16), np.uint8), **columns))
    assert actual == {
        "folders": {"0_normal": {"images": 2, "disagree": 1}, "Mass": {"images": 2, "disagree": 1}},
        "rows": [1, 3],
    }
    assert leakage.folder_disagreements(cohort_of(np.zeros((2, 16, 16), np.uint8))) is None


def test_a_share_that_differs_by_chance_is_no_shift(cohort_of):
    split = ["train"] * 400 + ["val"] * 20 + ["test"] * 200
    mass = np.r_[np.arange(400) % 2, np.arange(20) < 12, np.arange(200) < 140].astype(np.float32)
    balance = leakage.balance(cohort_of(np.zeros((620, 16, 16), np.uint8), split=split, **{"label:Mass": mass}))
    assert [(s["label"], s["split"], s["share"], s["train"]) for s in balance["shifts"]] == [("Mass", "test", 0.7, 0.5)]
    assert [(s["label"], s["split"]) for s in balance["scarce"]] == [("Mass", "val"), ("Edema", "val")]
    assert balance["always"] == {}
