from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cxr_common.models.one_pixel import OnePixel, shorten
from cxr_common.models.zoo import build


def gradients(function: Callable[[Tensor], Tensor], x: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = function(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *weights])]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "edge"),
    [(3, 1, 1, 1), (3, 2, 1, 2), (3, 2, 1, 1), (1, 2, 0, 2), (1, 1, 0, 1), (7, 2, 3, 2), (3, 1, 0, 3), (5, 4, 1, 4)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_sums_and_gradients_are_those_of_the_convolution(kernel, stride, padding, edge, bias) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, kernel, stride, padding, bias=bias).double()
    x = torch.randn(3, 5, edge, edge, dtype=torch.float64)
    weights = list(conv.parameters())
    expected = gradients(conv, x, weights)
    assert expected[0].shape[-2:] == (1, 1)
    shorten(conv)
    assert type(conv) is OnePixel
    for found, one in zip(gradients(conv, x, weights), expected, strict=True):
        torch.testing.assert_close(found, one)


def test_larger_maps_and_other_convolutions_stay() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, 3, padding=1)
    x = torch.randn(2, 5, 1, 3)
    expected = [conv(x), conv(torch.ones(2, 5, 4, 4))]
    shorten(conv)
    assert torch.equal(conv(x), expected[0])
    assert torch.equal(conv(torch.ones(2, 5, 4, 4)), expected[1])
    others = [
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0)),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 1, padding=1),
    ]
    for other in others:
        shorten(other)
        assert type(other) is nn.Conv2d


def test_a_network_on_small_images_is_the_same_under_the_same_names() -> None:
    torch.manual_seed(0)
    network = build("resnet18", 3, size=32).double().eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(4, 1, 32, 32, dtype=torch.float64)
    expected = gradients(network, images, list(network.parameters()))
    shorten(network)
    for found, one in zip(gradients(network, images, list(network.parameters())), expected, strict=True):
        torch.testing.assert_close(found, one)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())
    assert network.state_dict().keys() == state.keys()
