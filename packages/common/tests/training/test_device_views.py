from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cxr_common.training.device_views import blurs, prepared, shown, unrendered
from cxr_data.augment import AUGMENTATIONS, ViewSpec, draw, render, training_views

CPU = torch.device("cpu")
MULTI_CROP = {"global": ViewSpec(32, (0.3, 1.0), 2, blur=0.5), "local": ViewSpec(16, (0.05, 0.3), 6, blur=0.5)}


def images(n: int, edge: int, seed: int = 0) -> np.ndarray:
    """Noise, where a pixel that is taken from the wrong place shows at once, and radiographs' smooth shades."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (n, edge, edge), np.uint8)
    noise[::2] = [cv2.GaussianBlur(one, (0, 0), 3) for one in noise[::2]]
    return noise


def both(spec: ViewSpec, pixels: np.ndarray, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    drawn = draw(spec, len(pixels), 0, epoch)
    expected = render(pixels, drawn, spec)
    actual = shown(prepared(pixels, drawn, spec, CPU, on_device=True), CPU)
    assert actual.dtype == torch.uint8
    return expected.astype(int), actual.numpy().astype(int)


@pytest.mark.parametrize("augment", [*AUGMENTATIONS, "strong,rotation=90,zoom=0.3:3,flip=0.5,aspect=1.4,shift=0.3"])
@pytest.mark.parametrize(("edge", "size"), [(96, 64), (64, 64), (48, 64), (95, 33), (256, 32), (431, 24)])
def test_a_device_shows_the_pixels_of_the_cpu(augment, edge, size) -> None:
    """Images that are shrunk through odd and even levels of the pyramid, enlarged, and neither."""
    expected, actual = both(training_views(augment, size), images(24, edge))
    apart = np.abs(expected - actual)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


@pytest.mark.parametrize("kind", MULTI_CROP)
def test_several_crops_of_an_image_keep_their_places(kind) -> None:
    spec = MULTI_CROP[kind]
    expected, actual = both(spec, images(7, 96), epoch=3)
    assert actual.shape == (spec.count, 7, spec.size, spec.size)
    assert np.abs(expected - actual).max() <= 1


def test_the_blur_is_that_of_bytes() -> None:
    size = 65
    point = np.zeros((size, size), np.uint8)
    point[:, size // 2] = 255
    for sigma in np.linspace(0.1, 5, 60):
        kernel = blurs(np.array([sigma]))[0]
        assert kernel.sum() == 256
        expected = cv2.GaussianBlur(point, (0, 0), sigma)[size // 2]
        reach = len(kernel) // 2
        actual = np.zeros(size, int)
        actual[size // 2 - reach : size // 2 + reach + 1] = (255 * kernel * 256 + 2**15) >> 16
        assert (actual == expected).all(), sigma
    assert blurs(np.zeros((2, 3))).tolist() == [[[256]] * 3] * 2


def test_few_views_at_a_time_are_the_same_views(monkeypatch) -> None:
    spec = replace(training_views("strong", 16), count=2)
    _, whole = both(spec, images(5, 64))
    monkeypatch.setattr("cxr_common.training.device_views.MOST_SAMPLES", 1)
    _, parts = both(spec, images(5, 64))
    assert (whole == parts).all()


def test_what_waits_is_moved_whole() -> None:
    spec = training_views("strong", 16)
    views = unrendered(images(5, 64), draw(spec, 5, 0, 0), spec, CPU).to(torch.device("meta"))
    held = [value for value in vars(views).values() if isinstance(value, torch.Tensor)]
    assert len(held) == 6
    assert all(value.is_meta for value in [*held, *(chosen for _, _, chosen in views.groups)])
