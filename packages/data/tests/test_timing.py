from types import SimpleNamespace

import pytest

from cxr_data import timing
from cxr_data.errors import BadInput


class Clock:
    now = 0.0


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: Clock.now))


def test_any_function_of_pixels_is_timed_beside_the_others():
    def steady(pixels):
        Clock.now += 0.01
        assert pixels.shape[1:] == (1, 32, 32)

    def crowded(pixels):
        Clock.now += 0.001 * len(pixels) if len(pixels) < 32 else 0.008

    actual = timing.side_by_side({"a": (steady, 32), "b": (crowded, 48)}, 0.5)
    assert [actual["a"][f"latency_ms_{p}"] for p in ("p50", "p95", "p99")] == pytest.approx([10, 10, 10])
    assert actual["b"]["latency_ms_p50"] == pytest.approx(1)
    assert (actual["b"]["batch"], actual["b"]["images_per_second"]) == (32, pytest.approx(4000))


def test_a_process_that_measures_memory_and_fails_is_named():
    with pytest.raises(BadInput, match="no_such_module") as error:
        timing.peak_memories("no_such_module", {"model": ["model.onnx"]}, do="run it again")
    assert (error.value.where, error.value.do) == ("model.onnx", "run it again")
