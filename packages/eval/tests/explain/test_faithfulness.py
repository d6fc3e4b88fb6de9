import numpy as np
import pytest
import torch
from torch import nn

from cxr_common.models.zoo import GrayNetwork
from cxr_data.errors import BadInput
from cxr_eval.explain import faithfulness


class Brightness(nn.Module):
    """Logits: the mean of the normalised image, and 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        mean = x.mean(dim=(1, 2, 3)) * self.weight
        return torch.stack([mean, torch.zeros_like(mean)], dim=1)


@pytest.fixture
def network():
    return GrayNetwork(Brightness(), 0.25, 0.5)


@pytest.fixture
def pixels():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), dtype=np.uint8))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_deletion_takes_the_most_salient_pixels_first(network, pixels, task):
    """By hand: sort the pixels, set so many to the mean, average. Softmax with a logit of 0 is the sigmoid."""
    maps = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    actual = faithfulness.curve(
        network, pixels, maps, 0, "deletion", task=task, calibration={"temperature": 0.5}, steps=4
    )
    assert actual.shape == (2, 5)
    for i in range(2):
        values = (pixels[i].numpy().ravel() / 255 - 0.25) / 0.5
        order = np.argsort(-maps[i].numpy().ravel())
        for step in range(5):
            kept = values.copy()
            kept[order[: step * 16]] = 0
            assert actual[i, step] == pytest.approx(sigmoid(kept.mean() / 0.5), abs=1e-6)


def test_insertion_ends_with_the_image_itself_and_begins_without_detail(network, pixels):
    maps = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 1])
    actual = faithfulness.curve(network, pixels, maps, label, "insertion", task="multilabel", steps=8)
    with torch.no_grad():
        whole = sigmoid(network(pixels).gather(1, label[:, None])[:, 0].numpy())
    np.testing.assert_allclose(actual[:, -1], whole, atol=1e-6)
    assert np.ptp(actual[0]) > 0
    assert np.ptp(actual[1]) == 0  # the other label does not look at the image


def test_equals_come_in_random_order_by_seed(network, pixels):
    """In raster order an empty map would take the image away from the top."""
    empty = torch.zeros(2, 8, 8)
    one, same, other = (
        faithfulness.curve(network, pixels, empty, 0, "deletion", task="multilabel", seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one[:, [0, -1]], other[:, [0, -1]])


def test_area_is_that_of_the_trapezoids():
    curves = np.random.default_rng(0).random((3, 11))
    np.testing.assert_allclose(faithfulness.area(curves), np.trapezoid(curves, dx=0.1, axis=1))
    np.testing.assert_allclose(faithfulness.area(np.ones((1, 5))), 1)


def test_the_true_saliency_is_more_faithful_than_chance():
    """Bright pixels carry the logit: their order must win both games."""
    network = GrayNetwork(Brightness(), 0.0, 0.01)
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 1, 16, 16), dtype=np.uint8)) // 16
    true, chance = pixels[:, 0].float(), torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0))

    def mean_area(maps):
        drawn = faithfulness.curve(network, pixels, maps, 0, "deletion", task="multilabel")
        return faithfulness.area(drawn)

    assert (mean_area(true) < mean_area(chance) - 0.02).all()


def test_another_kind_is_refused(network, pixels):
    with pytest.raises(BadInput, match="insertion"):
        faithfulness.curve(network, pixels, torch.zeros(2, 8, 8), 0, "insert", task="multilabel")
