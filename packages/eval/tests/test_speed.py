from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cxr_common.models.zoo import GrayNetwork
from cxr_data import timing
from cxr_eval import speed


class Timed(nn.Module):
    """A network whose forward takes as long as it is told, by a clock of our own."""

    now = 0.0

    def __init__(self, *seconds: float):
        super().__init__()
        self.seconds, self.weight, self.batches = seconds, nn.Parameter(torch.zeros(10)), []

    def forward(self, images):
        Timed.now += self.seconds[len(self.batches) % len(self.seconds)]
        self.batches.append(len(images))
        return images.flatten(1).float()[:, :1]


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: Timed.now))


def test_latency_and_throughput_are_those_of_the_network():
    slow, fast = Timed(0.02), Timed(0.005)
    before = torch.get_num_threads()
    document = speed.measure({"slow": (slow, 32), "fast": (fast, 48)}, threads=1, seconds=0.4)
    assert torch.get_num_threads() == before
    assert document["slow"]["latency_ms_p50"] == pytest.approx(20)
    assert document["fast"]["latency_ms_p50"] == document["fast"]["latency_ms_p95"] == pytest.approx(5)
    # A batch of 32 takes as long as one image here, so that is the best rate.
    assert document["fast"]["batch"] == 32
    assert document["fast"]["images_per_second"] == pytest.approx(32 / 0.005)
    assert document["fast"]["threads"] == 1
    assert document["slow"]["runs"] == pytest.approx(10, abs=5)  # half of 0.4 s at 20 ms
    assert set(fast.batches) == {1, 8, 32}


def test_percentiles_tell_the_usual_from_the_rare():
    document = speed.measure({"m": (Timed(*[0.01] * 9, 0.05), 32)}, threads=1, seconds=4.0)
    assert document["m"]["latency_ms_p50"] == pytest.approx(10)
    assert [document["m"][f"latency_ms_{p}"] for p in ("p95", "p99")] == pytest.approx([50, 50])
    assert "m is 5.0 times" in (timing.disturbed(document) or "")


def test_steady_timings_need_no_warning():
    network = Timed(0.01).double()
    assert timing.disturbed(speed.measure({"m": (network, 32)}, threads=1, seconds=0.1)) is None
    assert not network.weight.is_inference()  # explanations, which come next, need its gradients
    assert timing.disturbed({}) is None


def test_batches_that_would_take_long_are_left_out():
    slow = Timed(0.3)
    document = speed.measure({"slow": (slow, 32)}, threads=1, seconds=0.01)
    assert set(slow.batches) == {1}
    assert document["slow"]["batch"] == 1


def test_size_counts_parameters_multiplications_and_bytes(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x" * 123)
    network = GrayNetwork(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 2)), 0.5, 0.25)
    sizes = speed.size(network, 8, file)
    assert sizes == {"parameters": 4 * 10 + 2 * 257, "macs": 64 * 4 * 9 + 2 * 256, "bytes": 123}
