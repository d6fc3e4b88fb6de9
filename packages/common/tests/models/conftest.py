"""Networks for the tests: each is built once."""

import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from cxr_common.models.zoo import GrayNetwork, build


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: several threads only wait for each other, for minutes on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def _network(architecture: str, size: int) -> GrayNetwork:
    torch.manual_seed(0)
    network = build(architecture, 3, size=size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics would let a mix-up pass unseen
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return GrayNetwork(network, 0.5, 0.25)


@pytest.fixture
def gray_network() -> Callable[..., GrayNetwork]:
    """``gray_network(architecture, size=64)``: three outputs, one channel, eval mode, shared by the tests."""

    def get(architecture: str, size: int = 64) -> GrayNetwork:
        network = _network(architecture, size)
        network.zero_grad(set_to_none=True)
        return network.eval()

    return get


@pytest.fixture
def pixels() -> Callable[..., torch.Tensor]:
    """``pixels(size, batch=2)``: uint8 noise (batch, 1, size, size), the same on every call."""

    def make(size: int, batch: int = 2) -> torch.Tensor:
        generator = torch.Generator().manual_seed(size)
        return torch.randint(0, 256, (batch, 1, size, size), dtype=torch.uint8, generator=generator)

    return make
