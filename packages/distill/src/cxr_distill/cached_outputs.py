"""Cached teacher outputs: computed once for K augmented views of each image, and read back in training.

They depend on teacher, cohort, augmentation and arithmetic alone and lie in the cache under a key made of these, so
that seeds, students and losses share one pass of the teacher. Cached view k shows every training image once, with
parameters drawn from (`SEED`, k); in epoch e the student sees view e mod K.
"""

import functools
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
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
from cxr_data.cohorts.cache import cache_folder
from cxr_data.cohorts.cohort import Cohort
from cxr_data.cohorts.prefetch import prefetch
from cxr_data.command_line.progress import Progress
from cxr_data.errors import BadInput
from cxr_data.files import whole_file, write_json, write_text
from cxr_data.folders import locked
from cxr_distill.teacher import Teacher

SEED = 0x7EAC4E5
"""Seed of the cached views: one for all, so that cached outputs do not depend on the student's seed."""

SAMPLE = 1024
"""Training images whose features tell the mean and standard deviation of each channel."""

FORMAT = 2
_BATCH = 64  # images of a teacher's forward
_KEEP_EVERY = 20.0  # seconds of a teacher's work that an interruption may cost
_AGAIN = "remove its folder and start again"


def cached_view(spec: ViewSpec, n: int, k: int) -> Views:
    """Augmentation parameters of cached view k of n training images; they do not depend on the image size."""
    return draw(spec, n, SEED, k)


@dataclass(frozen=True)
class CachedOutputs:
    """Cached outputs of one teacher.

    Attributes:
        folder: Where they lie.
        shapes: Outputs there are, and their shape for one image: "logits" (L,), "pooled" (C,), "level4" (C, G, G).
    """

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]

    def file(self, name: str, k: int) -> Path:
        """Where an output for view k lies."""
        return self.folder / f"{name}-{k:04}.npy"

    def read(self, k: int, positions: NDArray[np.int64]) -> dict[str, Tensor]:
        """Outputs for view k of the images at these positions: name -> (B, ...) float16."""
        return {name: torch.from_numpy(_opened(self.file(name, k))[positions]) for name in self.shapes}

    def complete(self, k: int) -> bool:
        """Whether all outputs for view k are there."""
        return all(self.file(name, k).exists() for name in self.shapes)

    def validation(self, name: str = "logits") -> NDArray[np.float32]:
        """An output for the validation images, (N_val, ...) float32."""
        return np.load(self.validation_file(name), allow_pickle=False)

    def all_validation(self, headless: bool) -> dict[str, NDArray[np.float32]]:
        """The features of an encoder, or the logits of a classifier, for the validation images."""
        return {name: self.validation(name) for name in (self.shapes if headless else ["logits"])}

    def validation_file(self, name: str) -> Path:
        """Where an output for the validation images lies."""
        return self.folder / ("validation.npy" if name == "logits" else f"validation-{name}.npy")


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
        teacher: On its device. The features among its ``feature_names`` are stored; of maps, those of its ``grid``.
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
        BadInput: Too little disk space, a damaged file or one of other outputs, or outputs that are not finite in
            float16.
    """
    spec = replace(spec, size=teacher.size)
    about = _about(teacher, cohort, rows, spec, precision)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "teachers" / f"{teacher.header.architecture}-{key[:20]}"
    cached = CachedOutputs(folder, teacher.shapes)
    _refuse_other(folder / "about.json", about)
    missing = [k for k in range(views) if not cached.complete(k)]
    each = 2 * len(rows) * sum(map(math.prod, cached.shapes.values()))
    folder.mkdir(parents=True, exist_ok=True)
    if show:
        there = f", {views - len(missing)} of them there already" if len(missing) < views else ""
        what = " and ".join(f"{' x '.join(map(str, shape))} {name}" for name, shape in cached.shapes.items())
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
    if not (folder / "about.json").exists():
        write_json(folder / "about.json", about)
    _compute_validation(cached, teacher, cohort, precision)
    # Each process begins elsewhere, so that those started at once divide the views among them.
    turn = os.getpid() % len(missing) if missing else 0
    shown = Progress("teacher", len(missing), -(-len(rows) // _BATCH), show=show and bool(missing))
    with shown as progress:
        for k in missing[turn:] + missing[:turn]:
            with locked(folder / f".{k:04}.lock"):
                if not cached.complete(k):
                    _compute_view(cached, k, teacher, cohort, rows, spec, precision, workers, progress)
            progress.epoch({"view": k})
    for k in range(views):
        _check(cached, k, len(rows))
    return cached


def _refuse_other(path: Path, about: Mapping[str, Any]) -> None:
    """Refuse a folder of the cache that holds outputs of another teacher or for other images."""
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            "cached teacher outputs", f"a damaged {path.name} ({error})", where=path.parent, do=_AGAIN
        ) from error
    other = [name for name, value in json.loads(json.dumps(about)).items() if there.get(name) != value]
    if other:
        found = f"outputs made for another {' and another '.join(other)}"
        raise BadInput("cached outputs of this teacher for these images", found, where=path.parent, do=_AGAIN)


def _about(
    teacher: Teacher, cohort: Cohort, rows: NDArray[np.int64], spec: ViewSpec, precision: torch.dtype
) -> dict[str, Any]:
    """All that the outputs depend on."""
    return {
        "format": FORMAT,
        "teacher": teacher.digest,
        "architecture": teacher.header.architecture,
        "cohort": cohort.fingerprint,
        "rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
        "labels": list(cohort.labels),
        "views": asdict(spec),
        "view_seed": SEED,
        # Views drawn or rendered otherwise are other views.
        "view_code": hashlib.sha256(Path(cxr_data.augment.__file__).read_bytes()).hexdigest(),
        "precision": str(precision).removeprefix("torch."),
    }


def _compute_view(
    cached: CachedOutputs,
    k: int,
    teacher: Teacher,
    cohort: Cohort,
    rows: NDArray[np.int64],
    spec: ViewSpec,
    precision: torch.dtype,
    workers: int,
    progress: Progress,
) -> None:
    """Compute a view batch by batch into files of its own; one that was interrupted resumes where it stopped."""
    drawn = cached_view(spec, len(rows), k)
    device = next(teacher.network.parameters()).device
    parts = {name: cached.folder / f".{name}-{k:04}.part" for name in cached.shapes}
    counter = cached.folder / f".{'+'.join(parts)}-{k:04}.count"
    done = _count(counter) if all(part.exists() for part in parts.values()) else 0
    files = {
        name: np.lib.format.open_memmap(part, "r+" if done else "w+", np.float16, (len(rows), *cached.shapes[name]))
        for name, part in parts.items()
    }

    def make(start: int) -> Tensor:
        return _rendered(cohort, rows, drawn, spec, np.arange(start, min(start + _BATCH, len(rows))))

    starts = range(done, len(rows), _BATCH)
    for _ in range(done // _BATCH):
        progress.step(0)
    kept = time.monotonic()
    for start, images in zip(starts, prefetch(make, starts, workers=workers), strict=True):
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            outputs = teacher(images.to(device, non_blocking=True))
        for name, values in files.items():
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
        if time.monotonic() - kept > _KEEP_EVERY:
            for values in files.values():
                values.flush()
            write_text(counter, str(start + len(images)))
            kept = time.monotonic()
    for name, values in files.items():
        values.flush()
        os.replace(parts[name], cached.file(name, k))
    counter.unlink(missing_ok=True)


def _rendered(
    cohort: Cohort, rows: NDArray[np.int64], drawn: Views, spec: ViewSpec, positions: NDArray[np.int64]
) -> Tensor:
    """Views of the images at these positions among the rows, (B, 1, S, S) uint8."""
    mine = {name: values[positions] for name, values in drawn.items()}
    return torch.from_numpy(render(cohort.pixels[rows[positions]], mine, spec)[0]).unsqueeze(1)


def evenly_spread(n: int, most: int = SAMPLE) -> NDArray[np.int64]:
    """Positions of at most so many of n training images, evenly spread."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def sampled_features(
    teacher: Teacher, cohort: Cohort, rows: NDArray[np.int64], spec: ViewSpec, precision: torch.dtype
) -> dict[str, Tensor]:
    """Features of an encoder for the sample of view 0, computed now; name -> (M, ...)."""
    spec, drawn = replace(spec, size=teacher.size), cached_view(spec, len(rows), 0)
    device, each = next(teacher.network.parameters()).device, []
    for positions in np.array_split(sample := evenly_spread(len(rows)), -(-len(sample) // _BATCH)):
        images = _rendered(cohort, rows, drawn, spec, positions).to(device)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            each.append({name: x.float().cpu() for name, x in teacher(images).features.items()})
    return {name: torch.cat([features[name] for features in each]) for name in teacher.feature_names}


def _count(path: Path) -> int:
    """Images of an interrupted view whose outputs lie on the disk, a whole number of batches."""
    try:
        return int(path.read_text("utf-8")) // _BATCH * _BATCH
    except (OSError, ValueError):
        return 0


def _compute_validation(cached: CachedOutputs, teacher: Teacher, cohort: Cohort, precision: torch.dtype) -> None:
    wanted = [name for name in cached.shapes if name == "logits" or teacher.headless]
    with locked(cached.folder / ".validation.lock"):
        if not all(cached.validation_file(name).exists() for name in wanted):
            for name, values in validation_outputs(teacher, cohort, precision).items():
                _write(cached.validation_file(name), values)


def validation_outputs(teacher: Teacher, cohort: Cohort, precision: torch.dtype) -> dict[str, NDArray[np.float32]]:
    """The teacher's outputs for the validation images, (N_val, ...) float32: logits, of an encoder its features."""
    rows = cohort.rows("val")
    options: dict[str, Any] = {"precision": precision}
    if not teacher.headless:
        values = inference.outputs(teacher.network, cohort.pixels, rows, teacher.size, **options)
        return {"logits": np.ascontiguousarray(values[:, teacher.order.cpu().numpy()])}
    if not len(rows):
        raise BadInput("validation images, by which an epoch is judged", "none", where=cohort.source)
    values = inference.outputs(FlatFeatures(teacher), cohort.pixels, rows, teacher.size, **options)
    return split_features(values, teacher.shapes)


class FlatFeatures(nn.Module):
    """The features of a teacher or student side by side, as `cxr_common.inference.outputs` takes them.

    Args:
        owner: A teacher, or a student in training.
    """

    def __init__(self, owner: Any):
        super().__init__()
        self.owner, self.network = owner, owner.network
        self.train(self.network.training)  # `outputs` leaves a module in the mode that it found

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 1, S, S) -> (B, D)."""
        features = self.owner(pixels).features
        return torch.cat([features[name].flatten(1) for name in self.owner.feature_names], dim=1)


def split_features(flat: NDArray[np.float32], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """What `FlatFeatures` put side by side, (N, D), by name again."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1], axis=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _write(path: Path, values: NDArray[Any]) -> None:
    with whole_file(path) as file:
        np.save(file, values, allow_pickle=False)


@functools.lru_cache(maxsize=64)
def _opened(path: Path) -> NDArray[np.float16]:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _check(cached: CachedOutputs, k: int, images: int) -> None:
    for name, shape in cached.shapes.items():
        path = cached.file(name, k)
        try:
            values = _opened(path)
            found = f"{values.dtype} {values.shape}"
        except (ValueError, OSError, EOFError) as error:
            found = f"a damaged file ({error})"
        if found != f"float16 {(images, *shape)}":
            raise BadInput(f"cached {name}, float16 {(images, *shape)}", found, where=path, do=_AGAIN)


def _readable_size(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
