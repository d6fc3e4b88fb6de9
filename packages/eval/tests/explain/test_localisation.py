import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_eval.explain import localisation


@st.composite
def problems(draw):
    batch, edge = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = rng.integers(0, draw(st.sampled_from([1, 3, 1000])), (batch, edge, edge)) / 1000
    masks = (rng.random((batch, edge, edge)) < draw(st.sampled_from([0.0, 0.1, 0.6]))).astype(np.uint8)
    return maps / max(maps.max(), 1e-9), masks, draw(st.integers(0, 2))


def near(mask, row, column, tolerance):
    """Whether any pixel of the lesion lies within the tolerance, one pixel after the other."""
    return any(
        mask[r, c]
        for r in range(max(0, row - tolerance), min(len(mask), row + tolerance + 1))
        for c in range(max(0, column - tolerance), min(len(mask), column + tolerance + 1))
    )


@given(problems())
@settings(deadline=None, max_examples=40)
def test_every_score_equals_counting_pixel_by_pixel(problem):
    maps, masks, tolerance = problem
    given_maps, given_masks = torch.from_numpy(maps), torch.from_numpy(masks)
    hits = localisation.pointing(given_maps, given_masks, tolerance)
    chance = localisation.random_pointing(given_masks, tolerance)
    centre = localisation.centre_pointing(given_masks, tolerance)
    energy, iou = localisation.energy(given_maps, given_masks), localisation.iou(given_maps, given_masks, 0.5)
    for i, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        if not mask.any():
            assert np.isnan([hits[i], chance[i], centre[i], energy[i], iou[i]]).all()
            continue
        edge = len(one)
        top = [(r, c) for r in range(edge) for c in range(edge) if one[r, c] == one.max() and one.max() > 0]
        expected = np.mean([near(mask, r, c, tolerance) for r, c in top]) if top else 0
        np.testing.assert_allclose(hits[i], expected)
        everywhere = [near(mask, r, c, tolerance) for r in range(edge) for c in range(edge)]
        np.testing.assert_allclose(chance[i], np.mean(everywhere))
        middle = {(edge - 1) // 2, edge // 2}
        np.testing.assert_allclose(centre[i], np.mean([near(mask, r, c, tolerance) for r in middle for c in middle]))
        np.testing.assert_allclose(energy[i], one[mask > 0].sum() / one.sum() if one.sum() else 0)
        called = one >= 0.5
        union = (called | (mask > 0)).sum()
        np.testing.assert_allclose(iou[i], (called & (mask > 0)).sum() / union if union else 0)


def test_an_empty_map_misses_and_no_lesion_is_undefined():
    maps, masks = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)
    masks[0] = 1
    for score in (localisation.pointing, localisation.energy, localisation.iou):
        np.testing.assert_array_equal(score(maps, masks), [0, np.nan])


def test_the_mean_of_random_points_is_the_random_baseline():
    rng = np.random.default_rng(0)
    mask = torch.zeros(1, 12, 12, dtype=torch.uint8)
    mask[0, 2:6, 3:9] = 1
    maps = torch.from_numpy(rng.random((4000, 12, 12)))
    hits = localisation.pointing(maps, mask.expand(4000, -1, -1), 1)
    expected = localisation.random_pointing(mask, 1)[0]
    assert expected == 6 * 8 / 144
    assert abs(hits.mean() - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5
