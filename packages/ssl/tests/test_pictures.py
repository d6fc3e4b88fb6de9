from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from cxr_data import Cohort
from cxr_data.augment import whole
from cxr_ssl import pictures
from cxr_ssl.pictures import groups, maps, nearest_images, nearest_to_prototypes, principal_plane
from cxr_ssl.swav import SwAV


def cohort_of(
    targets: np.ndarray, labels: tuple[str, ...], task: Any, split: list[str], pixels: np.ndarray | None = None
) -> Cohort:
    names = [f"image-{i}" for i in range(len(split))]
    columns = {f"label:{label}": targets[:, i] for i, label in enumerate(labels)}
    random = np.random.default_rng(0)
    return Cohort(
        name="noise",
        task=task,
        labels=labels,
        table=pl.DataFrame({"image": names, "patient": names, "split": split, **columns}),
        pixels=random.integers(0, 256, (len(split), 16, 16), dtype=np.uint8) if pixels is None else pixels,
        pixel_mapping={},
        source="noise",
        fingerprint="0",
    )


class Corners(nn.Module):
    """Mean brightness of the four quarters as features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.scale * nn.functional.adaptive_avg_pool2d(pixels.float() / 255, 2).flatten(1)


def test_the_nearest_images_are_those_of_largest_score():
    split = ["train"] * 20 + ["val"] * 3 + ["test"] * 3
    cohort = cohort_of(np.zeros((26, 0), np.float32), (), None, split)
    torch.manual_seed(0)
    swav = SwAV(Corners(), 4, embedding_dim=3, num_prototypes=15)
    shown = nearest_to_prototypes(swav, lambda pixels: swav([pixels[None]])[1][0], cohort, 16)
    pixels = torch.from_numpy(cohort.pixels[:20])[None, :, None]
    with torch.inference_mode():
        scores = swav.eval()([pixels])[1][0]
    used = scores.argmax(1).bincount(minlength=15)
    shares = sorted((used[used > 0] / 20).tolist(), reverse=True)[:8]
    assert [f"nearest of {share:.1%} of" in one["heading"] for share, one in zip(shares, shown, strict=True)]
    best = scores[:, int(used.argmax())].argsort(descending=True)[:6]
    assert np.array_equal(shown[0]["images"], whole(cohort.pixels[best.numpy()], 96))


def test_the_nearest_images_begin_with_the_image_itself():
    cohort = cohort_of(np.zeros((12, 0), np.float32), (), None, ["train"] * 12)
    strips = nearest_images(Corners(), cohort, 16)
    assert len(strips) == 8
    stored = whole(cohort.pixels, 96)
    features = cohort.pixels.reshape(12, 2, 8, 2, 8).mean((2, 4)).reshape(12, 4).astype(float)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    for strip in strips:
        (query,) = [i for i in range(12) if np.array_equal(stored[i], strip["images"][0])]
        order = np.argsort(-(features @ features[query]))[:6]
        assert np.array_equal(strip["images"], stored[order])


def test_a_map_for_classes_of_validation_images_alone():
    targets = np.eye(2, dtype=np.float32)[np.arange(140) % 2]
    targets[3] = np.nan
    cohort = cohort_of(targets, ("NORMAL", "PNEUMONIA"), "multiclass", ["val"] * 60 + ["train"] * 40 + ["test"] * 40)
    drawn = maps(Corners(), cohort, 16)
    assert [one["title"] for one in drawn] == [
        "principal components of 60 val images",
        "t-SNE of 60 val images",
    ]
    for one in drawn:
        assert one["points"].shape == (60, 2)
        assert np.isfinite(one["points"]).all()
        assert {name: int(m.sum()) for name, m in one["groups"].items()} == {
            "unknown": 1,
            "NORMAL": 30,
            "PNEUMONIA": 29,
        }


def test_findings_get_a_map_each_the_commonest_first():
    targets = np.array([[1, 0, np.nan], [1, 1, 0], [1, 0, 0], [0, 1, 1]], np.float32)
    cohort = cohort_of(targets, ("Mass", "Edema", "Hernia"), "multilabel", ["train"] * 4)
    actual = groups(cohort, np.arange(4))
    assert list(actual) == ["Mass", "Edema", "Hernia"]
    assert list(actual["Hernia"]) == ["absent", "present", "unknown"]
    assert actual["Mass"]["present"].tolist() == [True, True, True, False]
    titles = [one["title"] for one in maps(Corners(), cohort, 16)]
    assert titles == [f"principal components of 4 train images: {name}" for name in ("Mass", "Edema", "Hernia")]


def test_without_labels_all_images_have_one_colour():
    cohort = cohort_of(np.zeros((5, 0), np.float32), (), None, ["train"] * 5)
    (drawn,) = maps(Corners(), cohort, 16)
    assert drawn["groups"]["all"].all()
    assert maps(Corners(), cohort_of(np.zeros((1, 0), np.float32), (), None, ["train"]), 16) == []


def test_features_that_are_not_finite_have_no_map():
    cohort = cohort_of(np.zeros((5, 0), np.float32), (), None, ["train"] * 5)
    broken = Corners()
    nn.init.constant_(broken.scale, float("nan"))
    assert maps(broken, cohort, 16) == []


def test_the_plane_is_that_of_largest_variance():
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 5)) * [1, 9, 0.1, 4, 0.1]
    values, vectors = np.linalg.eigh(np.cov(features.T))
    expected = (features - features.mean(0)) @ vectors[:, [-1, -2]]
    actual = principal_plane(features)
    np.testing.assert_allclose(np.abs(actual), np.abs(expected), atol=1e-9)
    assert actual.var(0, ddof=1) == pytest.approx(values[[-1, -2]])
    assert principal_plane(np.ones((3, 1))).shape == (3, 2)


def test_of_very_many_images_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_IMAGES", 7)
    cohort = cohort_of(np.zeros((30, 0), np.float32), (), None, ["train"] * 30)
    (drawn,) = maps(Corners(), cohort, 16)
    assert len(drawn["points"]) == 7
