from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_common.models.structure import classifier_name
from cxr_common.models.zoo import GrayNetwork, build
from cxr_eval.explain import agreement
from cxr_eval.explain.activations import activations
from cxr_eval.explain.methods import METHODS


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 9), st.sampled_from([2, 5, 10**6]))
@settings(deadline=None, max_examples=40)
def test_spearman_equals_scipy_with_ties(seed, batch, edge, levels):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, levels, (2, batch, edge, edge)).astype(np.float32)
    actual = agreement.spearman(torch.from_numpy(first), torch.from_numpy(second))
    for i in range(batch):
        if np.ptp(first[i]) == 0 or np.ptp(second[i]) == 0:
            assert np.isnan(actual[i])
        else:
            expected: Any = stats.spearmanr(first[i].ravel(), second[i].ravel())[0]
            np.testing.assert_allclose(actual[i], expected, atol=1e-10)


def by_hand(x, y):
    """SSIM at every position of the window, one after the other, in float64."""
    grid = np.arange(-5, 6)
    window = np.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for r in range(len(x) - 10):
        for c in range(len(x) - 10):
            p, q = x[r : r + 11, c : c + 11], y[r : r + 11, c : c + 11]
            m, n = (window * p).sum(), (window * q).sum()
            v, w = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
            cross = (window * (p - m) * (q - n)).sum()
            values.append((2 * m * n + 1e-4) * (2 * cross + 9e-4) / ((m * m + n * n + 1e-4) * (v + w + 9e-4)))
    return np.mean(values)


def test_ssim_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 3, 14, 14))
    second[1] = first[1]
    second[2] = 0
    actual = agreement.ssim(torch.from_numpy(first), torch.from_numpy(second))
    np.testing.assert_allclose(actual[0], by_hand(first[0], second[0]), rtol=1e-9)
    assert actual[1] == pytest.approx(1)
    assert np.isnan(actual[2])  # an empty map is like nothing


def test_ssim_of_small_maps_is_defined():
    maps = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(agreement.ssim(maps, maps), 1)
    assert (agreement.ssim(maps, 1 - maps) < 0.5).all()


ARCHITECTURES = ["baseline_cnn", "resnet10t", "mobilenetv2_100", "vit_tiny_patch16_224", "resnet10t+baseline_cnn"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cascade_loses_one_level_after_the_other_until_nothing_is_left(architecture):
    """Before its level is lost, what a level shows is untouched; afterwards it is another."""
    torch.manual_seed(0)
    trained = GrayNetwork(build(architecture, 3, size=32), 0.5, 0.25).eval()
    torch.manual_seed(1)
    fresh = build(architecture, 3, size=32)
    before = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32), dtype=np.uint8))
    seen, last = [], trained
    for level, lost in agreement.cascade(trained, fresh):
        seen.append(level)
        last = lost
        if level == agreement.HEAD:
            head = classifier_name(lost.network) + ".weight"
            assert torch.equal(lost.network.state_dict()[head], fresh.state_dict()[head])
        for other in ("level3", "level4"):
            same = torch.equal(activations(lost, pixels, other), activations(trained, pixels, other))
            assert same == (level == agreement.HEAD or level > other), (level, other)
    assert seen[0] == agreement.HEAD
    assert seen[1:] == sorted(seen[1:], reverse=True)
    assert all(torch.equal(one, fresh.state_dict()[name]) for name, one in last.network.state_dict().items())
    assert all(torch.equal(one, before[name]) for name, one in trained.network.state_dict().items())


def test_a_map_that_does_not_look_at_the_weights_fails_the_check():
    """Eigen-CAM does not depend on the classifier; Grad-CAM does."""
    torch.manual_seed(0)
    trained = GrayNetwork(build("resnet10t", 3, size=64), 0.5, 0.25).eval()
    torch.manual_seed(1)
    fresh = build("resnet10t", 3, size=64)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 1, 64, 64), dtype=np.uint8))
    _, lost = next(agreement.cascade(trained, fresh))
    similarity = {}
    for name in ("eigencam", "layercam"):
        method = METHODS[name]
        similarity[name] = agreement.spearman(method(trained, pixels, 0, "level2"), method(lost, pixels, 0, "level2"))
    np.testing.assert_allclose(similarity["eigencam"], 1)
    assert similarity["layercam"].mean() < 0.95
