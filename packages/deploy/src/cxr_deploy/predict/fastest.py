"""Choose the fastest runtime on this machine: measured once for each file, then remembered."""

import functools
import json
import platform
from pathlib import Path

import numpy as np

from cxr_data import timing
from cxr_data.cohorts.cache import cache_folder
from cxr_data.command_line.terminal import say
from cxr_data.files import read_json, write_json
from cxr_data.machine import cpu_name, usable_cores
from cxr_data.models.header import Header
from cxr_deploy import runtimes
from cxr_deploy.extras import installed

REMEMBERED = "runtimes.json"
"""File in the cache folder."""
SECONDS = 1.0
"""Time that each runtime is timed for, about."""
DEFAULT = "onnxruntime"


def remembered(file: Path, precision: str, threads: int) -> str:
    """The fastest runtime as it was measured here, else ONNX Runtime; at once.

    Args:
        file: An exported file.
        precision: "fp32" or "int8".
        threads: As in :func:`measured`.
    """
    return read_json(cache_folder() / REMEMBERED).get(_key(file, precision, threads), {}).get("fastest", DEFAULT)


def measured(file: Path, header: Header, precision: str, threads: int) -> str:
    """The fastest runtime of those installed, by the latency of one image; measured now unless it is remembered.

    bfloat16, which answers otherwise than the file was checked to, is left out.

    Args:
        file: An exported file.
        header: Its header.
        precision: "fp32" or "int8".
        threads: CPU threads; 0 takes every core.
    """
    key, known = _key(file, precision, threads), read_json(cache_folder() / REMEMBERED)
    there = [name for name, runtime in runtimes.RUNTIMES.items() if runtime.extra is None or installed(runtime.extra)]
    if key in known or len(there) == 1:
        return remembered(file, precision, threads)
    image = np.random.default_rng(0).integers(0, 256, (1, 1, header.input.size, header.input.size), np.uint8)
    calls = {name: functools.partial(runtimes.RUNTIMES[name].load(file, threads=threads), image) for name in there}
    times = {name: 1000 * float(np.median(times)) for name, times in timing.alternate(calls, SECONDS).items()}
    fastest = min(times, key=lambda name: times[name])
    said = ", ".join(f"{runtimes.RUNTIMES[name].title} {time:.2f} ms" for name, time in times.items())
    say(f"one image takes {said} here: {runtimes.RUNTIMES[fastest].title} from now on (--runtime names another)")
    place = cache_folder() / REMEMBERED
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, {**known, key: {"fastest": fastest, "milliseconds": times}})
    return fastest


def _key(file: Path, precision: str, threads: int) -> str:
    """File, machine and versions: whatever may change who is fastest."""
    from cxr_deploy.benchmark.entries import versions

    of_file = file.stat()
    parts = [str(file.resolve()), of_file.st_size, of_file.st_mtime_ns, precision, threads or usable_cores()]
    return json.dumps([*parts, cpu_name(), platform.node(), versions()])
