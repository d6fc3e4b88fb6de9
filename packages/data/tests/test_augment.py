from typing import Any

import cv2
import numpy as np
import pytest

from cxr_data.augment import ViewSpec, draw, render, whole
from cxr_data.errors import BadInput

STILL: dict[str, Any] = {
    "aspect": 1.0,
    "rotation": 0.0,
    "flip": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "gamma": 0.0,
    "blur": 0.0,
}


def images(n=3, edge=64, seed=0):
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.random((edge, edge * n)).astype(np.float32), (0, 0), 4)
    smooth = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    return np.ascontiguousarray(smooth.reshape(edge, n, edge).transpose(1, 0, 2))


def rows(views, index):
    return {name: values[index] for name, values in views.items()}


@pytest.mark.parametrize("size", [64, 48, 32, 16])
def test_the_still_view_of_everything_is_the_whole_image(size) -> None:
    spec = ViewSpec(size, (1.0, 1.0), **STILL)
    seen = render(images(), draw(spec, 3, 0, 0), spec)[0].astype(int)
    difference = seen - whole(images(), size)
    assert np.abs(difference).max() <= 6  # area average against bilinear
    assert abs(difference.mean()) < 0.5  # no half-pixel shift shows as drift


def test_a_view_depends_on_image_seed_and_epoch_alone() -> None:
    spec = ViewSpec(24, (0.2, 0.9), count=2, blur=0.5)
    views = draw(spec, 3, seed=5, epoch=2)
    together = render(images(), views, spec)
    alone = render(images()[1:2], rows(views, [1]), spec)
    assert (together[:, 1] == alone[:, 0]).all()
    again = render(images(), draw(spec, 3, seed=5, epoch=2), spec)
    assert (together == again).all()
    other = render(images(), draw(spec, 3, seed=5, epoch=3), spec)
    assert not (together == other).all()


def test_mirror_mirrors() -> None:
    spec = ViewSpec(64, (1.0, 1.0), **{**STILL, "flip": 1.0})
    seen = render(images(), draw(spec, 3, 0, 0), spec)[0]
    assert np.abs(seen[:, :, ::-1].astype(int) - images()).max() <= 1


def test_same_drawn_view_at_two_sizes_shows_the_same_region() -> None:
    small, large = ViewSpec(16, (0.3, 0.6)), ViewSpec(32, (0.3, 0.6))
    views = draw(small, 3, 1, 0)
    down = whole(render(images(), views, large)[0], 16).astype(int)
    assert np.abs(down - render(images(), views, small)[0]).mean() < 3


def test_parameters_stay_in_their_ranges() -> None:
    spec = ViewSpec(32, (0.25, 0.81), count=4)
    views = draw(spec, 500, 0, 0)
    area = views["width"] * views["height"]
    assert area.min() > 0.2
    assert area.max() < 0.82
    assert (views["x"] - views["width"] / 2).min() >= -1e-6
    assert (views["x"] + views["width"] / 2).max() <= 1 + 1e-6
    assert np.abs(np.rad2deg(views["angle"])).max() <= 10
    assert abs((views["mirror"] < 0).mean() - 0.5) < 0.05


def test_exposure_is_monotone() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))[None]
    spec = ViewSpec(256, (1.0, 1.0), **{**STILL, "brightness": 0.2, "contrast": 0.3, "gamma": 0.4})
    for epoch in range(5):
        seen = render(ramp, draw(spec, 1, 0, epoch), spec)[0, 0, 128].astype(int)
        assert (np.diff(seen) >= 0).all()


def test_impossible_specs_are_refused() -> None:
    with pytest.raises(BadInput, match="scale"):
        ViewSpec(32, (0.9, 0.2))
    with pytest.raises(BadInput, match="8 pixels"):
        ViewSpec(4)
