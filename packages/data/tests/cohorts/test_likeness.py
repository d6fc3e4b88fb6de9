"""Copies of an image are known by what they look like; other images are not."""

import cv2
import numpy as np

from cxr_data import prepare
from cxr_data.auditing.orientations import reoriented
from cxr_data.cohorts.likeness import MOST_ALIKE, alike, likeness_keys


def smooth(count: int, *, seed: int = 0, edge: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = np.stack([cv2.GaussianBlur(rng.normal(0, 1, (edge, edge)), (0, 0), edge / 20) for _ in range(count)])
    return np.rint(255 * (images - images.min()) / np.ptp(images)).astype(np.uint8)


def keys(images) -> np.ndarray:
    return np.concatenate([likeness_keys(image[None], np.array([0])) for image in images])


def copies(image: np.ndarray) -> list[np.ndarray]:
    """The same picture as people save it again."""
    half = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    coded = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for quality in (50, 90)]
    jpegs = [np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)) for file in coded]
    gamma = (255 * (image / 255) ** 1.5).astype(np.uint8)
    return [image, half, np.asarray(cv2.resize(image, None, fx=2, fy=2)), *jpegs, gamma, 255 - image]


def test_copies_are_known_and_nothing_else():
    known, others = smooth(40), smooth(40, seed=1)
    for number, image in enumerate(known[:10]):
        assert alike(keys(copies(image)), keys(known)).all()
        assert alike(keys(copies(reoriented(image, number % 8))), keys(known)).all()
    assert not alike(keys(others), keys(known)).any()
    assert not alike(keys(others), keys(known)[:0]).any()


def test_blank_images_and_sets_that_all_look_alike_say_nothing():
    blank = np.zeros((3, 32, 32), np.uint8)
    assert not alike(keys(blank), keys(blank)).any()
    rng = np.random.default_rng(0)
    drawn = np.clip(smooth(1) + rng.normal(0, 2, (MOST_ALIKE + 1, 96, 96)), 0, 255).astype(np.uint8)
    known = np.unique(keys(drawn), axis=0)
    assert len(known) > MOST_ALIKE
    assert not alike(known, known).any()
    assert alike(known, known[:MOST_ALIKE])[:MOST_ALIKE].all()


def test_real_radiographs(shared_data):
    """Of 800 images of ChestX-ray14 none resembles one of another patient; nearly all copies are found, also turned."""
    cohort = prepare(shared_data / "nih_1000_64", pixel_size=64, show=False)
    known = likeness_keys(cohort.pixels, np.arange(len(cohort)))
    turned = [reoriented(image, number % 8) for number, image in enumerate(cohort.pixels[:100])]
    found = np.mean([alike(keys(copies(image)), known) for image in turned], axis=0)
    assert (found >= 0.97).all()
    assert (found[:5] == 1).all()  # inverted ones and other tones are known less surely
    other = cohort.table["patient"].to_numpy()
    strangers = sum(
        bool(alike(known[row : row + 1], known[other != other[row]]).any()) for row in range(0, len(cohort), 4)
    )
    assert strangers == 0
