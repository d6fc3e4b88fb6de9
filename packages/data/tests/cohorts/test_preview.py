import cv2
import numpy as np
import polars as pl

from cxr_data.cohorts.cohort import Cohort
from cxr_data.cohorts.preview import contact_sheet, view_sheet


def cohort(targets: np.ndarray, task, labels) -> Cohort:
    images = len(targets)
    pixels = np.repeat(np.linspace(60, 200, images).astype(np.uint8), 64).reshape(images, 8, 8)
    table = pl.DataFrame(
        {
            "image": [f"a/Ä{i}.png" for i in range(images)],
            "patient": [str(i) for i in range(images)],
            "split": ["train"] * images,
            **{f"label:{name}": targets[:, i] for i, name in enumerate(labels)},
        }
    )
    return Cohort("test", task, tuple(labels), table, pixels, {}, "here", "0")


def test_one_strip_a_class_with_its_images():
    classes = np.arange(10) % 2
    sheet = contact_sheet(cohort(np.eye(2, dtype=np.float32)[classes], "multiclass", "ab"), columns=5, tile=40)
    strip = 26 + 40 + 16 + 4
    assert sheet.shape == (2 * strip, 5 * 44 + 4)
    levels = np.linspace(60, 200, 10).astype(np.uint8)
    for kind in (0, 1):
        shown = [sheet[kind * strip + 46, 4 + 44 * column + 20] for column in range(5)]
        assert shown == levels[classes == kind].tolist()
        assert sheet[kind * strip : kind * strip + 26].max() > 150  # the label is burned in


def test_multilabel_sheets_show_healthy_images_and_empty_labels():
    targets = np.zeros((4, 2), np.float32)
    targets[0, 0] = 1
    targets[1] = np.nan
    sheet = contact_sheet(cohort(targets, "multilabel", ("Mass", "Hernia")), columns=3, tile=32)
    strip = 26 + 32 + 16 + 4
    assert sheet.shape[0] == 3 * strip
    assert [int(sheet[42, 4 + 36 * column + 16]) for column in range(3)] == [153, 200, 24]
    assert (sheet[2 * strip + 26 : 3 * strip] == 24).all()  # no image of Hernia


def test_unlabelled_cohorts_have_one_strip():
    sheet = contact_sheet(cohort(np.zeros((3, 0), np.float32), None, ()), columns=3, tile=32)
    assert sheet.shape[0] == 26 + 32 + 16 + 4
    assert cv2.imencode(".png", sheet)[0]


def test_outlines_are_drawn_on_the_strip_of_their_label():
    targets = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    made = cohort(targets, "multilabel", ("Mass", "Hernia"))
    box = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    drawn = contact_sheet(
        made, columns=3, tile=64, outlines=lambda row, label: [box] if (row, label) == (2, "Mass") else []
    )
    plain = contact_sheet(made, columns=3, tile=64)
    changed = np.argwhere(drawn != plain)
    strip = 26 + 64 + 16 + 4
    assert changed[:, 0].min() >= strip + 26 + 13  # Mass is the second strip
    assert changed[:, 0].max() <= strip + 26 + 51
    assert changed[:, 1].min() >= 4 + 68 + 13  # row 2 is the second of its images
    assert drawn[strip + 26 + 16, 4 + 68 + 32] > 150
    assert drawn[strip + 26 + 32, 4 + 68 + 32] == plain[strip + 26 + 32, 4 + 68 + 32]


def test_views_stand_beside_the_image_they_are_of():
    rng = np.random.default_rng(0)
    made = cohort(np.eye(2, dtype=np.float32)[np.arange(6) % 2], "multiclass", "ab")
    object.__setattr__(made, "pixels", rng.integers(0, 256, (6, 48, 48)).astype(np.uint8))
    sheet = view_sheet(made, columns=4, tile=48)
    assert sheet.shape == (2 * (26 + 48 + 4), 4 * 52 + 4)
    np.testing.assert_array_equal(sheet[26:74, 4:52], made.pixels[2])  # the middle one of its class
    views = [sheet[26:74, 4 + 52 * i : 52 + 52 * i] for i in range(4)]
    assert all((views[0] != view).mean() > 0.5 for view in views[1:])
    np.testing.assert_array_equal(sheet, view_sheet(made, columns=4, tile=48))
