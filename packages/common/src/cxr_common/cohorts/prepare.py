"""From a folder as it was downloaded to a prepared cohort."""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_common.cohorts import splits
from cxr_common.cohorts.cache import cache_folder, content_key
from cxr_common.cohorts.cohort import (
    Cohort,
    about,
    fingerprint,
    is_prepared,
    label_matrix,
    load,
    pixel_digests,
    write_tables,
)
from cxr_common.cohorts.folders import existing_folder, locked, refuse_full, take_name
from cxr_common.cohorts.images import array_digest, check_mapping, check_pixel_size, full_digest
from cxr_common.cohorts.pixels import decode_once, forget_journal, keep_rows, usable_cores
from cxr_common.cohorts.readers import Listing, read, recognise
from cxr_common.cohorts.selection import Selection, select
from cxr_common.errors import BadInput


def prepare(
    source: str | Path,
    out: str | Path | None = None,
    *,
    pixel_size: int,
    reader: str = "auto",
    aspect: str = "squash",
    window: str = "voi",
    max_bad: float = 0.01,
    seed: int = 0,
    show: bool = True,
    selection: Selection | None = None,
    resplit: tuple[str, float] | None = None,
) -> Cohort:
    """Read a data set once: list, decode, check, split by patient, write as a cohort folder.

    The same call again, also in another process at the same time or after a kill, ends with the same bytes;
    what is finished is only opened.

    Args:
        source: Folder of the data set.
        out: Folder to write; by default one in the cache, keyed by the content of ``source`` and the options.
        pixel_size: Edge of the stored images, pixels.
        reader: A key of :data:`cxr_common.cohorts.readers.READERS`, or "auto".
        aspect: See :func:`cxr_common.cohorts.images.read_image`.
        window: Likewise.
        max_bad: Share of broken images that is put up with, in [0, 1]; any share above 0 allows one.
        seed: Fixes the split where the data set has none, or no sufficient validation part.
        show: Whether to show progress.
        selection: Which views and labels are used, and what becomes of uncertain ones; by default what is usual.
        resplit: Ignore the data set's own split: (by, test_share) of :func:`cxr_common.cohorts.splits.redraw`.

    Returns:
        The cohort, its pixels as a memory map.

    Raises:
        BadInput: What is wrong with the source, the options, or the place to write.
    """
    check_pixel_size(pixel_size)
    check_mapping(aspect, window)
    if not 0 <= max_bad <= 1:
        raise BadInput("a share from 0 to 1", str(max_bad), where="--max_bad", do="0.01 means 1 %")
    root = existing_folder(source)
    reader = recognise(root) if reader == "auto" else reader
    mapping = {"aspect": aspect, "window": window}
    selection = Selection() if selection is None else selection
    options = {**mapping, "pixel_size": pixel_size, "reader": reader, "seed": seed}
    if chosen := selection.options():
        options["selection"] = chosen
    if resplit:
        options["resplit"] = list(resplit)
    identity = content_key(root, options)
    cached = cache_folder() / "cohorts" / f"{root.name}-{identity[:20]}"
    out = cached if out is None else Path(out).expanduser().absolute()
    if out.resolve().is_relative_to(root):
        raise BadInput("an output folder outside the data set", str(out), where=root, do="choose another --out")

    if _finished(out, identity):
        return load(out)
    beside = out.parent / f".{out.name}.part"
    lock = out.parent / f".{out.name}.lock"
    with locked(lock):
        try:
            if not _finished(out, identity):
                refuse_full(out)
                listing, selected = select(read(root, reader), selection, root)
                extra = {"identity": identity, "reader": reader, **({"selection": selected} if selected else {})}
                broken = decode_once(
                    root,
                    listing.table["path"].to_list(),
                    beside,
                    identity=identity,
                    pixel_size=pixel_size,
                    max_broken=max(1, int(max_bad * listing.table.height)) if max_bad else 0,
                    show=show,
                    images=listing.images,
                    **mapping,
                )
                _finish(root, listing, beside, broken, mapping, seed, resplit, **extra)
                take_name(beside, out)
        except BadInput:
            shutil.rmtree(beside, ignore_errors=True)
            lock.unlink(missing_ok=True)
            raise
        # Who waits on this lock finds the finished folder, so the name may go.
        lock.unlink(missing_ok=True)
    return load(out)


def _finished(out: Path, identity: str) -> bool:
    """Whether a folder holds this very cohort; another cohort there is refused."""
    if not is_prepared(out):
        return False
    if about(out).get("identity") == identity:
        return True
    raise BadInput(
        "a new folder, or one prepared from the same files with the same options",
        "a cohort of other files or options",
        where=out,
        do="choose another --out, or remove the folder",
    )


def _finish(
    root: Path,
    listing: Listing,
    beside: Path,
    broken: dict[int, str],
    mapping: dict[str, Any],
    seed: int,
    resplit: tuple[str, float] | None,
    **extra: Any,
) -> None:
    """Check what was decoded, split it, and write the tables beside the pixels."""
    kept = np.setdiff1d(np.arange(listing.table.height), np.fromiter(broken, np.int64, len(broken)))
    paths = listing.table["path"].to_list()
    set_aside = tuple((paths[row], broken[row]) for row in sorted(broken))
    listed = listing.table[kept]
    targets = label_matrix(listed, listing.labels)
    _refuse_empty_class(root, listing, targets, set_aside)
    keep_rows(beside, kept)

    pixels = np.load(beside / "pixels.npy", mmap_mode="r", allow_pickle=False)
    digests = pixel_digests(pixels)
    identical = _exact_duplicates(root, listing, listed["path"].to_list(), digests)
    groups = splits.join_groups(listed["patient"].to_list(), identical)
    if resplit:
        split, split_notes = splits.redraw(groups, targets, by=resplit[0], test_share=resplit[1], seed=seed)
    else:
        split, split_notes = splits.assign(listed["split"].to_list(), groups, targets, seed)
    notes = [
        *listing.notes,
        *split_notes,
        *_duplicate_notes(identical, targets),
        *_missing_classes(listing, split, targets),
    ]
    if set_aside:
        notes.insert(0, f"{len(set_aside)} broken images were set aside; cohort.json names them")

    label_columns = [f"label:{name}" for name in listing.labels]
    extras = [name for name in listed.columns if name not in {"path", "patient", "split", *label_columns}]
    table = listed.select(
        pl.col("path").alias("image"),
        "patient",
        pl.Series("split", split, pl.String),
        pl.Series("group", groups),
        *label_columns,
        *extras,
    )
    cohort = Cohort(
        name=listing.name,
        task=listing.task,
        labels=listing.labels,
        table=table,
        pixels=pixels,
        pixel_mapping=mapping,
        source=str(root),
        fingerprint=fingerprint(listing.labels, table, digests),
        notes=tuple(notes),
        broken=set_aside,
    )
    write_tables(cohort, beside, seed=seed, **extra)
    forget_journal(beside)


def _refuse_empty_class(
    root: Path,
    listing: Listing,
    targets: NDArray[np.float32],
    set_aside: tuple[tuple[str, str], ...],
) -> None:
    if not len(targets):
        named = "; ".join(f"{file}: {reason}" for file, reason in set_aside[:5])
        raise BadInput("usable images", f"none ({named})", where=root)
    if listing.task != "multiclass":
        return
    for label, count in zip(listing.labels, np.nansum(targets, axis=0), strict=True):
        if count == 0:
            named = "; ".join(f"{file}: {reason}" for file, reason in set_aside[:5])
            raise BadInput(f"usable images of every class, also of {label}", f"none ({named})", where=root)


def _exact_duplicates(root: Path, listing: Listing, paths: list[str], stored: list[bytes]) -> list[bytes | None]:
    """(N,) digest at full size of the images whose stored pixels occur more than once, else None.

    Full size decides, so that the same data set is split alike at every pixel size: detail that tells two
    images apart may be lost in a small one.
    """
    counts = Counter(stored)
    candidates = [row for row, digest in enumerate(stored) if counts[digest] > 1]
    found: list[bytes | None] = [None] * len(stored)
    images = listing.images

    def digest_of(row: int) -> bytes:
        return full_digest(root / paths[row]) if images is None else array_digest(images(paths[row]))

    with ThreadPoolExecutor(usable_cores()) as pool:
        for row, digest in zip(candidates, pool.map(digest_of, candidates), strict=True):
            found[row] = digest
    return found


def _duplicate_notes(identical: list[bytes | None], targets: NDArray[np.float32]) -> list[str]:
    """A note on images that are identical pixel by pixel, and on those among them whose labels differ."""
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(identical):
        if digest is not None:
            groups.setdefault(digest, []).append(row)
    repeated = [rows for rows in groups.values() if len(rows) > 1]
    if not repeated:
        return []
    images = sum(map(len, repeated))
    note = f"{images} images in {len(repeated)} groups are identical: each group stays together when splitting"
    at_odds = sum(
        bool((np.nan_to_num(targets[rows], nan=-1) != np.nan_to_num(targets[rows[0]], nan=-1)).any())
        for rows in repeated
    )
    return [note, f"the labels differ within {at_odds} of these groups"] if at_odds else [note]


def _missing_classes(listing: Listing, split: list[str], targets: NDArray[np.float32]) -> list[str]:
    notes = []
    for name in splits.SPLITS:
        inside = np.array(split) == name
        lacking = [
            label for i, label in enumerate(listing.labels) if inside.any() and not (targets[inside, i] == 1).any()
        ]
        if lacking:
            notes.append(f"{name} has no image of {', '.join(lacking)}")
    return notes
