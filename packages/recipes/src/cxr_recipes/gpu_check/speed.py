"""How fast the trainings are: our own commands, then the loops they are compared with."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cxr_recipes.gpu_check import commands
from cxr_recipes.gpu_check.config import Scale

MEASURED = ("training_images_per_second", "waiting_share", "peak_gpu_memory_gib", "peak_memory_gib", "precision")


def measurements(
    folder: Path, data: str, pixel_size: int, scale: Scale
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and function of every measurement; KD needs the teacher before it, so they are run in this order."""
    place = [f"--data={data}", f"--runs_dir={folder}", "--run=speed", f"--size={scale.size}"]
    teacher = folder / "speed" / "teacher" / "model.safetensors"
    epochs, batch = f"--epochs={scale.epochs}", f"--batch_size={scale.batch}"
    swav = [f"--epochs={scale.ssl_epochs}", f"--batch_size={scale.ssl_batch}", f"--crops.local_size={scale.local_size}"]
    alone = ["finetune", f"--architecture={scale.student}", "--start=random", epochs, batch]
    ours = {
        f"SwAV, {scale.teacher}, {scale.size}/{scale.local_size} px, batch {scale.ssl_batch}": (
            ["ssl-pretrain", f"--architecture={scale.teacher}", *swav, "--on_collapse=warn", "--keep_state=false"],
            "ssl",
        ),
        f"teacher, {scale.teacher} alone, {scale.size} px, batch {scale.batch}": (
            ["finetune", f"--architecture={scale.teacher}", "--start=random", "--epochs=2", batch],
            "teacher",
        ),
        f"student, {scale.student} alone, {scale.size} px, batch {scale.batch}": (
            alone,
            "alone",
        ),
        f"student, {scale.student} alone, views rendered on the device": (
            [*alone, "--augment_on_device=true"],
            "alone-device",
        ),
        f"KD, {scale.teacher} to {scale.student}, {scale.size} px, batch {scale.batch}": (
            ["distill", f"--student={scale.student}", f"--teacher={teacher}", "--start=random", epochs, batch],
            "student",
        ),
    }
    yield "product of matrices", lambda: loop("matmul", {}, folder)
    costs = flops(scale)
    in_order = (costs[0], costs[1], costs[2], costs[2], costs[3])
    for (title, (words, name)), cost in zip(ours.items(), in_order, strict=True):
        command = [*words, f"--name={name}", *place]
        yield title, lambda command=command, name=name, cost=cost: _own(command, folder, name, cost)
    images = {"data": data, "pixel_size": pixel_size, "size": scale.size, "seconds": scale.seconds}
    swav_options = {**images, "network": scale.teacher, "local_size": scale.local_size, "batch": scale.ssl_batch}
    for bf16 in (False, True):
        title = f"lightly's SwAV, {scale.teacher}, {'bf16' if bf16 else 'float32'}"
        options = {**swav_options, "bf16": bf16}
        yield title, lambda options=options: {**loop("lightly", options, folder), "gflops": costs[0] / 1e9}
    plain = {**images, "network": scale.student, "batch": scale.batch}
    yield f"a naive loop, {scale.student} alone", lambda: {**loop("naive", plain, folder), "gflops": costs[2] / 1e9}


def flops(scale: Scale) -> tuple[float, float, float, float]:
    """Operations of a training step for one image: SwAV, teacher alone, student alone, KD with a live teacher.

    A forward takes two for every multiply-accumulate, the backward twice as many again; heads are left out.
    """
    import torch

    from cxr_common.models.cost import macs
    from cxr_common.models.zoo import build

    with torch.device("meta"):
        teacher, student = (build(name, 2, size=scale.size) for name in (scale.teacher, scale.student))
    big, local = macs(teacher, scale.size), macs(teacher, scale.local_size)
    small = macs(student, scale.size)
    return 6.0 * (2 * big + 6 * local), 6.0 * big, 6.0 * small, 6.0 * small + 2.0 * big


def _own(command: list[str], folder: Path, name: str, cost: float) -> dict[str, Any]:
    commands.run([*command, "--restart"], folder / "log.txt")
    done = json.loads((folder / "speed" / name / "done.json").read_text("utf-8"))
    return {**{key: done.get(key) for key in MEASURED}, "gflops": cost / 1e9, "device": done["device"]}


def loop(name: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What one of the loops measures, in a process of its own.

    Raises:
        Failed: It ended with an error.
    """
    words = [sys.executable, "-m", "cxr_recipes.gpu_check.loops", name, json.dumps(options)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise commands.Failed(f"the loop {name} ended with code {done.returncode}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
