import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cxr_common.models.zoo import GrayNetwork, build
from cxr_ssl.checkpointing import recompute_activations


class LiveBytes(TorchDispatchMode):
    """The largest sum of bytes of all tensors made within and alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        results = function(*arguments, **(options or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, Tensor):
                self._count(result.untyped_storage())
        return results

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def network(architecture: str) -> GrayNetwork:
    torch.manual_seed(0)
    if architecture == "plain":
        layers = [nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return GrayNetwork(nn.Sequential(*layers), 0.5, 0.25)
    return GrayNetwork(build(architecture, 0, size=64), 0.5, 0.25)


def trained(model: GrayNetwork, *, steps: int = 2) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], list[Tensor]]:
    """Gradients of each step (two sizes of view), buffers, and features afterwards; a little plain SGD."""
    random = torch.Generator().manual_seed(1)
    gradients, views = [], []
    model.train()
    for _ in range(steps):
        views = [torch.randint(0, 256, (6, 1, edge, edge), generator=random, dtype=torch.uint8) for edge in (64, 48)]
        model.zero_grad()
        (torch.cat([model(view) for view in views]) ** 2).mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.inference_mode():
        features = [model.eval()(view) for view in views]
    return gradients, buffers, features


@pytest.mark.parametrize(
    ("architecture", "blocks"), [("test_resnet", 4), ("test_efficientnet", 5), ("test_vit", 6), ("plain", 1)]
)
def test_gradients_and_statistics_are_those_of_plain_training(architecture, blocks):
    plain, saving = network(architecture), network(architecture)
    assert recompute_activations(saving.network) == blocks
    assert plain.state_dict().keys() == saving.state_dict().keys()
    expected, actual = trained(plain), trained(saving)
    for one, other in zip(expected[0], actual[0], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(other[name], one[name], atol=1e-5, rtol=1e-5, msg=name)
    for name, buffer in expected[1].items():  # counted once: equal means, variances and numbers of batches
        torch.testing.assert_close(actual[1][name], buffer, atol=1e-6, rtol=1e-6, msg=name)
    for one, other in zip(expected[2], actual[2], strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


def test_each_batch_is_counted_once():
    model = network("test_resnet")
    recompute_activations(model.network)
    trained(model, steps=3)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {int(norm.get_buffer("num_batches_tracked")) for norm in norms} == {6}  # 3 steps of 2 sizes
    assert {norm.momentum for norm in norms} == {0.1}


class Particular(nn.BatchNorm2d):
    """Wants its counter, as SyncBatchNorm does."""

    def forward(self, input: Tensor) -> Tensor:
        assert self.num_batches_tracked is not None
        return super().forward(input)


def test_norms_that_want_their_counter_have_one_while_they_recompute():
    block = nn.Sequential(nn.Conv2d(1, 4, 3), Particular(4))
    network = nn.Sequential(block)
    assert recompute_activations(network) == 1
    network(torch.rand(2, 1, 8, 8)).sum().backward()
    counter = block[1].num_batches_tracked
    assert isinstance(counter, Tensor)
    assert counter.item() == 1


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x).tanh()


def peak(network: nn.Module) -> int:
    images = torch.zeros(4, 8, 64, 64)
    with LiveBytes() as live:
        network(images).sum().backward()
    return live.peak


def test_the_peak_of_memory_falls_to_less_than_half():
    plain, saving = (nn.Sequential(*(Residual() for _ in range(10))) for _ in range(2))
    assert recompute_activations(saving) == 10
    needed = peak(plain)
    assert needed > 10 * 4 * 4 * 8 * 64 * 64 * 4  # four maps a block, in bytes
    assert peak(saving) < 0.5 * needed
