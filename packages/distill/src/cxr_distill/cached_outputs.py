"""The teacher once: what it answers to K sets of views, computed ahead, kept, and read back in training.

A recording depends on teacher, cohort, views and arithmetic alone. It lies in the cache under a key made of
these, so that seeds, students and methods share one pass of the teacher. View set k shows every training image
once, with parameters drawn from (`SEED`, k); in epoch e the student sees set e mod K.
"""

import functools
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import cxr_data.augment
from cxr_common import inference
from cxr_data.augment import Views, ViewSpec, draw, render
from cxr_data.cache import cache_folder
from cxr_data.cohort import Cohort
from cxr_data.errors import BadInput
from cxr_data.files import whole_file, write_json
from cxr_data.folders import locked
from cxr_data.prefetch import prefetch
from cxr_data.progress import Progress
from cxr_distill.teacher import Teacher

SEED = 0x7EAC4E5
"""Seed of the view sets: one for all, so that a recording does not depend on the student's seed."""

FORMAT = 1
_BATCH = 64  # images of a teacher's forward


def view_set(spec: ViewSpec, n: int, k: int) -> Views:
    """Parameters of view set k of n training images; they do not depend on the size of the view."""
    return draw(spec, n, SEED, k)


@dataclass(frozen=True)
class Recording:
    """What one teacher answered.

    Attributes:
        folder: Where it lies.
        names: What was recorded of each view: "logits" and perhaps "pooled".
    """

    folder: Path
    names: tuple[str, ...]

    def read(self, k: int, positions: NDArray[np.int64]) -> dict[str, Tensor]:
        """Answers to view set k for images at these positions: name -> (B, L or C) float16."""
        return {name: torch.from_numpy(_opened(self.folder / f"{name}-{k:04}.npy")[positions]) for name in self.names}

    def validation(self) -> NDArray[np.float32]:
        """Logits of the whole validation images, (N_val, L) float32."""
        return np.load(self.folder / "validation.npy", allow_pickle=False)


def record(
    teacher: Teacher,
    cohort: Cohort,
    rows: NDArray[np.int64],
    spec: ViewSpec,
    sets: int,
    *,
    precision: torch.dtype,
    workers: int = 0,
    show: bool = True,
) -> Recording:
    """Record what is not recorded yet; several processes share the work and wait for each other.

    Args:
        teacher: On its device. Pooled features are recorded when they are among its ``stages``.
        cohort: The cohort.
        rows: (N,) its training rows.
        spec: What the student's views look like; the teacher sees them at its own size.
        sets: K, number of view sets.
        precision: Arithmetic of the forward.
        workers: Threads that render; 0 chooses.
        show: Whether to say what it takes.

    Returns:
        The recording, complete for the K sets (and for those recorded before).

    Raises:
        BadInput: Too little disk space, a damaged recording, or answers that are not finite in float16.
    """
    spec = replace(spec, size=teacher.size)
    about = _about(teacher, cohort, spec, precision)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "teachers" / f"{teacher.header.architecture}-{key[:20]}"
    widths = {"logits": len(cohort.labels)}
    if "pooled" in teacher.stages:
        widths["pooled"] = teacher.network.network.num_features
    recording = Recording(folder, tuple(widths))
    missing = [k for k in range(sets) if not _complete(recording, k)]
    each = 2 * len(rows) * sum(widths.values())
    folder.mkdir(parents=True, exist_ok=True)
    if show:
        there = f", {sets - len(missing)} of them there already" if len(missing) < sets else ""
        what = " and ".join(f"{width} {name}" for name, width in widths.items())
        print(
            f"teacher once: {sets} view sets x {len(rows):,} images x {what}, {_room(sets * each)} in {folder}{there}",
            flush=True,
        )
    free = shutil.disk_usage(folder).free
    if len(missing) * each > 0.95 * free:
        raise BadInput(
            f"{_room(len(missing) * each)} of disk space for the teacher's answers",
            f"{_room(free)} free",
            where=folder,
            do="take fewer --teacher_views, or set CXR_CACHE to a roomier disk",
        )
    _record_validation(recording, teacher, cohort, precision)
    # Each process begins elsewhere, so that those started at once divide the sets among them.
    turn = os.getpid() % len(missing) if missing else 0
    shown = Progress("teacher", len(missing), -(-len(rows) // _BATCH), show=show and bool(missing))
    with shown as progress:
        for k in missing[turn:] + missing[:turn]:
            with locked(folder / f".{k:04}.lock"):
                if not _complete(recording, k):
                    _record_set(recording, k, teacher, cohort, rows, spec, widths, precision, workers, progress)
            progress.epoch({"view_set": k})
    if not (folder / "about.json").exists():
        write_json(folder / "about.json", about)
    for k in range(sets):
        _check(recording, k, len(rows), widths)
    return recording


def _about(teacher: Teacher, cohort: Cohort, spec: ViewSpec, precision: torch.dtype) -> dict[str, Any]:
    """All that the answers depend on."""
    return {
        "format": FORMAT,
        "teacher": teacher.digest,
        "architecture": teacher.header.architecture,
        "cohort": cohort.fingerprint,
        "labels": list(cohort.labels),
        "views": asdict(spec),
        "view_seed": SEED,
        # Views drawn or rendered otherwise are other views.
        "view_code": hashlib.sha256(Path(cxr_data.augment.__file__).read_bytes()).hexdigest(),
        "precision": str(precision).removeprefix("torch."),
    }


def _complete(recording: Recording, k: int) -> bool:
    return all((recording.folder / f"{name}-{k:04}.npy").exists() for name in recording.names)


def _record_set(
    recording: Recording,
    k: int,
    teacher: Teacher,
    cohort: Cohort,
    rows: NDArray[np.int64],
    spec: ViewSpec,
    widths: dict[str, int],
    precision: torch.dtype,
    workers: int,
    progress: Progress,
) -> None:
    views = view_set(spec, len(rows), k)
    device = next(teacher.network.parameters()).device
    found = {name: np.empty((len(rows), width), np.float16) for name, width in widths.items()}

    def make(start: int) -> Tensor:
        part = slice(start, start + _BATCH)
        drawn = {name: values[part] for name, values in views.items()}
        return torch.from_numpy(render(cohort.pixels[rows[part]], drawn, spec)[0]).unsqueeze(1)

    starts = range(0, len(rows), _BATCH)
    for start, images in zip(starts, prefetch(make, starts, workers=workers), strict=True):
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            seen = teacher(images.to(device, non_blocking=True))
        for name, values in found.items():
            answer = seen.logits if name == "logits" else seen.features[name]
            half = answer.half().cpu().numpy()
            if not np.isfinite(half).all():
                raise BadInput(
                    "answers of the teacher that are finite in float16",
                    f"{name} up to {answer.abs().max().item():.3g}",
                    where=recording.folder,
                    do="use it live: --teacher_views 0",
                )
            values[start : start + len(images)] = half
        progress.step(len(images))
    for name, values in found.items():
        _write(recording.folder / f"{name}-{k:04}.npy", values)


def _record_validation(recording: Recording, teacher: Teacher, cohort: Cohort, precision: torch.dtype) -> None:
    path = recording.folder / "validation.npy"
    with locked(recording.folder / ".validation.lock"):
        if not path.exists():
            _write(path, validation_answers(teacher, cohort, precision))


def validation_answers(teacher: Teacher, cohort: Cohort, precision: torch.dtype) -> NDArray[np.float32]:
    """The teacher's logits of the whole validation images, (N_val, L) float32, in the cohort's label order."""
    network: nn.Module = teacher.network
    rows = cohort.rows("val")
    found = inference.outputs(network, cohort.pixels, rows, teacher.size, precision=precision)
    return np.ascontiguousarray(found[:, teacher.order.cpu().numpy()])


def _write(path: Path, values: NDArray[Any]) -> None:
    with whole_file(path) as file:
        np.save(file, values, allow_pickle=False)


@functools.lru_cache(maxsize=64)
def _opened(path: Path) -> NDArray[np.float16]:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _check(recording: Recording, k: int, images: int, widths: dict[str, int]) -> None:
    for name, width in widths.items():
        path = recording.folder / f"{name}-{k:04}.npy"
        try:
            values = _opened(path)
            found = f"{values.dtype} {values.shape}"
        except (ValueError, OSError, EOFError) as error:
            found = f"a damaged file ({error})"
        if found != f"float16 {(images, width)}":
            raise BadInput(
                f"recorded {name}, float16 {(images, width)}", found, where=path, do="remove its folder and start again"
            )


def _room(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
