"""The command ``reproduce gpu-check``: correctness, speed, then a recipe for the rest of the time; in one folder."""

import json
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cxr_data import open_cohort
from cxr_data.errors import BadInput
from cxr_data.files import write_json, write_text
from cxr_data.preparation.sizes import pixel_size_for
from cxr_recipes import results
from cxr_recipes.gpu_check import commands, correctness, page, speed
from cxr_recipes.gpu_check.config import SCALES, GpuCheckConfig

RECIPE_NEEDS = 20.0
"""Seconds that must be left for the recipe to begin."""


def gpu_check(config: GpuCheckConfig) -> None:
    """Run what is not done yet, and write ``gpu.json`` and ``gpu.md``; the same command resumes where it was cut.

    Raises:
        BadInput: No such archive or folder, or results of another machine, scale or archive.
        SystemExit: 1, where a check failed; the page says which.
    """
    deadline = time.monotonic() + 60 * config.minutes
    folder = Path(config.runs_dir, config.run)
    scale = SCALES[config.scale]
    large, small = _data(config, folder)
    record = _record(folder, config)

    def write() -> None:
        write_json(folder / "gpu.json", record)
        write_text(folder / "gpu.md", page.page(record))

    print(f"gpu-check: {record['device']}; {record['machine']}", flush=True)
    cohort = open_cohort(small, pixel_size=pixel_size_for(scale.checked_size), show=False)
    place = correctness.Place(folder / "correctness", small, cohort, scale)
    _do(record["correctness"], correctness.checks(place), deadline, write)
    pixel_size = pixel_size_for(scale.size)
    open_cohort(large, pixel_size=pixel_size, show=False)  # prepared once, ahead of what is timed
    measured = speed.measurements(folder, large, pixel_size, scale)
    _do(record["speed"], measured, deadline, write)
    if config.recipe:
        record["recipe"] = _recipe(config, folder, large, deadline)
    write()
    print((folder / "gpu.md").read_text("utf-8"))
    print(f"wrote {folder / 'gpu.md'} and {folder / 'gpu.json'}")
    failed = page.failures(record)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


def _do(
    results_by_name: dict[str, Any],
    tasks: Iterable[tuple[str, Callable[[], dict[str, Any]]]],
    deadline: float,
    write: Callable[[], None],
) -> None:
    """Run the tasks that have no good result yet, as long as there is time, and write after each."""
    for name, task in tasks:
        known = results_by_name.get(name, {})
        if known and not {"error", "left_out"} & known.keys():
            continue
        if time.monotonic() > deadline:
            results_by_name[name] = {"left_out": "no time left"}
        else:
            began = time.perf_counter()
            try:
                results_by_name[name] = task()
            except Exception as error:  # the others shall still run
                results_by_name[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
            print(f"{name}: {page.sentence(results_by_name[name])}  {time.perf_counter() - began:.0f} s", flush=True)
        write()


def _data(config: GpuCheckConfig, folder: Path) -> tuple[str, str]:
    """Data for speed and for correctness; an archive is unpacked once.

    Raises:
        BadInput: No such archive, one that is damaged, or one without the folders.
    """
    scale = SCALES[config.scale]
    if not config.pixels:
        return f"phantom:{scale.phantoms}", f"phantom:{min(scale.phantoms, 800)}"
    archive, pixels = Path(config.pixels), folder / "pixels"
    if not archive.is_file():
        raise BadInput("an archive of radiographs (.tar)", "nothing there", where=archive, do="see docs/scale.md")
    if not pixels.is_dir():
        part = folder / "pixels.part"
        part.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(archive) as file:
                file.extractall(part, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise BadInput("an archive of radiographs (.tar)", str(error), where=archive, do="make it again") from error
        part.rename(pixels)
    for name in (config.large, config.small):
        if not (pixels / name).is_dir():
            there = ", ".join(sorted(path.name for path in pixels.iterdir())) or "nothing"
            raise BadInput(f"a folder {name} in the archive", there, where=archive, do="--large and --small name them")
    return str(pixels / config.large), str(pixels / config.small)


def _record(folder: Path, config: GpuCheckConfig) -> dict[str, Any]:
    """What an earlier start found, or an empty record.

    Raises:
        BadInput: The folder's results are of another machine, scale or archive, or damaged.
    """
    about = {"schema": 1, "machine": results.machine(), "device": device(), "scale": config.scale}
    about["pixels"] = Path(config.pixels).name
    path = folder / "gpu.json"
    if not path.exists():
        return {**about, "correctness": {}, "speed": {}, "recipe": {}}
    try:
        known = json.loads(path.read_text("utf-8"))
        other = [name for name, value in about.items() if known.get(name) != value]
    except (ValueError, AttributeError) as error:
        raise BadInput("results of gpu-check", "a damaged file", where=path, do="delete the folder") from error
    if other:
        found = ", ".join(f"{name} was {known.get(name)!r}, now {about[name]!r}" for name in other)
        raise BadInput("results of this very check", found, where=path, do="choose another --run")
    return known


def device() -> str:
    """Name of the device that trainings choose by themselves."""
    import torch

    from cxr_common.training.accelerator import uses_cuda

    if not uses_cuda():
        return "no GPU: the CPU alone"
    size = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.get_device_name(0)}, {size:.0f} GiB, CUDA {torch.version.cuda}"


def _recipe(config: GpuCheckConfig, folder: Path, data: str, deadline: float) -> dict[str, Any]:
    """Run the recipe until the time is over; what is finished, and the pages it wrote."""
    left = deadline - time.monotonic()
    run = folder / "recipe"
    words = ["reproduce", config.recipe, f"--scale={config.scale}", f"--data={data}", "--run=recipe"]
    words.append(f"--runs_dir={folder}")
    outcome: dict[str, Any] = {"recipe": config.recipe, "ended": "not begun: no time left"}
    if left > RECIPE_NEEDS:
        process = commands.start(words, folder / "recipe.txt")
        code = commands.finish(process, left)
        outcome["ended"] = "time over; the same command resumes" if code is None else f"ended with code {code}"
        outcome["error"] = code if code else None
    ledger = run / "recipe.json"
    outcome["done"] = json.loads(ledger.read_text("utf-8"))["done"] if ledger.exists() else []
    outcome["trained"] = {
        path.parent.name: {key: value for key, value in json.loads(path.read_text("utf-8")).items() if key in KEPT}
        for path in sorted(run.glob("*/done.json"))
    }
    return outcome


KEPT = ("val_auroc", "probe_auroc", "seconds", "training_images_per_second", "waiting_share", "precision", "device")
"""Entries of a training's done.json that are shown."""
