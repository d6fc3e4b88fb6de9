"""Every stage for two steps on the CPU and on the device, from the same state; and a run stopped and resumed there."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_data.cohorts.cohort import Cohort
from cxr_recipes.gpu_check import commands
from cxr_recipes.gpu_check.config import Scale

SGD_UPDATE, ADAM_UPDATE, LOSS, PROBABILITY = 0.02, 0.1, 2e-3, 2e-3
"""Tolerances: difference of the updates over their length with SGD and with AdamW, which divides a gradient near 0 by
its own size and so enlarges its rounding; relative difference of the loss; difference of a probability."""


@dataclass(frozen=True)
class Stage:
    """A stage that both devices run.

    Attributes:
        name: Its folder.
        words: The command, without places and data.
        compare: Function of the CPU's folder, the device's folder and the file with the starting weights: differences
            by name.
        tolerances: The same names, and how large each may be.
    """

    name: str
    words: list[str]
    compare: Callable[[Path, Path, Path], dict[str, float]]
    tolerances: dict[str, float]


@dataclass(frozen=True)
class Place:
    """Where the checks of correctness lie, and what they run on.

    Attributes:
        folder: The folder.
        data: Data of all stages, as ``--data`` takes it.
        cohort: The same, opened.
        scale: Sizes.
    """

    folder: Path
    data: str
    cohort: Cohort
    scale: Scale

    @property
    def log(self) -> Path:
        """What the commands say."""
        return self.folder / "log.txt"

    def words(self, device: str, words: list[str]) -> list[str]:
        """A training command with data, place and arithmetic: two steps in float32 without TF32."""
        batch = max(len(self.cohort.rows("train")) // 2, 2)
        options = [f"--size={self.scale.checked_size}", f"--batch_size={batch}", "--epochs=1", "--precision=fp32"]
        given = {word.split("=")[0] for word in words}
        options = [option for option in options if option.split("=")[0] not in given]
        return [*words, *options, "--deterministic=true", f"--data={self.data}", *self.at(device)]

    def at(self, device: str) -> list[str]:
        """Options of the place of a device's runs."""
        return [f"--runs_dir={self.folder / device}", "--run=stages"]

    def of(self, device: str, name: str) -> Path:
        """The folder of a stage of a device."""
        return self.folder / device / "stages" / name


def checks(place: Place) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and function of every check; a function returns differences, tolerances and whether they hold.

    The first makes the weights that all others begin with, so they are run in this order.
    """
    network = place.scale.network
    start = place.of("cpu", "start") / "backbone.safetensors"
    teacher = place.of("cpu", "teacher") / "model.safetensors"
    student = place.of("cpu", "student") / "model.safetensors"

    def ready() -> dict[str, Any]:
        words = ["ssl-pretrain", f"--architecture={network}", "--name=start", "--on_collapse=warn"]
        seconds = commands.run(place.words("cpu", words), place.log, on_cpu=True)
        return {"seconds": round(seconds, 1), "passed": True}

    yield "weights to begin with", ready
    pretrain = ["ssl-pretrain", f"--architecture={network}", f"--start={start}", "--optimizer=sgd"]
    distil = ["distill", f"--student={network}", f"--start={start}", f"--teacher={teacher}"]
    teach = ["finetune", f"--architecture={network}", f"--start={start}"]
    adam = {"update": ADAM_UPDATE, "loss": LOSS}
    stages = [
        Stage(
            method,
            [*pretrain, "--on_collapse=warn", f"--method={method}", f"--name={method}"],
            lambda cpu, gpu, begin: {"update": update_difference(*_weights(cpu, gpu, "backbone"), begin)},
            {"update": SGD_UPDATE},
        )
        for method in ("swav", "dino", "byol")
    ]
    stages += [
        Stage("teacher", teach, trained, adam),
        Stage("views-on-device", [*teach, "--augment_on_device=true", "--name=views-on-device"], trained, adam),
        Stage("student", [*distil, "--name=student"], trained, adam),
        Stage("student-cached", [*distil, "--cached_views=1", "--name=student-cached"], trained, adam),
    ]
    for stage in stages:
        yield f"two steps: {stage.name}", lambda stage=stage: _both(place, stage, start)
    evaluation = ["evaluate", str(teacher), str(student), f"--data={place.data}", "--speed=false", "--resamples=0"]
    pictures = place.folder / "pictures"
    answers = {"probability": PROBABILITY}
    yield "evaluate", lambda: _both(place, Stage("report", evaluation, probabilities, answers), start, trains=False)
    yield "predict", lambda: _predict(place, teacher, pictures)
    for name, words in (
        ("finetune", teach),
        ("ssl-pretrain", ["ssl-pretrain", f"--architecture={network}", f"--start={start}", "--on_collapse=warn"]),
    ):
        yield f"stopped and resumed: {name}", lambda words=words: stopped_and_resumed(place, words)


def judged(differences: dict[str, float], tolerances: dict[str, float]) -> dict[str, Any]:
    """Compare differences with tolerances: both, and whether every difference is a number within its tolerance."""
    passed = differences.keys() == tolerances.keys() and all(
        np.isfinite(value) and value <= tolerances[name] for name, value in differences.items()
    )
    return {"differences": differences, "tolerances": tolerances, "passed": bool(passed)}


def _both(place: Place, stage: Stage, start: Path, *, trains: bool = True) -> dict[str, Any]:
    def command(device: str) -> list[str]:
        return place.words(device, stage.words) if trains else [*stage.words, *place.at(device)]

    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        tasks = [
            pool.submit(commands.run, command(device), place.folder / f"{device}.txt", on_cpu=device == "cpu")
            for device in ("cpu", "device")
        ]
        for task in tasks:
            task.result()
    differences = stage.compare(place.of("cpu", stage.name), place.of("device", stage.name), start)
    return {**judged(differences, stage.tolerances), "seconds": round(time.perf_counter() - began, 1)}


def _weights(cpu: Path, gpu: Path, name: str) -> tuple[Path, Path]:
    return cpu / f"{name}.safetensors", gpu / f"{name}.safetensors"


def update_difference(cpu: Path, gpu: Path, start: Path) -> float:
    """Length of the difference of two updates of the same weights over the length of the first.

        ‖w_gpu - w_cpu‖ / ‖w_cpu - w_start‖

    Args:
        cpu: Weights after training on the CPU.
        gpu: Weights after training on the device.
        start: Weights that both began with; what it does not hold (a new head) is left out, batch statistics too.
    """
    from safetensors.numpy import load_file

    before, ours, theirs = load_file(start), load_file(cpu), load_file(gpu)
    apart = length = 0.0
    for name, value in before.items():
        if name in ours and value.shape == ours[name].shape and "running_" not in name and value.dtype == np.float32:
            first, second = ours[name].astype(np.float64), theirs[name].astype(np.float64)
            apart += float(((second - first) ** 2).sum())
            length += float(((first - value) ** 2).sum())
    return (apart / length) ** 0.5 if length else float("nan")


def trained(cpu: Path, gpu: Path, start: Path) -> dict[str, float]:
    """Differences of a classifier: of its update, and of its last epoch's loss."""
    first, second = (_lines(folder)[-1]["loss"] for folder in (cpu, gpu))
    update = update_difference(*_weights(cpu, gpu, "model"), start)
    return {"update": update, "loss": abs(second - first) / abs(first)}


def probabilities(cpu: Path, gpu: Path, _start: Path) -> dict[str, float]:
    """Largest difference of a probability in the tables of two evaluations."""
    import polars as pl

    first, second = (pl.read_parquet(folder / "predictions.parquet") for folder in (cpu, gpu))
    return {"probability": _largest(first, second, "probability:")}


def _largest(first: Any, second: Any, prefix: str) -> float:
    names = [name for name in first.columns if name.startswith(prefix)]
    return max(float(np.abs(first[name].to_numpy() - second[name].to_numpy()).max()) for name in names)


def _predict(place: Place, model: Path, pictures: Path) -> dict[str, Any]:
    """`predict` on eight files, on both devices."""
    import cv2
    import polars as pl

    began = time.perf_counter()
    pictures.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(place.cohort.pixels[place.cohort.rows("test")[:8]]):
        cv2.imwrite(str(pictures / f"{number}.png"), image)
    tables = []
    for device in ("cpu", "device"):
        table = place.folder / f"{device}.csv"
        commands.run(["predict", str(model), str(pictures), f"--out={table}"], place.log, on_cpu=device == "cpu")
        tables.append(pl.read_csv(table))
    apart = _largest(tables[0], tables[1], "probability:")
    return {
        **judged({"probability": apart}, {"probability": PROBABILITY}),
        "seconds": round(time.perf_counter() - began, 1),
    }


def stopped_and_resumed(place: Place, words: list[str]) -> dict[str, Any]:
    """A run on the device that SIGTERM stops and the same command resumes, against one that is left alone: same bits.

    Raises:
        Failed: The run ended before it could be stopped, or not with the code of a stopped one.
    """
    began = time.perf_counter()
    words = [*words, f"--epochs={place.scale.resumed_epochs}", "--batch_size=16"]
    name = "resumed-" + words[0]
    log = place.folder / f"{name}.txt"
    whole, cut = (place.words(device, [*words, f"--name={name}"]) for device in ("whole", "cut"))
    commands.run(whole, log)
    folder = place.of("cut", name)
    if not (folder / "done.json").exists():
        process = commands.start(cut, log)
        while process.poll() is None and len(_lines(folder)) < 2:
            time.sleep(0.02)
        if process.poll() is None:
            commands.check(commands.stop(process), cut, log, wanted=143)
        else:
            commands.check(process.returncode, cut, log, wanted=143)
    commands.run(cut, log)
    file = "model.safetensors" if words[0] == "finetune" else "backbone.safetensors"
    apart = largest_difference(place.of("whole", name) / file, folder / file)
    lines = float(sum(a != b for a, b in zip(_lines(place.of("whole", name)), _lines(folder), strict=True)))
    judgement = judged(
        {"weights": apart, "epochs logged differently": lines}, {"weights": 0.0, "epochs logged differently": 0.0}
    )
    return {**judgement, "seconds": round(time.perf_counter() - began, 1)}


def largest_difference(first: Path, second: Path) -> float:
    """Largest difference of any number in two weights files."""
    from safetensors.numpy import load_file

    one, other = load_file(first), load_file(second)
    if one.keys() != other.keys():
        return float("inf")
    return max(float(np.abs(one[name].astype(np.float64) - other[name]).max()) for name in one if one[name].size)


def _lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
