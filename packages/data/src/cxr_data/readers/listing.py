"""What a reader returns, and functions that several readers need to make it."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.cohort import Task
from cxr_data.errors import BadInput
from cxr_data.preparation.image_files import find_images, is_image, spelt
from cxr_data.spelling import sounds_healthy

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
MAX_CLASSES = 100
"""Most exclusive classes that are taken for classes."""
UNCERTAIN, UNMENTIONED = -1.0, -2.0
"""Label values a reader may give beside 0, 1 and NaN: a doubtful finding, and one the report is silent on."""


@dataclass(frozen=True)
class Listing:
    """The images of a data set before any of them is decoded.

    Attributes:
        name: What the data set is called.
        table: One row per image: ``path`` (below the folder, forward slashes), ``patient``, ``split``
            ("train", "val", "test"; null everywhere when the data set has no usable split), ``label:NAME``
            columns, extras. A label is 0, 1 or NaN; where a data set has them also UNCERTAIN, UNMENTIONED, or
            the share of readers who said yes, in (0, 1): :func:`cxr_data.preparation.selection.select` settles
            these. The table may offer more ``label:`` columns than ``labels`` names.
        labels: Label names in order.
        task: "multilabel", "multiclass", or None without labels.
        notes: What was found, for the user.
        projection: Taken unless the user chooses: "frontal" where the data set says which images are, or "all".
        refused: (entry, reason) of what the data set's table names but must not be read; counted as broken.
        images: From ``path`` to the gray image (H, W), uint8 or uint16, for a data set whose images are arrays;
            None where ``path`` is a file.
    """

    name: str
    table: pl.DataFrame
    labels: tuple[str, ...]
    task: Task | None
    notes: tuple[str, ...] = ()
    projection: str = "all"
    images: Callable[[str], NDArray[Any]] | None = None
    refused: tuple[tuple[str, str], ...] = ()


def image_files(root: Path) -> list[str]:
    """Relative paths of the image files below a folder, sorted: the first part of :func:`named_images`."""
    return named_images(root)[0]


def named_images(root: Path) -> tuple[list[str], tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Images below a folder that a table can name, (name, reason) of those it cannot, and notes for the user.

    Raises:
        BadInput: No image at all, or none that a table can name.
    """
    there = find_images(root)
    images, refused = [], []
    for path in there.paths:
        name = spelt(path)
        if name == path:
            images.append(name)
        else:
            refused.append((name, "a file name that is not UTF-8"))
    if not images:
        raise BadInput("images with UTF-8 file names", refused[0][0], where=root, do="rename them")
    return images, tuple(refused), there.notes


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: healthy-sounding first, so that of two ``labels[1]`` is the positive."""
    return tuple(sorted(names, key=lambda name: (not sounds_healthy(name), name)))


def one_hot(classes: Sequence[str], labels: Sequence[str]) -> list[pl.Series]:
    """``label:NAME`` columns for exclusive classes."""
    column = pl.Series(classes, dtype=pl.String)
    return [(column == label).cast(pl.Float32).alias(f"label:{label}") for label in labels]


def subfolders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; without hidden ones and what macOS leaves in archives."""
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if _visible(entry.name) and os.path.isdir(entry.path))


def is_flat(path: Path) -> bool:
    """Whether a folder holds images and no folders."""
    if subfolders(path):
        return False
    with os.scandir(path) as entries:
        return any(is_image(Path(entry.path)) for entry in entries if _visible(entry.name))


def _visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))
