from typing import Any

import cv2
import numpy as np
import pytest

from cxr_data.augment import AUGMENTATIONS, ViewSpec, draw, render, training_views, whole
from cxr_data.errors import BadInput

STILL: dict[str, Any] = {
    "aspect": 1.0,
    "rotation": 0.0,
    "flip": 0.0,
    "brightness": 0.0,
    "contrast": (0.0, 0.0),
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
    spec = ViewSpec(256, (1.0, 1.0), **{**STILL, "brightness": 0.2, "contrast": (-0.3, 0.3), "gamma": 0.4})
    for epoch in range(5):
        seen = render(ramp, draw(spec, 1, 0, epoch), spec)[0, 0, 128].astype(int)
        assert (np.diff(seen) >= 0).all()


def test_impossible_specs_are_refused() -> None:
    with pytest.raises(BadInput, match="scale"):
        ViewSpec(32, (0.9, 0.2))
    with pytest.raises(BadInput, match="8 pixels"):
        ViewSpec(4)


@pytest.mark.parametrize("wrong", [{"zoom": (1.1, 0.9)}, {"contrast": (-1.0, 0.1)}, {"noise": 2.0}, {"rotation": -1.0}])
def test_impossible_strengths_are_refused(wrong) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        ViewSpec(32, **wrong)


@pytest.mark.parametrize(("edge", "size"), [(96, 64), (96, 32), (128, 96), (256, 224), (128, 64), (160, 64)])
@pytest.mark.parametrize("augment", ["none", "none,rotation=12,shift=0.02"])
def test_views_are_as_sharp_as_the_images_of_evaluation(edge, size, augment) -> None:
    pixels = np.stack([radiograph_like(edge, seed) for seed in range(24)])
    spec = training_views(augment, size)
    seen = render(pixels, draw(spec, len(pixels), 0, 0), spec)[0]

    def sharpness(images):
        inner = images[:, 8:-8, 8:-8].astype(np.float64)
        return np.sqrt((np.diff(inner, axis=1) ** 2).mean() + (np.diff(inner, axis=2) ** 2).mean())

    assert sharpness(seen) / sharpness(whole(pixels, size)) == pytest.approx(1, abs=0.03)


def radiograph_like(edge, seed):
    """Detail of every size, as much as radiographs have."""
    rng = np.random.default_rng(seed)
    parts = [s**2 * cv2.GaussianBlur(rng.standard_normal((edge, edge)), (0, 0), s) for s in (0.6, 1.2, 2.4, 4.8, 9.6)]
    image = np.sum(parts, axis=0)
    return np.rint(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)


def test_no_augmentation_shows_the_images_of_evaluation() -> None:
    for size in (64, 32):
        spec = training_views("none", size)
        seen = render(images(edge=96), draw(spec, 3, 4, 7), spec)[0]
        assert np.abs(seen.astype(int) - whole(images(edge=96), size)).max() <= (1 if size == 32 else 3)


def test_strong_augmentation_stays_in_its_ranges() -> None:
    spec = training_views("strong", 64)
    views = draw(spec, 4000, 0, 0)
    zoom = 1 / views["width"]
    assert zoom.min() >= 0.75 - 1e-6
    assert zoom.max() <= 1.1 + 1e-6
    assert (views["width"] == views["height"]).all()
    assert np.abs(np.stack([views["x"], views["y"]]) - 0.5).max() <= 0.1 + 1e-6
    assert np.abs(np.rad2deg(views["angle"])).max() <= 12 + 1e-4
    assert views["contrast"].min() >= 0.5
    assert views["contrast"].max() <= 1.4 + 1e-6
    assert np.abs(np.log(views["gamma"])).max() <= 0.5 + 1e-6
    assert np.abs(views["brightness"]).max() <= 0.15 + 1e-6
    blurred = views["sigma"][views["sigma"] > 0] * 128
    assert blurred.min() >= 0.2 - 1e-6
    assert blurred.max() <= 2 + 1e-6
    assert (views["sigma"] > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert views["noise"].max() <= 0.06 + 1e-6
    assert (views["noise"] > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert (views["mirror"] == 1).all()


def test_noise_has_the_strength_that_was_drawn_and_is_shared_among_sizes() -> None:
    spec = training_views("none,noise=1,noise_sigma=0.1", 128)
    pixels = np.full((40, 128, 128), 128, np.uint8)
    views = draw(spec, len(pixels), 0, 0)
    seen = render(pixels, views, spec)[0].astype(float) / 255
    measured = seen.std(axis=(1, 2))
    np.testing.assert_allclose(measured, views["noise"][:, 0], rtol=0.1, atol=0.003)
    assert np.abs(seen.mean(axis=(1, 2)) - 128 / 255).max() < 0.005
    # White: neighbours do not resemble each other.
    loud = seen[measured > 0.03] - 128 / 255
    assert abs((loud[:, :, 1:] * loud[:, :, :-1]).mean() / (loud**2).mean()) < 0.05
    half = render(pixels, views, training_views("none,noise=1,noise_sigma=0.1", 64))[0].astype(float) / 255
    coarse = seen.reshape(40, 64, 2, 64, 2).mean(axis=(2, 4))
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(coarse, half, strict=True)]
    assert np.min(np.array(alike)[measured > 0.03]) > 0.98


def test_augmentations_are_named_and_changed_one_by_one() -> None:
    assert training_views("strong", 64) == ViewSpec(64, **AUGMENTATIONS["strong"])
    assert training_views("flip=0.5", 64) == ViewSpec(64, **{**AUGMENTATIONS["strong"], "flip": 0.5})
    changed = training_views("mild, zoom=0.8:1, blur=0.1", 64)
    assert (changed.zoom, changed.blur, changed.rotation) == ((0.8, 1.0), 0.1, 8.0)
    for wrong, said in {
        "stong": "strong",
        "mild,rotatoin=3": "rotation",
        "mild,zoom=1": "zoom=LOW:HIGH",
        "mild,flip=yes": "flip=NUMBER",
        "mild,flip=2": r"\[0, 1\]",
        "mild,size=3": "strength",
    }.items():
        with pytest.raises(BadInput, match=said):
            training_views(wrong, 64)
