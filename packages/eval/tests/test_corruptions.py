import numpy as np
import pytest
import torch

from cxr_common.checkpoint import Header, Input
from cxr_data import open_cohort, pixel_size_for
from cxr_data.augment import whole
from cxr_eval.corruptions import CORRUPTIONS, STRENGTHS, CorruptedImages, measure
from cxr_eval.models import Match
from cxr_eval.predictions import Answers

SIZE = 32


@pytest.fixture(scope="module")
def cohort():
    return open_cohort("phantom:60", pixel_size=64)  # as other tests have it


@pytest.fixture(scope="module")
def pixels(cohort):
    return np.asarray(cohort.pixels)


@pytest.mark.parametrize("change", [{}, *(change for changes in CORRUPTIONS.values() for change in changes)])
def test_copies_are_the_same_whatever_batch_they_are_read_in(pixels, change):
    copies = CorruptedImages(pixels, SIZE, change)
    together = copies[np.array([3, 5, 8])]
    assert (together.shape, together.dtype, len(copies)) == ((3, SIZE, SIZE), np.uint8, len(pixels))
    np.testing.assert_array_equal(together[1:], copies[np.array([5, 8])])
    same = whole(pixels[[3, 5, 8]], SIZE)
    assert np.array_equal(together, same) == (not change)


def test_the_strong_copies_are_further_from_the_image(pixels):
    rows = np.arange(12)
    images = whole(pixels[rows], SIZE).astype(float)
    for name, changes in CORRUPTIONS.items():
        mild, strong = (np.abs(CorruptedImages(pixels, SIZE, change)[rows] - images).mean() for change in changes)
        assert 0.1 < mild < strong, name


def test_pixels_against_their_definition(pixels):
    rows = np.arange(6)
    images = whole(pixels[rows], SIZE)
    darker = CorruptedImages(pixels, SIZE, {"brightness": -0.15})[rows]
    np.testing.assert_allclose(darker, np.clip(images - 0.15 * 255, 0, 255), atol=0.51)
    flat = CorruptedImages(pixels, SIZE, {"contrast": 0.35})[rows]
    np.testing.assert_allclose(flat, (images - 127.5) * 0.35 + 127.5, atol=0.51)
    gray = np.full((400, SIZE, SIZE), 128, np.uint8)
    noisy = CorruptedImages(gray, SIZE, {"noise": 0.05})[np.arange(400)] / 255
    assert noisy.std() == pytest.approx(0.05, rel=0.05)


class Brightness(torch.nn.Module):
    """A network whose only feature is how bright an image is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.weight * (images.float().mean((1, 2, 3)) - 128)[:, None] / 20


def test_what_a_model_loses_is_measured_against_the_images_as_they_are(cohort, pixels):
    bright = pixels.mean((1, 2))
    targets = (bright > np.median(bright)).astype(np.float32)[:, None]
    rows = np.arange(len(cohort))
    settings = {"kind": "model", "architecture": "baseline_cnn", "task": "multilabel", "labels": ("bright",)}
    header = Header(input=Input(SIZE, 0.5, 0.25), **settings)
    p = 1 / (1 + np.exp(-(whole(pixels, SIZE).mean((1, 2)) - 128) / 20))[:, None]
    given = {"m": Answers(p, p > 0.5)}
    told = ({"m": (Brightness(), SIZE)}, {"m": header}, {pixel_size_for(SIZE): cohort}, given)
    lost = measure(*told, Match("multilabel", ("bright",), ()), targets, rows)["m"]
    assert [(kind["name"], kind["strength"]) for kind in lost] == [(n, s) for n in CORRUPTIONS for s in STRENGTHS]
    by_kind = {(kind["name"], kind["strength"]): kind for kind in lost}
    blurred = by_kind["blurred", "mild"]
    assert blurred["auroc"]["value"] == pytest.approx(1, abs=0.01)  # a blur leaves the mean as it is
    assert abs(blurred["difference"]["value"]) < 0.01
    enlarged = by_kind["enlarged", "strong"]
    assert enlarged["difference"]["value"] == pytest.approx(enlarged["auroc"]["value"] - 1, abs=0.01)
    assert enlarged["difference"]["low"] <= enlarged["difference"]["value"] <= enlarged["difference"]["high"]
