import cv2
import numpy as np

from cxr_data.auditing.appearance import looks
from cxr_data.auditing.measures import measure


def strange() -> np.ndarray:
    """A page of text, noise, stripes."""
    page = np.full((64, 64), 255, np.uint8)
    for line in range(6, 64, 9):
        cv2.putText(page, "report", (2, line), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 0, 1)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    stripes = np.tile((np.arange(64) // 4 % 2 * 200).astype(np.uint8), (64, 1))
    return np.stack([page, noise, stripes])


def test_what_does_not_look_like_a_chest_is_named(drawn, cohort_of):
    blank = np.full((1, 64, 64), 90, np.uint8)
    blank[0, :8] = 95
    pixels = np.concatenate([drawn, 255 - drawn[:9], strange(), blank])
    odd = looks(measure(cohort_of(pixels)))
    assert odd.whole > 0.3
    assert odd.flat.tolist() == [172]
    assert odd.inverted.tolist() == list(range(160, 169))
    assert odd.unlike is not None
    named = set(odd.unlike.tolist())
    assert named >= {169, 170, 171}
    assert len(named) <= 5  # a false alarm or two among 160 radiographs, some with white borders


def test_a_cohort_of_negatives_is_told_and_the_right_ones_in_it_are_not(drawn, cohort_of):
    pixels = np.concatenate([255 - drawn, drawn[:5]])
    odd = looks(measure(cohort_of(pixels)))
    assert odd.whole < -0.3
    assert odd.inverted.tolist() == list(range(160))


def test_few_images_are_compared_with_a_drawn_chest(drawn, cohort_of):
    odd = looks(measure(cohort_of(np.stack([drawn[0], 255 - drawn[0]]))))
    assert odd.inverted.tolist() == [1]
    assert odd.unlike is None
