import cv2
import numpy as np
import pytest

from cxr_data.auditing.duplicates import ALIKE, identical_groups, near_pairs
from cxr_data.auditing.measures import measure, unit_descriptors
from cxr_data.auditing.orientations import reoriented


def copies(image: np.ndarray) -> list[np.ndarray]:
    jpeg = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)
    half = cv2.resize(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA), (64, 64))
    gamma = (255 * (image / 255) ** 1.5).astype(np.uint8)
    return [np.asarray(jpeg), np.asarray(half), gamma, 255 - image]


def test_copies_are_found_and_nothing_else(drawn, cohort_of):
    altered = copies(drawn[5])
    pixels = np.concatenate([drawn, np.stack([*altered, drawn[7]])])
    measures = measure(cohort_of(pixels))
    assert [group.tolist() for group in identical_groups(measures.digest)] == [[7, 164]]
    pairs = near_pairs(measures.thumbs, measures.digest)
    assert pairs.complete
    of_five = {tuple(pair) for pair in pairs.rows.tolist() if pair[0] == 5}
    assert of_five >= {(5, 160), (5, 161), (5, 162), (5, 163)}
    assert [7, 164] not in pairs.rows.tolist()  # identical images are told elsewhere
    assert {row for pair in pairs.rows.tolist() for row in pair} <= {5, 160, 161, 162, 163}
    negative = pairs.correlation[(pairs.rows == 163).any(axis=1)]
    assert (negative < 0).all()


def test_pairs_are_those_of_a_plain_search_over_several_blocks(drawn, cohort_of, monkeypatch):
    from cxr_data.auditing import duplicates, orientations

    rng = np.random.default_rng(0)
    noisy = np.clip(drawn[:60] + rng.normal(0, 4, (60, 64, 64)), 0, 255).astype(np.uint8)
    noisy = np.stack([reoriented(image, i % 8) for i, image in enumerate(noisy)])
    measures = measure(cohort_of(np.concatenate([drawn, noisy])))
    rows = unit_descriptors(measures.thumbs, 48).astype(np.float64)
    small = unit_descriptors(measures.thumbs, 16).astype(np.float64)
    whole, coarse = (
        np.stack([reoriented(d.reshape(-1, e, e), i).reshape(len(d), -1) @ d.T for i in range(8)])
        for d, e in ((rows, 48), (small, 16))
    )
    close = ((np.abs(whole) >= ALIKE) & (np.abs(coarse) >= duplicates.CANDIDATE)).any(axis=0)
    expected = np.argwhere(np.triu(close, 1))
    monkeypatch.setattr(duplicates, "_CHECKED", 9)
    for name, value in (("_ROWS", 50), ("_COLUMNS", 70)):
        monkeypatch.setattr(orientations, name, value)
    found = near_pairs(measures.thumbs, measures.digest)
    np.testing.assert_array_equal(found.rows, expected)
    assert len(expected) >= 40
    assert set(found.orientation.tolist()) == set(range(8))
    ours = whole[found.orientation, found.rows[:, 0], found.rows[:, 1]]
    np.testing.assert_allclose(found.correlation, ours, atol=1e-3)


@pytest.mark.parametrize("orientation", range(8))
def test_copies_are_found_mirrored_and_turned(drawn, cohort_of, orientation):
    altered = [np.ascontiguousarray(reoriented(image, orientation)) for image in copies(drawn[5])]
    measures = measure(cohort_of(np.concatenate([drawn, np.stack(altered)])))
    pairs = near_pairs(measures.thumbs, measures.digest)
    of_five = pairs.rows[:, 0] == 5
    assert pairs.rows[of_five, 1].tolist() == [160, 161, 162, 163]
    assert set(pairs.orientation[of_five].tolist()) == {orientation}
    assert {row for pair in pairs.rows.tolist() for row in pair} == {5, 160, 161, 162, 163}


def test_one_image_over_and_over_ends_the_search(drawn, cohort_of, monkeypatch):
    from cxr_data.auditing import duplicates

    rng = np.random.default_rng(1)
    alike = np.clip(drawn[0] + rng.normal(0, 2, (60, 64, 64)), 0, 255).astype(np.uint8)
    monkeypatch.setattr(duplicates, "MOST", 500)
    measures = measure(cohort_of(alike))
    assert not near_pairs(measures.thumbs, measures.digest).complete
