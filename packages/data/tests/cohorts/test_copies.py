"""Images that cohorts share under other names."""

import cv2
import numpy as np
import polars as pl
import pytest

from cxr_data import join, open_cohort
from cxr_data.auditing.orientations import reoriented
from cxr_data.cohorts import likeness
from cxr_data.cohorts.cohort import Cohort
from cxr_data.errors import BadInput


def cohort_of(name: str, pixels, split, patients=None) -> Cohort:
    n = len(pixels)
    patients = patients or [f"{name}{i}" for i in range(n)]
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    table = {
        "image": [f"{name}-{i}.png" for i in range(n)],
        "patient": patients,
        "split": split,
        "group": [numbers[patient] for patient in patients],
        "label:Mass": np.arange(n, dtype=np.float32) % 2,
    }
    mapping = {"aspect": "squash", "window": "voi"}
    return Cohort(name, "multilabel", ("Mass",), pl.DataFrame(table), pixels, mapping, f"/{name}", f"print of {name}")


def noise(n: int, seed: int = 0, size: int = 16):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), np.uint8)


def splits(joined: Cohort) -> dict[str, str]:
    return dict(zip(joined.table["image"], joined.table["split"], strict=True))


def test_an_image_tested_in_one_cohort_is_not_trained_on_in_another():
    shared = noise(6)
    first = cohort_of("one", shared, ["train", "train", "val", "test", "test", "train"])
    second = cohort_of("two", np.concatenate([shared[::-1], noise(2, 1)]), ["train"] * 4 + ["test"] * 2 + ["train"] * 2)
    both = join([first, second])
    assert splits(both) == {
        "one/one-2.png": "val",
        "one/one-3.png": "test",
        "one/one-4.png": "test",
        "one/one-5.png": "train",
        "two/two-0.png": "train",  # both train on it
        "two/two-4.png": "test",
        "two/two-5.png": "test",
        "two/two-6.png": "train",
        "two/two-7.png": "train",
    }
    assert both.notes[0].startswith("cohorts share images: 12 images are identical to an image of another cohort")
    assert both.notes[1].startswith("5 images were left out (5 training): an identical image")
    assert not both.shared_groups
    for row, image in enumerate(both.table["image"]):
        cohort = first if image.startswith("one") else second
        own = int(image.rsplit("-", 1)[1].removesuffix(".png"))
        np.testing.assert_array_equal(both.pixels[row], cohort.pixels[own])
        assert both.targets[row, 0] == cohort.targets[own, 0]


def test_images_stored_in_16_and_in_8_bits_are_compared():
    shared = noise(4)
    deep = cohort_of("deep", shared.astype(np.uint16) * 257, ["train", "train", "val", "test"])
    both = join([cohort_of("one", shared, ["test", "train", "train", "test"]), deep])
    assert both.notes[0].startswith("cohorts share images: 8 images are identical")
    assert list(splits(both)) == [*(f"one/one-{i}.png" for i in (0, 1, 3)), *(f"deep/deep-{i}.png" for i in (1, 2, 3))]
    np.testing.assert_array_equal(both.pixels[3], shared[1])


def test_patients_of_a_shared_image_are_one_patient():
    shared = noise(1)
    first = cohort_of("one", np.concatenate([shared, noise(2, 1)]), ["test", "test", "train"], ["a", "a", "b"])
    second = cohort_of("two", np.concatenate([noise(2, 2), shared]), ["train", "train", "train"], ["c", "d", "c"])
    both = join([first, second])
    assert splits(both) == {
        "one/one-0.png": "test",
        "one/one-1.png": "test",
        "one/one-2.png": "train",
        "two/two-1.png": "train",  # c is a; d is somebody else
    }


def test_a_split_that_leaks_within_one_cohort_is_left_as_it_is():
    pixels = noise(3)
    first = cohort_of("one", pixels, ["train", "test", "train"], ["a", "a", "b"])
    both = join([first, cohort_of("two", noise(2, 1), ["train", "test"])])
    assert len(both) == 5
    assert not any("share images" in note for note in both.notes)


def test_blank_images_are_nobodys():
    blank = np.zeros((2, 16, 16), np.uint8)
    first = cohort_of("one", np.concatenate([blank, noise(2)]), ["train", "train", "train", "test"])
    second = cohort_of("two", np.concatenate([blank, noise(2, 1)]), ["test", "val", "train", "train"])
    assert len(join([first, second])) == 8


def test_copies_that_are_not_identical_are_found_unless_images_look_alike_anyway():
    rng = np.random.default_rng(0)
    pictures = np.stack([cv2.resize(rng.integers(0, 256, (12, 12), np.uint8), (96, 96)) for _ in range(8)])
    again = [np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, [1, 60])[1], 0), np.uint8) for picture in pictures]
    again = [reoriented(picture, number) for number, picture in enumerate(again)]
    first = cohort_of("one", pictures, ["train"] * 6 + ["test"] * 2)
    second = cohort_of("two", np.stack(again), ["test"] * 2 + ["train"] * 6)
    both = join([first, second])
    training = [image for image, split in splits(both).items() if split == "train"]
    assert training == [*(f"one/one-{i}.png" for i in range(2, 6)), *(f"two/two-{i}.png" for i in range(2, 6))]
    assert both.notes[0].startswith("cohorts share images: 16 are copies")
    alike = np.clip(pictures[:1].astype(int) + rng.normal(0, 3, (16, 96, 96)), 0, 255).astype(np.uint8)
    drawn = cohort_of("drawn", alike[:8], ["train"] * 7 + ["test"])
    both = join([drawn, cohort_of("drawn too", alike[8:], ["test"] + ["train"] * 7)])
    assert len(both) == 16
    assert both.notes[0].startswith("16 images look like many others: whether they are copies")


def test_a_copy_is_found_though_its_own_cohort_holds_it_several_times():
    rng = np.random.default_rng(0)
    pictures = np.stack([cv2.resize(rng.integers(0, 256, (12, 12), np.uint8), (96, 96)) for _ in range(4)])
    one = pictures[0]
    half = cv2.resize(cv2.resize(one, (48, 48), interpolation=cv2.INTER_AREA), (96, 96))
    saved = [cv2.imdecode(cv2.imencode(".jpg", one, [1, quality])[1], 0) for quality in (40, 90)]
    forms = [np.asarray(form, np.uint8) for form in (*saved, 255 - one, half)]
    first = cohort_of("one", np.stack([*forms, *pictures[1:3]]), ["train"] * 5 + ["val"])
    both = join([first, cohort_of("two", np.stack([one, 255 - one, pictures[3]]), ["test", "test", "train"])])
    assert [image for image, split in splits(both).items() if split == "train"] == ["one/one-4.png", "two/two-2.png"]
    assert both.notes[1].startswith("4 images were left out (4 training)")
    assert "labels of 1 shared images differ" in both.notes[2]
    assert both.notes[3].startswith("1 test images are there more than once")


def test_what_is_not_compared_is_said(monkeypatch):
    parts = [cohort_of(name, noise(4, seed), ["train", "train", "val", "test"]) for seed, name in enumerate(("a", "b"))]
    assert join(parts).notes[0].startswith("cohorts read as one")
    monkeypatch.setattr(likeness, "MOST_COMPARED", 7)
    assert join(parts).notes[0].startswith("more than 7 images: only identical ones were searched for")


def test_cohorts_whose_training_images_all_leak_are_refused():
    shared = noise(4)
    first = cohort_of("one", shared, ["train"] * 2 + ["test"] * 2)
    with pytest.raises(BadInput, match="expected training images, found none") as error:
        join([first, cohort_of("two", shared, ["test"] * 2 + ["train"] * 2)])
    assert "leave one of the cohorts out" in str(error.value)


def test_a_repeated_image_in_two_test_parts_is_said():
    shared = noise(2)
    first = cohort_of("one", np.concatenate([shared, noise(2, 1)]), ["test", "test", "train", "val"])
    both = join([first, cohort_of("two", np.concatenate([shared, noise(2, 2)]), ["test", "test", "train", "val"])])
    assert len(both) == 8
    assert any(note.startswith("2 test images are there more than once") for note in both.notes)


def test_phantoms_are_not_copies_of_each_other():

    one, two = open_cohort("phantom:40", pixel_size=64), open_cohort("phantom:30", pixel_size=64, seed=3)
    joined = join([one, two])
    assert len(joined) == 70, joined.notes[0]
