"""From a folder as it was downloaded to a prepared cohort."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.cache import cache_folder, content_key
from cxr_data.cohorts.cohort import Cohort, about, is_prepared, label_matrix, load, write_tables
from cxr_data.cohorts.digests import fingerprint, pixel_digests
from cxr_data.errors import BadInput
from cxr_data.folders import existing_folder, locked, refuse_full, take_name
from cxr_data.images.read import array_digest, check_bits, check_mapping, check_pixel_size, full_digest
from cxr_data.machine import usable_cores
from cxr_data.preparation import splits
from cxr_data.preparation.decoding import decode_once, faint_notes, forget_journal, keep_rows, too_many
from cxr_data.preparation.image_files import counted
from cxr_data.preparation.selection import Selection, select
from cxr_data.readers import Listing, read, recognise


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
    bits: int = 8,
    resplit: tuple[str, float] | None = None,
) -> Cohort:
    """Read a data set once: list, decode, check, split by patient, write as a cohort folder.

    The same call again, also in another process at the same time or after a kill, ends with the same bytes;
    what is finished is only opened.

    Args:
        source: Folder of the data set.
        out: Folder to write; by default one in the cache, keyed by the content of ``source`` and the options.
        pixel_size: Edge of the stored images, pixels.
        reader: A key of :data:`cxr_data.readers.READERS`, or "auto".
        aspect: See :func:`cxr_data.images.read.read_image`.
        window: Likewise.
        max_bad: Share of broken images that is tolerated, in [0, 1]; any share above 0 allows one.
        seed: Fixes the split where the data set has none, or no sufficient validation part.
        show: Whether to show progress.
        selection: Which views and labels are used, and what becomes of uncertain ones; by default what is usual.
        bits: Bits per stored pixel, 8 or 16.
        resplit: Ignore the data set's own split: (by, test_share) of :func:`cxr_data.preparation.splits.redraw`.

    Returns:
        The cohort, its pixels as a memory map.

    Raises:
        BadInput: What is wrong with the source, the options, or the place to write.

    >>> import pathlib, cv2, numpy
    >>> from cxr_data import prepare
    >>> for number in range(20):
    ...     file = pathlib.Path("scans", ("NORMAL", "ILL")[number % 2], f"patient{number:02}_1.png")
    ...     file.parent.mkdir(parents=True, exist_ok=True)
    ...     _ = cv2.imwrite(str(file), numpy.random.default_rng(number).integers(0, 256, (40, 40), numpy.uint8))
    >>> cohort = prepare("scans", "cohort", pixel_size=32, show=False)
    >>> cohort.labels, cohort.pixels.shape
    (('NORMAL', 'ILL'), (20, 32, 32))
    """
    settings = plan(
        source,
        pixel_size=pixel_size,
        reader=reader,
        aspect=aspect,
        window=window,
        max_bad=max_bad,
        seed=seed,
        bits=bits,
        selection=selection,
        resplit=resplit,
    )
    cached = cache_folder() / "cohorts" / f"{settings.root.name}-{settings.identity[:20]}"
    out = outside(settings, cached if out is None else out)

    def make(beside: Path) -> None:
        listing, selected = listed(settings)
        broken = decode(settings, listing, slice(None), beside, identity=settings.identity, show=show)
        finish(settings, listing, selected, beside, broken)

    made_once(out, settings.identity, make)
    return load(out)


@dataclass(frozen=True)
class Plan:
    """What to prepare and how, settled; the fields are those of :func:`prepare`.

    Attributes:
        identity: Key of the content of ``root`` and of all that decides the result.
    """

    root: Path
    reader: str
    pixel_size: int
    aspect: str
    window: str
    max_bad: float
    seed: int
    bits: int
    selection: Selection
    resplit: tuple[str, float] | None
    identity: str

    @property
    def mapping(self) -> dict[str, str]:
        """How files become pixels."""
        return {"aspect": self.aspect, "window": self.window}


def plan(
    source: str | Path,
    *,
    pixel_size: int,
    reader: str = "auto",
    aspect: str = "squash",
    window: str = "voi",
    max_bad: float = 0.01,
    seed: int = 0,
    bits: int = 8,
    selection: Selection | None = None,
    resplit: tuple[str, float] | None = None,
) -> Plan:
    """Check the options of :func:`prepare` and find the key of the result.

    Raises:
        BadInput: What is wrong with the source or the options.
    """
    check_pixel_size(pixel_size)
    check_mapping(aspect, window)
    check_bits(bits)
    if not 0 <= max_bad <= 1:
        raise BadInput("a share from 0 to 1", str(max_bad), where="--max_bad", do="0.01 means 1 %")
    root = existing_folder(source)
    reader = recognise(root) if reader == "auto" else reader
    selection = Selection() if selection is None else selection
    options = {"aspect": aspect, "window": window, "pixel_size": pixel_size, "reader": reader, "seed": seed}
    if chosen := selection.options():
        options["selection"] = chosen
    if bits != 8:
        options["bits"] = bits
    if resplit:
        options["resplit"] = list(resplit)
    identity = content_key(root, options)
    return Plan(root, reader, pixel_size, aspect, window, max_bad, seed, bits, selection, resplit, identity)


def outside(settings: Plan, out: str | Path) -> Path:
    """The folder to write, which must not lie in the data set.

    Raises:
        BadInput: It does.
    """
    out = Path(out).expanduser().absolute()
    if Path(os.path.realpath(out)).is_relative_to(settings.root):
        raise BadInput(
            "an output folder outside the data set", str(out), where=settings.root, do="choose another --out"
        )
    return out


def listed(settings: Plan) -> tuple[Listing, dict[str, Any]]:
    """The images as they will lie in the cohort, and what the selection did; the same for the same plan."""
    return select(read(settings.root, settings.reader), settings.selection, settings.root)


def allowed(settings: Plan, listing: Listing) -> int:
    """Broken images that are tolerated while decoding.

    Raises:
        BadInput: What the table names but must not be read is too many already.
    """
    entries = [*(name for name, _ in listing.refused), *listing.table["path"]]
    limit = max(1, int(settings.max_bad * len(entries))) if settings.max_bad else 0
    if len(listing.refused) > limit:
        reasons = {row: reason for row, (_, reason) in enumerate(listing.refused)}
        raise too_many(settings.root, entries, reasons, len(entries), limit)
    return limit - len(listing.refused)


def decode(settings: Plan, listing: Listing, rows: slice, folder: Path, *, identity: str, show: bool) -> dict[int, str]:
    """Decode some rows of a listing into a working folder: their places among these -> why they are broken."""
    return decode_once(
        settings.root,
        listing.table["path"].to_list()[rows],
        folder,
        identity=identity,
        pixel_size=settings.pixel_size,
        max_broken=allowed(settings, listing),
        show=show,
        images=listing.images,
        bits=settings.bits,
        **settings.mapping,
    )


def made_once(out: Path, identity: str, make: Callable[[Path], None]) -> None:
    """Make a cohort folder under a lock, unless it is there; a killed call of the same identity is resumed.

    Args:
        out: Folder to write.
        identity: Of what is made.
        make: Fills the working folder it is given.

    Raises:
        BadInput: From ``make``, or a place that is taken or cannot be written.
    """
    if finished(out, identity):
        return
    beside = out.parent / f".{out.name}.part"
    lock = out.parent / f".{out.name}.lock"
    with locked(lock):
        try:
            if not finished(out, identity):
                refuse_full(out)
                make(beside)
                take_name(beside, out)
        except BadInput:
            shutil.rmtree(beside, ignore_errors=True)
            lock.unlink(missing_ok=True)
            raise
        # Who waits on this lock finds the finished folder, so the name may go.
        lock.unlink(missing_ok=True)


def finished(out: Path, identity: str) -> bool:
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


def finish(settings: Plan, listing: Listing, selected: dict[str, Any], beside: Path, broken: dict[int, str]) -> None:
    """Check what was decoded, split it, and write the tables beside the pixels.

    Args:
        settings: The plan.
        listing: Its images.
        selected: What the selection did, for ``cohort.json``.
        beside: Working folder with the pixels of all images.
        broken: Row -> reason.

    Raises:
        BadInput: No usable image, none of a class, or files that changed meanwhile.
    """
    root, seed = settings.root, settings.seed
    _refuse_changed(settings)
    kept = np.setdiff1d(np.arange(listing.table.height), np.fromiter(broken, np.int64, len(broken)))
    paths = listing.table["path"].to_list()
    set_aside = (*listing.refused, *((paths[row], broken[row]) for row in sorted(broken)))
    rows = listing.table[kept]
    targets = label_matrix(rows, listing.labels)
    _refuse_empty_class(root, listing, targets, set_aside)
    keep_rows(beside, kept)

    pixels = np.load(beside / "pixels.npy", mmap_mode="r", allow_pickle=False)
    digests = pixel_digests(pixels)
    identical = _exact_duplicates(root, listing, rows["path"].to_list(), digests)
    groups = splits.join_groups(rows["patient"].to_list(), identical)
    if settings.resplit:
        by, test_share = settings.resplit
        split, split_notes = splits.redraw(groups, targets, by=by, test_share=test_share, seed=seed)
    else:
        split, split_notes = splits.assign(rows["split"].to_list(), groups, targets, seed)
    notes = [
        *listing.notes,
        *split_notes,
        *_duplicate_notes(identical, targets),
        *_placeholder_notes(rows["patient"]),
        *_missing_classes(listing, split, targets),
        *faint_notes(pixels),
    ]
    if set_aside:
        notes.insert(0, f"{counted(len(set_aside), 'broken image')} set aside; cohort.json names them")

    label_columns = [f"label:{name}" for name in listing.labels]
    extras = [name for name in rows.columns if name not in {"path", "patient", "split", *label_columns}]
    table = rows.select(
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
        pixel_mapping=settings.mapping,
        source=str(root),
        fingerprint=fingerprint(listing.labels, table, digests),
        notes=tuple(notes),
        broken=set_aside,
    )
    extra: dict[str, Any] = {"identity": settings.identity, "reader": settings.reader}
    if selected:
        extra["selection"] = selected
    if settings.bits != 8:
        extra["bits"] = settings.bits
    write_tables(cohort, beside, seed=seed, **extra)
    forget_journal(beside)


def _refuse_changed(settings: Plan) -> None:
    """Refuse to call a cohort by the files that were there before some of them changed."""
    options = {field.name: getattr(settings, field.name) for field in fields(settings)}
    root = options.pop("root")
    if (
        plan(root, **{name: value for name, value in options.items() if name != "identity"}).identity
        != settings.identity
    ):
        expected, do = "files that stay as they are while they are read", "run it again when nothing writes there"
        raise BadInput(expected, "some that came, went or changed", where=root, do=do)


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


def _placeholder_notes(patients: pl.Series) -> list[str]:
    """A note where one patient has far more images than any other."""
    most, second = [*patients.value_counts(sort=True)["count"].head(2), 0][:2]
    if most < max(20, 0.05 * len(patients), 4 * second):
        return []
    return [
        f"{most} of {len(patients)} images are of one patient: if that is no person but a placeholder such as "
        "ANONYMOUS, list the patients in manifest.csv (columns file, patient)"
    ]


def _missing_classes(listing: Listing, split: list[str], targets: NDArray[np.float32]) -> list[str]:
    notes = []
    labels, known = np.array(listing.labels), ~np.isnan(targets)
    told = known.any(axis=0)
    if not told.all():
        names = ", ".join(labels[~told])
        notes.append(f"no image says anything of {names} (blank or uncertain in every row): nothing is learnt of it")
    for name in splits.SPLITS:
        inside = np.array(split) == name
        some, shown = known[inside].any(axis=0), (targets[inside] == 1).any(axis=0)
        for lacking, said in ((told & ~some, "says nothing of"), (some & ~shown, "has no image of")):
            if inside.any() and lacking.any():
                notes.append(f"{name} {said} {', '.join(labels[lacking])}")
    return notes
