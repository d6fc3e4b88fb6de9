from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cxr_common.models import small_maps
from cxr_common.models.eight_bits import in_eight_bits, observing
from cxr_common.models.small_maps import SMALL, SmallMap, multiply_small_maps
from cxr_common.models.zoo import GrayNetwork, build


def gradients(function: Callable[[Tensor], Tensor], x: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = function(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *weights])]


@given(data=st.data(), bias=st.booleans(), stride=st.integers(1, 4), kernel=st.integers(1, 7))
def test_the_sums_and_gradients_are_those_of_the_convolution(data, bias, stride, kernel) -> None:
    padding = data.draw(st.integers(0, kernel - 1))
    edge = data.draw(st.integers(max(1, kernel - 2 * padding), 9))
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, kernel, stride, padding, bias=bias).double()
    x = torch.randn(2, 3, edge, edge, dtype=torch.float64)
    weights = list(conv.parameters())
    expected = gradients(conv, x, weights)
    multiply_small_maps(conv)
    assert type(conv) is SmallMap
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_maps, "MANY_WEIGHTS", 0)
        if expected[0].shape[-1] ** 2 <= SMALL:
            patch.setattr(functional, "conv2d", None)  # and PyTorch's is never called
        actual = gradients(conv, x, weights)
    for result, one in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, one)


def test_larger_maps_and_other_convolutions_stay() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, 3, padding=1)
    x = torch.randn(2, 5, 1, 3)
    expected = [conv(x), conv(torch.ones(2, 5, 4, 4))]
    multiply_small_maps(conv)
    assert torch.equal(conv(x), expected[0])
    assert torch.equal(conv(torch.ones(2, 5, 4, 4)), expected[1])  # few weights: the convolution is faster
    others = [
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0)),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 1, padding=1),
    ]
    for other in others:
        multiply_small_maps(other)
        assert type(other) is nn.Conv2d


@pytest.mark.parametrize(("kernel", "edge"), [(1, 4), (1, 2), (3, 2), (3, 1)])
def test_one_product_takes_all_pixels_also_where_nothing_learns(kernel, edge, monkeypatch) -> None:
    """Of more than two dimensions PyTorch made a product for each row of pixels, ten times slower."""
    conv = nn.Conv2d(512, 256, kernel, padding=kernel // 2).to(memory_format=torch.channels_last)
    multiply_small_maps(conv)
    linear, shapes = functional.linear, []
    monkeypatch.setattr(functional, "linear", lambda x, *rest: shapes.append(x.shape) or linear(x, *rest))
    with torch.inference_mode():
        conv(torch.zeros(2, 512, edge, edge))
    assert [len(shape) for shape in shapes] == [2]


def test_larger_windows_are_products_only_where_something_learns(monkeypatch) -> None:
    conv = nn.Conv2d(512, 256, 3, padding=1)
    multiply_small_maps(conv)
    expected = conv(torch.ones(1, 512, 4, 4))
    plain, calls = functional.conv2d, []
    monkeypatch.setattr(functional, "conv2d", lambda *args: calls.append(1) or plain(*args))
    conv(torch.ones(1, 512, 4, 4))
    assert not calls
    with torch.no_grad():
        torch.testing.assert_close(conv(torch.ones(1, 512, 4, 4)), expected)
    assert calls


@pytest.mark.parametrize("size", [32, 64])
def test_a_network_on_small_images_is_the_same_under_the_same_names(size) -> None:
    torch.manual_seed(0)
    network = build("resnet18", 3, size=size).double().eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(2, 1, size, size, dtype=torch.float64)
    expected = gradients(network, images, list(network.parameters()))
    multiply_small_maps(network)
    for actual, one in zip(gradients(network, images, list(network.parameters())), expected, strict=True):
        torch.testing.assert_close(actual, one)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())
    assert network.state_dict().keys() == state.keys()


def test_a_network_in_eight_bits_keeps_its_convolutions() -> None:
    torch.manual_seed(0)
    eight = in_eight_bits(GrayNetwork(build("resnet10t", 3, size=32), 0.5, 0.2).eval(), 32)
    pixels = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    with observing(eight):
        eight(pixels)
    expected = eight(pixels)
    multiply_small_maps(eight)
    assert torch.equal(eight(pixels), expected)
    assert not any(isinstance(module, SmallMap) for module in eight.modules())
