"""MedMNIST v2 (Yang et al., Scientific Data 2023): gray images as arrays in one ``.npz`` file.

``{train,val,test}_images`` (N, S, S) uint8 and ``{train,val,test}_labels`` (N, 1) classes or (N, L) of 0 and 1.
The sets of chest radiographs are PneumoniaMNIST and ChestMNIST.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.errors import BadInput
from cxr_data.preparation.splits import SPLITS
from cxr_data.readers import chestxray14
from cxr_data.readers.listing import Listing, one_hot

LABELS = {"pneumoniamnist": ("normal", "pneumonia"), "chestmnist": chestxray14.LABELS}
_KEYS = [f"{split}_{what}" for split in SPLITS for what in ("images", "labels")]


def looks_like(path: Path) -> bool:
    """Whether a ``.npz`` file with MedMNIST's six arrays lies in the folder."""
    return bool(_files(path))


def read(path: Path) -> Listing:
    """List the data set.

    Args:
        path: Folder with one such file.

    Returns:
        Classes, or labels side by side; the official split; one patient per image (the release does not say).
        A ``path`` is ``pneumoniamnist_28/train/000017``.

    Raises:
        BadInput: No file or several, damaged arrays, or images that are not gray.
    """
    files = _files(path)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise BadInput(f"one .npz file with {', '.join(_KEYS)}", found, where=path, do="one file per folder")
    file = files[0]
    arrays = _load(file)
    labels = {split: arrays[f"{split}_labels"] for split in SPLITS}
    paths = [f"{file.stem}/{split}/{i:06d}" for split in SPLITS for i in range(len(labels[split]))]
    table = pl.DataFrame(
        {
            "path": paths,
            "patient": paths,
            "split": [split for split in SPLITS for _ in range(len(labels[split]))],
        }
    )
    values = np.concatenate([labels[split] for split in SPLITS]).astype(np.int64)
    name = re.split(r"[_.]", file.stem)[0].lower()
    if values.shape[1] > 1:
        names, task = _names(name, values.shape[1], file), "multilabel"
        if not np.isin(values, (0, 1)).all():
            raise BadInput("labels of 0 and 1", f"{values.min()} to {values.max()}", where=file)
        columns = [pl.Series(f"label:{n}", values[:, i].astype(np.float32)) for i, n in enumerate(names)]
    else:
        names, task = _names(name, int(values.max()) + 1, file), "multiclass"
        columns = one_hot([names[value] for value in values[:, 0]], names)
    notes = ("the release does not say which images are of one patient: each counts as one of its own",)

    def image(of: str) -> NDArray[Any]:
        _, split, number = of.rsplit("/", 2)
        return arrays[f"{split}_images"][int(number)]

    return Listing(name, table.with_columns(columns), names, task, notes, images=image)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.npz") if file.is_file() and set(_members(file)) >= set(_KEYS))


def _members(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return []


def _load(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in _KEYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput("a whole .npz file of plain arrays", str(error), where=file) from error
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.ndim != 3 or min(images.shape[1:]) < 16:
            raise BadInput(
                "gray images (N, S, S) uint8 of at least 16 pixels", f"{images.dtype} {images.shape}", where=file
            )
        whole = labels.ndim == 2 and labels.dtype.kind in "iub" and labels.shape[0] == len(images) and labels.size
        if not whole or labels.shape[1] != arrays["train_labels"].shape[1] or labels.min() < 0:
            raise BadInput(
                f"labels ({len(images)}, L), whole numbers from 0", f"{labels.dtype} {labels.shape}", where=file
            )
    return arrays


def _names(name: str, count: int, file: Path) -> tuple[str, ...]:
    """Label names: the official ones of the chest sets, else numbers."""
    names = LABELS.get(name, tuple(str(i) for i in range(count)))
    if len(names) != count:
        raise BadInput(f"{len(names)} labels", str(count), where=file)
    return names
