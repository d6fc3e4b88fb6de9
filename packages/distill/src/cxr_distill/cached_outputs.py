"""Cached teacher outputs: computed once for K augmented views of each image, and read back in training.

They depend on teacher, cohort, augmentation and arithmetic alone and lie in the cache under a key made of these, so
that seeds, students and losses share one pass of the teacher. Cached view k shows every training image once, with
parameters drawn from (`SEED`, k); in epoch e the student sees view e mod K.
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
"""Seed of the cached views: one for all, so that cached outputs do not depend on the student's seed."""

FORMAT = 1
_BATCH = 64  # images of a teacher's forward


def cached_view(spec: ViewSpec, n: int, k: int) -> Views:
    """Augmentation parameters of cached view k of n training images; they do not depend on the image size."""
    return draw(spec, n, SEED, k)


@dataclass(frozen=True)
class CachedOutputs:
    """Cached outputs of one teacher.

    Attributes:
        folder: Where they lie.
        names: Outputs there are: "logits" and perhaps "pooled".
    """

    folder: Path
    names: tuple[str, ...]

    def read(self, k: int, positions: NDArray[np.int64]) -> dict[str, Tensor]:
        """Outputs for view k of the images at these positions: name -> (B, L or C) float16."""
        return {name: torch.from_numpy(_opened(self.folder / f"{name}-{k:04}.npy")[positions]) for name in self.names}

    def validation(self) -> NDArray[np.float32]:
        """Logits of the validation images, (N_val, L) float32."""
        return np.load(self.folder / "validation.npy", allow_pickle=False)


def cache_outputs(
    teacher: Teacher,
    cohort: Cohort,
    rows: NDArray[np.int64],
    spec: ViewSpec,
    views: int,
    *,
    precision: torch.dtype,
    workers: int = 0,
    show: bool = True,
) -> CachedOutputs:
    """Compute and store the outputs that are not in the cache yet; several processes share the work.

    Args:
        teacher: On its device. Pooled features are stored when they are among its ``stages``.
        cohort: The cohort.
        rows: (N,) its training rows.
        spec: Shape and augmentation of the student's images; the teacher sees them at its own size.
        views: K, number of views.
        precision: Arithmetic of the forward pass.
        workers: Threads that render; 0 chooses.
        show: Whether to report size and progress.

    Returns:
        The cached outputs, complete for K views (and for those computed before).

    Raises:
        BadInput: Too little disk space, a damaged file, or outputs that are not finite in float16.
    """
    spec = replace(spec, size=teacher.size)
    about = _about(teacher, cohort, spec, precision)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "teachers" / f"{teacher.header.architecture}-{key[:20]}"
    widths = {"logits": len(cohort.labels)}
    if "pooled" in teacher.stages:
        widths["pooled"] = teacher.network.network.num_features
    cached = CachedOutputs(folder, tuple(widths))
    missing = [k for k in range(views) if not _complete(cached, k)]
    each = 2 * len(rows) * sum(widths.values())
    folder.mkdir(parents=True, exist_ok=True)
    if show:
        there = f", {views - len(missing)} of them there already" if len(missing) < views else ""
        what = " and ".join(f"{width} {name}" for name, width in widths.items())
        print(
            f"cached teacher outputs: {views} views x {len(rows):,} images x {what}, "
            f"{_readable_size(views * each)} in {folder}{there}",
            flush=True,
        )
    free = shutil.disk_usage(folder).free
    if len(missing) * each > 0.95 * free:
        raise BadInput(
            f"{_readable_size(len(missing) * each)} of disk space for the teacher's outputs",
            f"{_readable_size(free)} free",
            where=folder,
            do="take fewer --cached_views, or set CXR_CACHE to a roomier disk",
        )
    _compute_validation(cached, teacher, cohort, precision)
    # Each process begins elsewhere, so that those started at once divide the views among them.
    turn = os.getpid() % len(missing) if missing else 0
    shown = Progress("teacher", len(missing), -(-len(rows) // _BATCH), show=show and bool(missing))
    with shown as progress:
        for k in missing[turn:] + missing[:turn]:
            with locked(folder / f".{k:04}.lock"):
                if not _complete(cached, k):
                    _compute_view(cached, k, teacher, cohort, rows, spec, widths, precision, workers, progress)
            progress.epoch({"view": k})
    if not (folder / "about.json").exists():
        write_json(folder / "about.json", about)
    for k in range(views):
        _check(cached, k, len(rows), widths)
    return cached


def _about(teacher: Teacher, cohort: Cohort, spec: ViewSpec, precision: torch.dtype) -> dict[str, Any]:
    """All that the outputs depend on."""
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


def _complete(cached: CachedOutputs, k: int) -> bool:
    return all((cached.folder / f"{name}-{k:04}.npy").exists() for name in cached.names)


def _compute_view(
    cached: CachedOutputs,
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
    drawn = cached_view(spec, len(rows), k)
    device = next(teacher.network.parameters()).device
    found = {name: np.empty((len(rows), width), np.float16) for name, width in widths.items()}

    def make(start: int) -> Tensor:
        part = slice(start, start + _BATCH)
        mine = {name: values[part] for name, values in drawn.items()}
        return torch.from_numpy(render(cohort.pixels[rows[part]], mine, spec)[0]).unsqueeze(1)

    starts = range(0, len(rows), _BATCH)
    for start, images in zip(starts, prefetch(make, starts, workers=workers), strict=True):
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            outputs = teacher(images.to(device, non_blocking=True))
        for name, values in found.items():
            answer = outputs.logits if name == "logits" else outputs.features[name]
            half = answer.half().cpu().numpy()
            if not np.isfinite(half).all():
                raise BadInput(
                    "outputs of the teacher that are finite in float16",
                    f"{name} up to {answer.abs().max().item():.3g}",
                    where=cached.folder,
                    do="run it in every step: --cached_views 0",
                )
            values[start : start + len(images)] = half
        progress.step(len(images))
    for name, values in found.items():
        _write(cached.folder / f"{name}-{k:04}.npy", values)


def _compute_validation(cached: CachedOutputs, teacher: Teacher, cohort: Cohort, precision: torch.dtype) -> None:
    path = cached.folder / "validation.npy"
    with locked(cached.folder / ".validation.lock"):
        if not path.exists():
            _write(path, validation_logits(teacher, cohort, precision))


def validation_logits(teacher: Teacher, cohort: Cohort, precision: torch.dtype) -> NDArray[np.float32]:
    """The teacher's logits of the validation images, (N_val, L) float32, in the cohort's label order."""
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


def _check(cached: CachedOutputs, k: int, images: int, widths: dict[str, int]) -> None:
    for name, width in widths.items():
        path = cached.folder / f"{name}-{k:04}.npy"
        try:
            values = _opened(path)
            found = f"{values.dtype} {values.shape}"
        except (ValueError, OSError, EOFError) as error:
            found = f"a damaged file ({error})"
        if found != f"float16 {(images, width)}":
            raise BadInput(
                f"cached {name}, float16 {(images, width)}", found, where=path, do="remove its folder and start again"
            )


def _readable_size(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
