from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cxr_common.models.zoo import OFFERED, build
from cxr_common.training.processes import (
    align_gradients,
    all_reduce_sum,
    any_process,
    average_buffers,
    broadcast_from_main,
    gather_per_process,
    highest_signal,
    restore_per_process,
    share_batch_statistics,
)

ALONE: Any = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"), gather=lambda tensor: tensor)
TWO_GPUS: Any = SimpleNamespace(num_processes=2, device=SimpleNamespace(type="cuda"))


class Two:
    """The second of two processes; the first has ten times its values."""

    num_processes, process_index, device = 2, 1, torch.device("cpu")

    def gather(self, tensor):
        return torch.cat([10 * tensor, tensor])

    def reduce(self, tensor, how):
        assert how == "sum"
        return 11 * tensor


TWO: Any = Two()


@pytest.mark.parametrize("name", [name for name in OFFERED if "+" not in name])
def test_sharing_batch_statistics_changes_no_answer(name) -> None:
    with torch.device("meta"):
        network = nn.Sequential(build(name, 2, size=64))
    kinds = {part: getattr(module, "act", None) for part, module in network.named_modules()}
    names = list(network.state_dict())
    share_batch_statistics(network, TWO_GPUS)
    assert list(network.state_dict()) == names
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    # timm keeps an activation within its BatchNorm.
    assert {part: getattr(module, "act", None) for part, module in network.named_modules()} == kinds


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18"])
def test_shared_batch_statistics_answer_the_same_in_numbers(name) -> None:
    network = nn.Sequential(build(name, 2, size=32)).eval()
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    before = network(images)
    share_batch_statistics(network, TWO_GPUS)
    torch.testing.assert_close(network(images), before)


def test_one_process_shares_nothing() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3))
    share_batch_statistics(network, ALONE)
    assert type(network[0]) is nn.BatchNorm2d
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    average_buffers(network, ALONE)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in network.named_buffers())
    assert broadcast_from_main({"a": 1.0, "b": None}, ALONE) == {"a": 1.0, "b": None}
    assert any_process(True, ALONE)
    assert highest_signal(15, ALONE) == 15


def test_each_process_gets_back_what_was_its_own() -> None:
    own = {"mean": torch.tensor([1.0, 2.0]), "count": torch.tensor(3)}
    everyones = gather_per_process(own, TWO)
    assert everyones["mean"].tolist() == [[10.0, 20.0], [1.0, 2.0]]
    own["mean"].zero_()
    restore_per_process(own, everyones, TWO)
    assert own["mean"].tolist() == [1.0, 2.0]
    assert own["count"].item() == 3


@pytest.mark.parametrize("now", [1, 2, 3, 6])
def test_other_numbers_of_processes_share_what_two_had(now) -> None:
    """Totals and means over processes stay, and every embedding of a queue has its place."""
    gathered = {
        "buffer mean": torch.tensor([[1.0, 2.0], [3.0, 6.0]]),
        "buffer steps": torch.tensor([7, 7]),
        "means loss": torch.tensor([[4.0, 2.0], [8.0, 2.0]]),
        "method queue": torch.arange(2 * 2 * 6 * 3.0).reshape(2, 2, 6, 3),
    }
    actual = []
    for rank in range(now):
        accelerator: Any = SimpleNamespace(num_processes=now, process_index=rank)
        own = {name: torch.zeros_like(values[0]) for name, values in gathered.items()}
        own["method queue"] = torch.zeros(2, 12 // now, 3)
        restore_per_process(own, gathered, accelerator)
        actual.append(own)
    assert all(own["buffer steps"].item() == 7 for own in actual)
    torch.testing.assert_close(torch.stack([own["buffer mean"] for own in actual]).mean(0), torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(torch.stack([own["means loss"] for own in actual]).sum(0), torch.tensor([12.0, 4.0]))
    queue = torch.cat([own["method queue"] for own in actual], dim=1)
    assert torch.equal(queue, torch.cat(list(gathered["method queue"]), dim=1))


def test_gradients_get_the_strides_of_their_weights_and_keep_their_values() -> None:
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 3)).to(
        memory_format=torch.channels_last  # type: ignore[call-overload] - the stubs lack it
    )
    images = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(module(images).square().sum(), list(module.parameters()))
    align_gradients(module, ALONE)
    assert not any(parameter._backward_hooks for parameter in module.parameters())
    module[0].bias.requires_grad_(False)
    align_gradients(module, TWO)
    module(images).square().sum().backward()
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert parameter.grad.stride() == parameter.stride()
            assert torch.equal(parameter.grad, gradient)


@pytest.mark.slow
def test_two_processes_exchange_gradients_without_a_warning(in_two_processes) -> None:
    """Torch says once a process that strides do not match: an error here."""
    for code, said in in_two_processes(str(Path(__file__).with_name("two_processes.py"))):
        assert code == 0, said
        assert "steps without a warning" in said


def test_batch_statistics_become_their_mean() -> None:
    norm = nn.BatchNorm1d(2)
    norm.running_mean = torch.tensor([2.0, 4.0])
    average_buffers(norm, TWO)
    assert norm.running_mean.tolist() == [11.0, 22.0]
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 0


def test_a_flag_or_signal_of_any_process_counts_in_all() -> None:
    assert any_process(True, TWO)
    assert not any_process(False, TWO)
    assert highest_signal(15, TWO) == 150
    assert highest_signal(0, TWO) == 0
    assert all_reduce_sum(torch.tensor(2.0), TWO).item() == 22
