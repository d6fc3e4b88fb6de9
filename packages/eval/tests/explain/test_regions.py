import dataclasses

import numpy as np
import polars as pl
import pytest

from cxr_data import open_cohort
from cxr_data.preparation.outlines import boxes_of
from cxr_eval.explain import regions

NO_BOXES = pl.DataFrame(schema={"row": pl.Int64, "label": pl.String})


@pytest.fixture(scope="module")
def phantom():
    return open_cohort("phantom:40", pixel_size=64, show=False)


def test_masks_of_the_phantom_at_any_size(phantom):
    assert boxes_of(phantom).height == 0
    known = regions.known(phantom, NO_BOXES, phantom.labels)
    np.testing.assert_array_equal(known, phantom.targets == 1)
    rows, columns = np.nonzero(known)
    names = [phantom.labels[column] for column in columns]
    same = regions.masks(phantom, NO_BOXES, rows, names, 64)
    np.testing.assert_array_equal(same, np.asarray(phantom.masks)[rows, columns])
    for size in (32, 96):
        other = regions.masks(phantom, NO_BOXES, rows, names, size)
        assert other.any(axis=(1, 2)).all()  # no lesion is lost, however small
        share, expected = other.mean(axis=(1, 2)), same.mean(axis=(1, 2))
        np.testing.assert_allclose(share[expected > 0.02], expected[expected > 0.02], rtol=0.25)


def test_boxes_become_masks(phantom):
    cohort = dataclasses.replace(phantom, masks=None)
    boxes = pl.DataFrame(
        {
            "row": [3, 3, 5],
            "label": ["nodule", "nodule", "effusion"],
            "x": [0.25, 0.75, 0.0],
            "y": [0.5, 0.0, 0.0],
            "width": [0.25, 0.25, 1.0],
            "height": [0.5, 0.25, 0.01],
        }
    )
    known = regions.known(cohort, boxes, ("effusion", "nodule"))
    assert np.argwhere(known).tolist() == [[3, 1], [5, 0]]
    actual = regions.masks(cohort, boxes, np.array([3, 5, 4]), ["nodule", "effusion", "nodule"], 8)
    expected = np.zeros((3, 8, 8), np.uint8)
    expected[0, 4:8, 2:4] = expected[0, 0:2, 6:8] = 1
    expected[1, 0] = 1  # a thin box keeps a row of pixels
    np.testing.assert_array_equal(actual, expected)


def test_the_phantom_knows_no_boxes_and_no_masks_of_other_labels(phantom):
    assert not regions.known(phantom, NO_BOXES, ("Hernia",)).any()
    assert not regions.masks(phantom, NO_BOXES, np.array([0]), ["Hernia"], 16).any()


@pytest.mark.e2e
def test_official_boxes_meet_real_radiographs(shared_data):
    """A teaching subset holds nine of the boxes; all lie on images with that label, in the thorax."""
    cohort = open_cohort(shared_data / "nih_1000_64", pixel_size=64, show=False)
    boxes = boxes_of(cohort)
    assert boxes.height == 9
    known = regions.known(cohort, boxes, cohort.labels)
    assert known.sum() == 9
    rows, columns = np.nonzero(known)
    names = [cohort.labels[column] for column in columns]
    masks = regions.masks(cohort, boxes, rows, names, 64)
    for mask, row, name in zip(masks, rows, names, strict=True):
        box = boxes.filter((pl.col("row") == row) & (pl.col("label") == name)).row(0, named=True)
        area = box["width"] * box["height"] * 64 * 64
        assert area <= mask.sum() <= area + 2 * 64 * (box["width"] + box["height"]) + 4
