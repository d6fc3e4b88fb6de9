import time

import pytest
import torch
from torch import nn

from cxr_eval.speed import measure


class Sleeper(nn.Module):
    """A network whose forward takes as long as it is told."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds, self.weight, self.batches = seconds, nn.Parameter(torch.zeros(10)), []

    def forward(self, images):
        self.batches.append(len(images))
        time.sleep(self.seconds)
        return images.flatten(1).float()[:, :1]


def test_latency_and_throughput_are_those_of_the_network():
    slow, fast = Sleeper(0.02), Sleeper(0.005)
    before = torch.get_num_threads()
    found = measure({"slow": (slow, 32), "fast": (fast, 48)}, threads=1, seconds=0.4)
    assert torch.get_num_threads() == before
    assert 20 <= found["slow"]["latency_ms_p50"] <= found["slow"]["latency_ms_p95"]
    assert found["slow"]["latency_ms_p50"] > 2 * found["fast"]["latency_ms_p50"]
    # A batch of 32 takes as long as one image here, so that is the best rate.
    assert found["fast"]["batch"] == 32
    assert found["fast"]["images_per_second"] == pytest.approx(32 / 0.005, rel=0.5)
    assert found["fast"]["threads"] == 1
    assert found["fast"]["runs"] >= 5
    assert set(fast.batches) == {1, 8, 32}
