"""Open any kind of data by name: the phantom, a prepared cohort, or a data set as it was downloaded."""

import difflib
import functools
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.cache import cache_folder, option_key
from cxr_data.cohorts.chunks import about_chunks, chunks_at, load_chunks, written_folds
from cxr_data.cohorts.cohort import Cohort, Task, about, is_prepared, load, noted_size, readable, save
from cxr_data.cohorts.digests import fingerprint, pixel_digests
from cxr_data.cohorts.joined import join
from cxr_data.cohorts.pixel_rows import PixelRows
from cxr_data.cohorts.remote import is_url
from cxr_data.errors import BadInput
from cxr_data.folders import existing_folder, locked
from cxr_data.images.read import check_pixel_size
from cxr_data.machine import is_main, memory
from cxr_data.preparation import splits
from cxr_data.preparation.folds import with_fold
from cxr_data.preparation.prepare import prepare
from cxr_data.preparation.selection import Selection

PHANTOM_IMAGES = 2000
PHANTOM_SIZE, FOLDER_SIZE = 64, 224
"""Edge of the network input for data without one of its own: what two cores can train, what networks are made for."""
DEFAULT_PIXEL_SIZE = 256
"""Edge of the stored images where none is asked for: that of a network input of 224 pixels, with space for crops."""
_PHANTOM_CODE = tuple(f"synthetic/{name}.py" for name in ("phantom", "body", "drawing", "findings"))
_FOLD = re.compile(r"(.+)@(\d+)/(\d+)")
_PHANTOM = re.compile(r"phantom(-multiclass)?(?::(\d+))?")


def is_phantom(data: str) -> bool:
    """Whether a data name means the synthetic cohort."""
    return bool(_PHANTOM.fullmatch(data))


def default_size(data: str | Path | Sequence[str | Path]) -> int:
    """Edge of the network input that training takes where none is asked for.

    Returns:
        Of a prepared cohort the size it was prepared for, at least 32; 64 of the phantom; 224 of a folder as it was
        downloaded; of several the smallest.

    Raises:
        BadInput: Nothing of that name.
    """
    if not isinstance(data, str | Path):
        return min((default_size(name) for name in data), default=FOLDER_SIZE)
    name = str(data)
    if (fold := _FOLD.fullmatch(name)) and not Path(name).expanduser().exists():
        name = fold[1]
    if is_phantom(name):
        return PHANTOM_SIZE
    folder = Path(name).expanduser()
    if url := chunks_at(name):
        stored = about_chunks(url)
    elif is_prepared(folder):
        stored = about(folder)
    else:
        return FOLDER_SIZE
    with readable(name):
        return max(noted_size(stored), 32)


def open_cohort(
    data: str | Path | Sequence[str | Path],
    *,
    pixel_size: int | None = None,
    seed: int = 0,
    show: bool = True,
    note_smaller: bool = True,
) -> Cohort:
    """Open whatever ``data`` names.

    Args:
        data: "phantom" or "phantom-multiclass" (2,000 synthetic radiographs), "phantom:500" (500 of
            them), a folder written by ``cxr-data prepare``, or a folder as it was downloaded, which is
            prepared into the cache on first use. "FOLDER#A,B,C" takes these labels of such a folder, as
            ``cxr-data prepare --labels`` does. "NAME@2/5" has fold 2 of 5 as its validation part. A URL is that
            of a cohort in chunks, see :mod:`cxr_data.cohorts.chunks`. Several are read as one, see
            :func:`cxr_data.cohorts.joined.join`.
        pixel_size: Edge of the stored images; None is that of a prepared folder, and 256 of all other data. A
            prepared folder keeps its own.
        seed: Fixes the phantom, and the split of data without one.
        show: Whether to show progress while preparing.
        note_smaller: Whether a note says so where a prepared folder's edge is smaller.

    Returns:
        The cohort, its pixels as a memory map.

    Raises:
        BadInput: Nothing of that name, or what is wrong with it.

    >>> from cxr_data import open_cohort
    >>> cohort = open_cohort("phantom:40", pixel_size=32, show=False)
    >>> cohort.pixels[cohort.rows("test")].shape[1:], cohort.targets.shape == (40, len(cohort.labels))
    ((32, 32), True)
    """
    if pixel_size is None:
        note_smaller, pixel_size = False, DEFAULT_PIXEL_SIZE
    check_pixel_size(pixel_size)
    again = functools.partial(open_cohort, pixel_size=pixel_size, seed=seed, show=show, note_smaller=note_smaller)
    if not isinstance(data, str | Path):
        if not data:
            raise BadInput("one cohort or several", "none")
        return join([again(name) for name in data])
    data = str(data)
    if (fold := _FOLD.fullmatch(data)) and not Path(data).expanduser().exists():
        cohort, folds = again(fold[1]), int(fold[3])
        if url := chunks_at(fold[1]):
            return with_fold(cohort, int(fold[2]), folds, written=written_folds(url, folds))
        return with_fold(cohort, int(fold[2]), folds, folder=Path(fold[1]).expanduser())
    if named := _PHANTOM.fullmatch(data):
        task = "multiclass" if named[1] else "multilabel"
        return _phantom(task, int(named[2] or PHANTOM_IMAGES), pixel_size, seed, show)
    if url := chunks_at(data):
        cohort = load_chunks(url)
    else:
        folder, selection = _folder_named(data)
        if not is_prepared(folder):
            return prepare(folder, pixel_size=pixel_size, seed=seed, show=show, selection=selection)
        cohort = load(folder)
    if cohort.pixels.dtype != np.uint8:  # everything that reads pixels for a network takes bytes
        cohort = replace(cohort, pixels=cast(NDArray[np.uint8], PixelRows([cohort.pixels])))
    if note_smaller and cohort.pixel_size < pixel_size:
        note = (
            f"stored at {cohort.pixel_size} pixels where {pixel_size} were asked for: views are enlarged; "
            "prepare again with a larger --size for full detail"
        )
        cohort = replace(cohort, notes=(*cohort.notes, note))
    return cohort


def _folder_named(data: str) -> tuple[Path, Selection | None]:
    """The folder that "FOLDER" or "FOLDER#A,B,C" names, and the labels to take of it.

    Raises:
        BadInput: There is none, or labels are asked of a prepared one.
    """
    if Path(data).expanduser().exists():
        return existing_folder(data), None
    if data.startswith("phantom") or difflib.get_close_matches(data, ["phantom", "phantom-multiclass"], cutoff=0.7):
        raise BadInput("phantom, phantom:500, phantom-multiclass or a folder", repr(data), do="check the spelling")
    if "#" not in data:
        return existing_folder(data), None
    data, _, labels = data.rpartition("#")
    folder = existing_folder(data)
    if is_prepared(folder):
        expected = "a folder as it was downloaded before #"
        raise BadInput(expected, "a prepared cohort", where=data, do="prepare it with cxr-data prepare --labels")
    return folder, Selection(tuple(name.strip() for name in labels.split(",") if name.strip()))


def print_notes(cohort: Cohort, data: str | Path | Sequence[str | Path]) -> None:
    """Print what preparing a folder or joining cohorts found, in the first of several processes.

    A prepared cohort has said so when it was prepared, and ``cxr-data show`` repeats it.
    """
    one = data if isinstance(data, str | Path) else data[0] if len(data) == 1 else None
    known = one is not None and (is_phantom(str(one)) or is_url(one) or is_prepared(Path(one).expanduser()))
    if not known and is_main():
        for note in cohort.notes:
            print(f"note: {note}", flush=True)
        if cohort.broken:
            print(f"note: {len(cohort.broken)} unreadable files were set aside", flush=True)


def _phantom(task: Task, images: int, pixel_size: int, seed: int, show: bool) -> Cohort:
    """The synthetic cohort, generated once into the cache."""
    from cxr_data.synthetic.phantom import CLASSES, phantom

    if images < 20:
        raise BadInput("at least 20 phantom images, so that each split gets some", str(images))
    held = memory() // ((1 + len(CLASSES)) * pixel_size**2)  # they are drawn in memory, each with its masks
    if images > held:
        do = "ask for fewer, or for a smaller --size"
        raise BadInput(f"at most {held:,} phantom images of {pixel_size} pixels in this memory", f"{images:,}", do=do)
    options: dict[str, Any] = {"task": task, "images": images, "pixel_size": pixel_size, "seed": seed}
    # The generator's own code is part of the key: a changed phantom is another cohort.
    here = Path(__file__).parent
    code = [(here / name).read_text("utf-8") for name in _PHANTOM_CODE]
    name = "phantom" if task == "multilabel" else "phantom-multiclass"
    folder = cache_folder() / "cohorts" / f"{name}-{images}-{option_key({**options, 'code': code})[:20]}"
    if not is_prepared(folder):
        lock = folder.parent / f".{folder.name}.lock"
        with locked(lock):
            if not is_prepared(folder):
                for killed in (folder, *folder.parent.glob(f".{folder.name}.*.tmp")):
                    shutil.rmtree(killed, ignore_errors=True)
                if show:
                    print(f"drawing {images:,} synthetic radiographs of {pixel_size} pixels, once", flush=True)
                made = phantom(images, size=pixel_size, seed=seed, task=task)
                save(_as_cohort(name, task, made, options), folder)
            lock.unlink(missing_ok=True)
    return load(folder)


def _as_cohort(name: str, task: Task, made: dict[str, Any], options: dict[str, Any]) -> Cohort:
    labels = tuple(made["labels"])
    targets = np.asarray(made["targets"], np.float32)
    digests = pixel_digests(made["pixels"])
    groups = splits.join_groups(made["patient"], [None] * len(digests))
    split, notes = splits.assign([None] * len(groups), groups, targets, options["seed"])
    table = pl.DataFrame(
        {
            "image": [f"{name}-{row:06d}" for row in range(len(groups))],
            "patient": made["patient"],
            "split": split,
            "group": groups,
            **{f"label:{label}": targets[:, i] for i, label in enumerate(labels)},
            **made["extras"],
        }
    )
    return Cohort(
        name=name,
        task=task,
        labels=labels,
        table=table,
        pixels=made["pixels"],
        pixel_mapping={"aspect": "squash", "window": "full"},
        source=f"{name}:{options['images']} seed {options['seed']}",
        fingerprint=fingerprint(labels, table, digests),
        notes=("synthetic radiographs: no real patient, no clinical meaning", *notes),
        masks=made["masks"],
    )
