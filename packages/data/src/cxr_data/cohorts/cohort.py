"""A cohort: one row per image, its labels, its patient, its split, its pixels."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.digests import order_of_appearance
from cxr_data.errors import BadInput, unknown_name
from cxr_data.files import refuse_small_disk, write_json
from cxr_data.folders import new_folder
from cxr_data.preparation.sizes import size_for
from cxr_data.preparation.splits import SPLITS, shared_groups

SCHEMA = 1
Task = Literal["multilabel", "multiclass"]
ABOUT = "cohort.json"
_CHUNK = 16 * 2**20
"""Bytes of pixels looked at at once; below 2^24, so that float32 counts of gray levels stay exact."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Radiographs with labels and a patient-wise split.

    Attributes:
        name: What the data set is called.
        task: "multilabel" (findings side by side), "multiclass" (exclusive classes), None without labels.
        labels: Label names, in the order of every label axis. With two classes the positive one is
            ``labels[1]``.
        table: One row per image: ``image`` (id, the path below the source), ``patient``, ``split`` ("train",
            "val", "test"), ``group`` (Int64: patients joined by identical images), one Float32 column
            ``label:NAME`` per label (0, 1, or NaN where unknown), and what else is known (``projection``, ``sex``,
            ``age`` in years, …).
        pixels: (N, P, P) uint8 gray values, usually a read-only memory map; uint16 as :func:`load` returns a cohort
            prepared with 16 bits, which :func:`cxr_data.open_cohort` gives out as uint8.
        pixel_mapping: How files became pixels: ``aspect`` and ``window`` of
            :func:`cxr_data.images.read.read_image`.
        source: Folder or generator it was made from.
        fingerprint: SHA-256 over labels, table and pixels.
        notes: What was done to the data and what is wrong with it, in plain sentences.
        masks: (N, L, P, P) lesion masks, 0 or 1, where they are known (the phantom); else None.
        broken: (file, reason) of every image set aside.
        parts: ``{"name", "fingerprint"}`` of each cohort that was joined into this one; empty for one that is whole.

    >>> from cxr_data import open_cohort
    >>> cohort = open_cohort("phantom:40", pixel_size=32, show=False)
    >>> rows = cohort.rows("train")
    >>> len(cohort), cohort.pixels[rows].dtype.name, cohort.targets[rows].dtype.name
    (40, 'uint8', 'float32')
    """

    name: str
    task: Task | None
    labels: tuple[str, ...]
    table: pl.DataFrame
    pixels: NDArray[np.uint8]
    pixel_mapping: dict[str, Any]
    source: str
    fingerprint: str
    notes: tuple[str, ...] = ()
    masks: NDArray[np.uint8] | None = None
    broken: tuple[tuple[str, str], ...] = ()
    parts: tuple[Mapping[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def pixel_size(self) -> int:
        """Edge of the stored images, pixels."""
        return self.pixels.shape[1]

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of one split, or of "all", ascending.

        Raises:
            BadInput: Not "train", "val", "test" or "all".
        """
        if split == "all":
            return np.arange(len(self))
        if split not in SPLITS:
            raise unknown_name("split", split, (*SPLITS, "all"))
        return np.flatnonzero(self.table["split"].to_numpy() == split)

    def has_labels(self, *splits: str) -> bool:
        """Whether in each of these splits some image has a known label."""
        return all(bool((~np.isnan(self.targets[self.rows(split)])).any()) for split in splits)

    @cached_property
    def targets(self) -> NDArray[np.float32]:
        """(N, L) labels in {0, 1, NaN}; one-hot for exclusive classes, a whole row of NaN where unknown."""
        return label_matrix(self.table, self.labels)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """(N,) number of what must stay together: a patient, or patients that share an identical image."""
        if "group" in self.table.columns:
            return self.table["group"].to_numpy().astype(np.int64)
        return order_of_appearance(self.table["patient"])

    @cached_property
    def shared_groups(self) -> dict[tuple[str, str], int]:
        """Number of groups that lie in two splits at once, where there are any: ("train", "test") -> 5."""
        return shared_groups(self.table["split"].to_numpy(), self.groups)

    def mean_std(self) -> tuple[float, float]:
        """Mean and standard deviation of the training pixels divided by 255, exact over all of them."""
        return self._mean_std

    @cached_property
    def _mean_std(self) -> tuple[float, float]:
        rows = self.rows("train")
        if not len(rows):
            raise BadInput("training images", "none", where=self.source)
        levels = np.arange(256, dtype=np.float64)
        counts = np.zeros(256)
        step = max(1, _CHUNK // self.pixels[0].size - 1)
        for start in range(0, len(rows), step):
            chunk = np.ascontiguousarray(self.pixels[rows[start : start + step]]).reshape(-1, self.pixel_size)
            counts += cv2.calcHist([chunk], [0], None, [256], [0, 256]).ravel()
        mean = float(counts @ levels / counts.sum())
        variance = float(counts @ (levels - mean) ** 2 / counts.sum())
        return mean / 255, variance**0.5 / 255

    def describe(self) -> dict[str, Any]:
        """What the cohort is, as plain JSON types: goes into reports and into weights files.

        Returns:
            name, source (its last part: weights files travel, paths of a machine need not), fingerprint,
            task, labels, pixel_size, pixel_mapping, per split the number of images, patients, and
            positives and unknowns of each label, and parts where the cohort was joined.
        """
        known = {name: self.targets[:, i] for i, name in enumerate(self.labels)}
        splits = {}
        for split in SPLITS:
            rows = self.rows(split)
            splits[split] = {
                "images": len(rows),
                "patients": self.table["patient"].gather(rows).n_unique(),
                "positive": {name: int((column[rows] == 1).sum()) for name, column in known.items()},
                "unknown": {name: int(np.isnan(column[rows]).sum()) for name, column in known.items()},
            }
        return {
            "name": self.name,
            "source": Path(self.source).name or self.source,
            "fingerprint": self.fingerprint,
            "task": self.task,
            "labels": list(self.labels),
            "pixel_size": self.pixel_size,
            "pixel_mapping": dict(self.pixel_mapping),
            "splits": splits,
            **({"parts": [dict(part) for part in self.parts]} if self.parts else {}),
        }


def label_matrix(table: pl.DataFrame, labels: tuple[str, ...]) -> NDArray[np.float32]:
    """(N, L) float32 from the ``label:NAME`` columns; a null counts as unknown (NaN)."""
    if not labels:
        return np.zeros((table.height, 0), np.float32)
    columns = [pl.col(f"label:{name}").cast(pl.Float32).fill_null(float("nan")) for name in labels]
    return np.ascontiguousarray(table.select(columns).to_numpy().astype(np.float32, copy=False))


def is_prepared(folder: str | Path) -> bool:
    """Whether a folder holds a prepared cohort.

    Examples:
        >>> from cxr_data import is_prepared
        >>> is_prepared(".")
        False
    """
    return (Path(folder) / ABOUT).is_file()


def save(cohort: Cohort, folder: str | Path) -> None:
    """Write a cohort as a folder, whole or not at all.

    Args:
        cohort: What to write.
        folder: New or empty folder; ``cohort.parquet``, ``pixels.npy``, ``cohort.json`` and, where there are
            masks, ``masks.npy`` go there.

    Raises:
        BadInput: The folder holds something already, cannot be written, or the disk is too full.

    Examples:
        >>> from cxr_data import is_prepared, open_cohort, save
        >>> save(open_cohort("phantom:30", pixel_size=32, show=False), "cohort")
        >>> is_prepared("cohort")
        True
    """
    with new_folder(folder) as beside:
        _save_pixels(cohort.pixels, beside / "pixels.npy")
        if cohort.masks is not None:
            _save_masks(cohort.masks, beside / "masks.npy")
        write_tables(cohort, beside)


def write_tables(cohort: Cohort, folder: Path, **extra: Any) -> None:
    """Write everything but the pixels; ``extra`` goes into ``cohort.json`` too.

    ``cohort.json`` comes last: a folder that has it is whole.
    """
    cohort.table.write_parquet(folder / "cohort.parquet")
    write_json(folder / ABOUT, about_json(cohort, **extra))


def about_json(cohort: Cohort, **extra: Any) -> dict[str, Any]:
    """Content of ``cohort.json``."""
    return {
        "schema": SCHEMA,
        **cohort.describe(),
        "source": cohort.source,
        "notes": list(cohort.notes),
        "broken": [{"file": file, "reason": reason} for file, reason in cohort.broken],
        **extra,
    }


def about(folder: str | Path) -> Mapping[str, Any]:
    """``cohort.json`` of a prepared cohort.

    Raises:
        BadInput: There is none, it is damaged, or it is of a newer schema.
    """
    path = Path(folder) / ABOUT
    with readable(folder):
        return parsed_about(path.read_bytes(), path)


def parsed_about(content: bytes, path: str | Path) -> dict[str, Any]:
    """``cohort.json`` from its bytes; ``path`` is named in the error about a newer schema."""
    parsed = json.loads(content)
    schema = int(parsed["schema"])
    if schema > SCHEMA:
        raise BadInput(f"a cohort of schema {SCHEMA} or older", f"schema {schema}", where=path, do="update cxr-data")
    return parsed


def note_size(folder: Path, size: int | None) -> None:
    """Write into ``cohort.json`` the edge of the network input that a prepared cohort is for, unless it says so."""
    stored = about(folder)
    if size is not None and stored.get("size") != size:
        write_json(folder / ABOUT, {**stored, "size": size})


def noted_size(stored: Mapping[str, Any]) -> int:
    """Edge of the network input that a cohort is for: as it was prepared for, else by the edge of its images."""
    return int(stored.get("size") or size_for(stored["pixel_size"]))


def load(folder: str | Path) -> Cohort:
    """Open a prepared cohort; pixels and masks stay on disk as memory maps.

    Args:
        folder: Written by :func:`save` or ``cxr-data prepare``.

    Raises:
        BadInput: No prepared cohort, or a damaged one.

    Examples:
        >>> from cxr_data import load, open_cohort, save
        >>> cohort = open_cohort("phantom:30", pixel_size=32, show=False)
        >>> save(cohort, "cohort")
        >>> load("cohort").fingerprint == cohort.fingerprint
        True
    """
    folder = Path(folder)
    stored = about(folder)
    with readable(folder):
        table = pl.read_parquet(folder / "cohort.parquet")
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        masks = None
        if (folder / "masks.npy").exists():
            masks = np.load(folder / "masks.npy", mmap_mode="r", allow_pickle=False)
        return assembled(stored, table, pixels, masks)


def assembled(
    stored: Mapping[str, Any], table: pl.DataFrame, pixels: NDArray[np.uint8], masks: NDArray[np.uint8] | None = None
) -> Cohort:
    """A cohort from its parts as they are stored.

    Args:
        stored: ``cohort.json``.
        table: ``cohort.parquet``.
        pixels: (N, P, P) images.
        masks: (N, L, P, P) lesion masks, or None.

    Raises:
        KeyError, ValueError: Parts are missing, or do not belong together.
    """
    if "projection" not in table.columns:  # as cohorts were written before
        table = table.rename({"view": "projection"}, strict=False)
    cohort = Cohort(
        name=stored["name"],
        task=stored["task"],
        labels=tuple(stored["labels"]),
        table=table,
        pixels=pixels,
        pixel_mapping=stored["pixel_mapping"],
        source=stored["source"],
        fingerprint=stored["fingerprint"],
        notes=tuple(stored["notes"]),
        masks=masks,
        broken=tuple((entry["file"], entry["reason"]) for entry in stored["broken"]),
        parts=tuple(stored.get("parts", ())),
    )
    missing = {"image", "patient", "split", *(f"label:{name}" for name in cohort.labels)} - set(table.columns)
    if missing:
        raise ValueError(f"cohort.parquet has no column {', '.join(sorted(missing))}")
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or len(pixels) != table.height:
        raise ValueError(f"pixels.npy is {pixels.dtype} {pixels.shape}, cohort.parquet has {table.height} rows")
    return cohort


@contextmanager
def readable(folder: str | Path, do: str = "remove the folder and prepare the cohort again") -> Iterator[None]:
    """Turn what reading a damaged or absent cohort raises into `BadInput`; ``do`` is what it advises if damaged."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadInput(
            "a prepared cohort (cohort.json, cohort.parquet, pixels.npy)",
            f"no {Path(error.filename).name}",
            where=folder,
            do="make one with `cxr-data prepare`",
        ) from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise BadInput(
            "a whole prepared cohort",
            f"a damaged one: {error}",
            where=folder,
            do=do,
        ) from error


def _save_pixels(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write pixels block by block: they may be more than memory holds."""
    refuse_small_disk(path.parent, math.prod(pixels.shape) * pixels.dtype.itemsize)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=pixels.dtype, shape=pixels.shape)
    for start in range(0, len(pixels), 256):
        file[start : start + 256] = pixels[start : start + 256]
    file.flush()


def _save_masks(masks: NDArray[np.uint8], path: Path) -> None:
    """Write masks so that empty ones take no disk space: what is never written is a hole in the file."""
    drawn = [of_image.reshape(len(of_image), -1).any(axis=1) for of_image in masks]
    refuse_small_disk(path.parent, sum(int(labels.sum()) for labels in drawn) * math.prod(masks.shape[2:]))
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=masks.shape)
    for row, labels in enumerate(drawn):
        for label in np.flatnonzero(labels):
            file[row, label] = masks[row, label]
    file.flush()
