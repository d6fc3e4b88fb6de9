"""Shared parts of the benchmarks: alternatives timed in turns, and rows kept in a JSON file.

    uv run pytest benchmarks -m benchmark -n 0 -s --benchmark-json benchmarks/results/NAME.json

A test times its ways with ``medians`` (or with pytest-benchmark's own ``benchmark``) and hands each figure to
``record``. The rows lie in the file under ``extra_info["rows"]`` whether their bounds hold or not; ``page.py`` makes
the page from them. Run it on an idle machine.
"""

import importlib.metadata
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import pytest

from cxr_data import timing
from cxr_data.machine import cpu_flags, cpu_name

PACKAGES = ("torch", "onnxruntime", "lightly", "scikit-learn", "torchdistill")
"""Whose versions a file carries: what is measured runs in them, or against them."""
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""What of a processor decides how fast products of matrices are."""


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """Threads of torch and OpenCV are set back, so that no figure depends on which tests ran before."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture
def medians(benchmark: Any) -> Callable[..., dict[str, float]]:
    """A function that times several ways in turns: ``medians({"peer": f, "ours": g}, rounds=5)``.

    In every round each way has its turn once, so that what slows the machine for a while slows all of them. The first
    ``warm_up`` rounds do not count. It gives the median seconds of each, and may be called once a test: the whole of it
    is the one round that pytest-benchmark sees.
    """

    def timed(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, float]:
        return benchmark.pedantic(_in_turns, args=(ways, rounds, warm_up))

    return timed


def _in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int) -> dict[str, float]:
    import torch

    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warm_up:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


@pytest.fixture
def product_rate() -> Callable[[], float]:
    """A function that measures 1e9 operations a second of float32 matrix products in the threads torch has here.

    It is what a direct convolution can hope for.
    """

    def rate() -> float:
        import torch

        edge = 1024
        left, right = torch.randn(2, edge, edge)
        seconds = timing.alternate({"product": lambda: left @ right}, 2.0)["product"]
        return 2 * edge**3 / statistics.median(seconds) / 1e9

    return rate


@pytest.fixture
def in_8_bits() -> Callable[..., Any]:
    """A function that makes an 8-bit graph of a float one and its header, in one way instead of all that export-model
    tries, and says in it how.

    Random weights have no AUROC to lose, so any loss will do.
    """

    def made(graph: Any, header: Any, about: Mapping[str, Any]) -> Any:
        import numpy as np

        from cxr_data.synthetic.phantom import phantom
        from cxr_deploy.export import onnx_file
        from cxr_deploy.export.quantise import Variant, search

        images = phantom(16, size=header.input.size, seed=0)["pixels"][:, None]
        targets = np.eye(16, len(header.labels), dtype=np.float32)
        way = [Variant("minmax", True, "none")]
        small, report = search(graph, header, images, images, targets, np.arange(16), max_drop=1.0, variants=way)
        assert small is not None
        onnx_file.describe(small, header, {**about, "precision": "int8", "quantisation": report["variants"][0]})
        return small

    return made


@pytest.fixture
def own_process() -> Callable[..., str]:
    """A function that runs Python code in a process of its own, where memory can be measured, and gives what it prints:
    ``own_process(code, *arguments)``.
    """

    def ran(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

    return ran


@pytest.fixture
def record(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that keeps one figure and prints it; a test whose figures miss a bound fails once it has ended.

    ``record(what, value, unit, peer="", least=None, most=None, detail="")``: a line a reader understands, the figure,
    "x" (the peer's time over ours), "%", "s" or "GiB", what it is compared with, the least or the most that is wanted,
    and what the figure was made from.
    """
    title: str = request.module.TITLE
    rows: list[dict[str, Any]] = []
    benchmark.extra_info |= {"title": title, "rows": rows}

    def keep(
        what: str,
        value: float,
        unit: str,
        *,
        peer: str = "",
        least: float | None = None,
        most: float | None = None,
        detail: str = "",
    ) -> None:
        low = -math.inf if least is None else least
        high = math.inf if most is None else most
        met = bool(low <= value <= high)  # what is not a number misses
        row = {"what": what, "peer": peer, "value": float(value), "unit": unit, "least": least, "most": most}
        rows.append({**row, "met": met, "detail": detail})
        print(f"\n{_told(rows[-1])}" + (f" ({detail})" if detail else ""))

    return keep


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Hold a test to the bounds of its rows when all of them are recorded."""
    result = yield
    benchmark: Any = pyfuncitem.funcargs.get("benchmark")
    rows = benchmark.extra_info.get("rows", []) if benchmark else []
    missed = [_told(row) for row in rows if not row["met"]]
    if missed:
        pytest.fail("missed: " + "; ".join(missed), pytrace=False)
    return result


def _told(row: Mapping[str, Any]) -> str:
    peer = f", against {row['peer']}" if row["peer"] else ""
    bounds = [f"at {side} {row[side]:g}" for side in ("least", "most") if row[side] is not None]
    wanted = f", wanted {' and '.join(bounds)}" if bounds else ""
    return f"{row['what']}{peer}: {row['value']:.4g} {row['unit']}{wanted}"


@pytest.hookimpl(wrapper=True)
def pytest_benchmark_generate_json(benchmarks: Iterable[Any]) -> Generator[None, dict[str, Any], dict[str, Any]]:
    """Name the tests that failed within what they timed; one that ran out of time would cost the whole file."""
    failed = [one for one in benchmarks if one.has_error or not one.stats]
    for one in failed:
        one.fixture.has_error = True  # which leaves it out
    document = yield
    names = [(one.extra_info["title"], one.name) for one in failed if "title" in one.extra_info]
    document["failed"] = [{"title": title, "name": name} for title, name in names]
    return document


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Say what decides speed, and nothing that names the machine, its owner or a path: the files are published."""
    import torch

    machine_info.clear()
    machine_info |= {
        "cpu": cpu_name(),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
