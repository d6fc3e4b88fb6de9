"""Prepare a large release on many machines: each decodes a part, one merges them to the bytes of a single run."""

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_data.cohorts.cohort import Cohort, is_prepared, load, note_size
from cxr_data.errors import BadInput
from cxr_data.files import not_writable, write_json
from cxr_data.folders import locked, refuse_full, take_name
from cxr_data.preparation.decoding import CHUNK, create_pixels, forget_journal, too_many
from cxr_data.preparation.prepare import Plan, allowed, decode, finish, listed, made_once, outside, plan
from cxr_data.preparation.selection import Selection

_ABOUT = "shard.json"


def parse_shard(text: str) -> tuple[int, int]:
    """(number, of how many) from "3/16"; the first is 1.

    Raises:
        BadInput: Anything else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise BadInput("I/N with I from 1 to N", text, where="--shard", do="--shard 1/16 is the first of 16")
    return int(match[1]), int(match[2])


def shard_folder(out: str | Path, number: int, count: int) -> Path:
    """Where a shard of a cohort goes: ``OUT.shard-3-of-16``, beside it."""
    out = Path(out).expanduser().absolute()
    return out.parent / f"{out.name}.shard-{number}-of-{count}"


def prepare_shard(settings: Plan, out: str | Path, number: int, count: int, *, show: bool = True) -> Path:
    """Decode one of ``count`` equal runs of images into a folder, which is returned; resumes as :func:`prepare` does.

    Args:
        settings: The same for all shards.
        out: The cohort's folder, which :func:`merge` makes.
        number: 1 to ``count``.
        count: How many there are.
        show: Whether to show progress.

    Raises:
        BadInput: Too many broken images, more shards than images, or no disk space or permission.
    """
    folder = outside(settings, shard_folder(out, number, count))
    working = folder.parent / f".{folder.name}.part"
    lock = folder.parent / f".{folder.name}.lock"
    with locked(lock):
        if not ((folder / _ABOUT).is_file() and _about(folder)["identity"] == settings.identity):
            refuse_full(folder)
            listing, _ = listed(settings)
            images = listing.table.height
            if count > images:
                raise BadInput(f"at most {images} shards, one an image", str(count), where="--shard")
            start, stop = _rows(images, number, count)
            identity = f"{settings.identity} {number}/{count}"
            broken = decode(settings, listing, slice(start, stop), working, identity=identity, show=show)
            about = {
                "schema": 1,
                "shard": number,
                "shards": count,
                "identity": settings.identity,
                "plan": {**dataclasses.asdict(settings), "root": str(settings.root)},
                "broken": {str(start + row): reason for row, reason in sorted(broken.items())},
            }
            write_json(working / _ABOUT, about)
            forget_journal(working)
            take_name(working, folder)
    lock.unlink(missing_ok=True)
    return folder


def merge(shards: Sequence[str | Path], out: str | Path) -> Cohort:
    """Put the shards of a cohort together: the same bytes as :func:`prepare` in one go.

    The data set itself is listed again, so its folder must be at hand where it was.

    Args:
        shards: Folders of :func:`prepare_shard`, all of them, in any order.
        out: Folder to write; new or empty, or holding this very cohort.

    Raises:
        BadInput: A shard is missing or of something else, the data set has changed, or too many images are broken.
    """
    shard_at = {(about := _about(Path(shard)))["shard"]: (Path(shard), about) for shard in shards}
    if not shard_at:
        raise BadInput("the shards of a cohort", "none", do="name their folders")
    first = next(iter(shard_at.values()))[1]
    count, identity = first["shards"], first["identity"]
    for folder, about in shard_at.values():
        if (about["shards"], about["identity"]) != (count, identity):
            raise BadInput("shards of one cohort", "one of other files or options", where=folder)
    if missing := sorted(set(range(1, count + 1)) - set(shard_at)):
        named = ", ".join(f"{number}/{count}" for number in missing[:10])
        raise BadInput(f"all {count} shards", f"none of {named}", do=f"prepare with --shard {missing[0]}/{count}")
    settings = _from_json(first["plan"])
    if settings.identity != identity:
        do = "prepare the shards again"
        raise BadInput("the data set as the shards were made from", "a changed one", where=settings.root, do=do)
    target = outside(settings, out)

    def make(working: Path) -> None:
        listing, selected = listed(settings)
        paths = listing.table["path"].to_list()
        broken = {int(row): reason for _, about in shard_at.values() for row, reason in about["broken"].items()}
        limit = allowed(settings, listing)
        if len(broken) > limit:
            raise too_many(settings.root, paths, broken, len(paths), limit)
        _gather(working, [shard_at[number][0] for number in range(1, count + 1)], len(paths), settings)
        finish(settings, listing, selected, working, broken)

    made_once(target, identity, make)
    note_size(target, settings.size)
    return load(target)


def shards_beside(out: str | Path) -> list[Path]:
    """Folders that are called as shards of a cohort are."""
    out = Path(out).expanduser().absolute()
    return sorted(path for path in out.parent.glob(f"{out.name}.shard-*-of-*") if path.is_dir())


def _rows(images: int, number: int, count: int) -> tuple[int, int]:
    return images * (number - 1) // count, images * number // count


def _gather(working: Path, shards: list[Path], images: int, settings: Plan) -> None:
    """Copy the shards' pixels one after the other, some at a time."""
    depth = np.dtype(np.uint8 if settings.bits == 8 else np.uint16)
    try:
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        create_pixels(working, (images, settings.pixel_size, settings.pixel_size), depth)
        pixels = np.lib.format.open_memmap(working / "pixels.npy", mode="r+")
    except OSError as error:
        raise not_writable(working.parent, error) from error
    for number, folder in enumerate(shards, 1):
        start, stop = _rows(images, number, len(shards))
        part = _pixels(folder, (stop - start, *pixels.shape[1:]), depth)
        for row in range(0, len(part), CHUNK):
            pixels[start + row : start + row + len(part[row : row + CHUNK])] = part[row : row + CHUNK]
    pixels.flush()


def _pixels(folder: Path, shape: tuple[int, ...], depth: np.dtype[Any]) -> np.ndarray:
    try:
        part = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput("a whole shard", f"a damaged one: {error}", where=folder, do="prepare it again") from error
    if part.shape != shape or part.dtype != depth:
        raise BadInput(f"{depth} pixels {shape}", f"{part.dtype} {part.shape}", where=folder, do="prepare it again")
    return part


def _about(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _ABOUT).read_text("utf-8"))
    except (OSError, ValueError) as error:
        found = "a whole cohort" if is_prepared(folder) else "none"
        do = "name folders that `cxr-data prepare --shard I/N` wrote"
        raise BadInput(f"a shard ({_ABOUT})", found, where=folder, do=do) from error


def _from_json(fields: dict[str, Any]) -> Plan:
    options = {name: fields[name] for name in fields if name not in ("root", "identity", "selection")}
    chosen = {**fields["selection"], "labels": tuple(fields["selection"]["labels"])}
    if "view" in chosen:  # as shards were written before
        chosen["projection"] = chosen.pop("view")
    return plan(fields["root"], selection=Selection(**chosen), **options)
