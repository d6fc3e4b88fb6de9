"""Decode image files once into one memory map: on all cores, in bounded memory, resumable after a kill."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.command_line.progress import Progress
from cxr_data.errors import BadInput
from cxr_data.files import not_writable, refuse_small_disk
from cxr_data.folders import refuse_outside
from cxr_data.images.header import NO_IMAGE, BrokenImage
from cxr_data.images.read import fit_image, read_image
from cxr_data.machine import usable_cores

TASK = 32
"""Images decoded in one go by one thread."""
CHUNK = 1024
"""Images between two points from which a killed run resumes; a multiple of TASK."""
FAINT = 1 / 8
"""Share of all gray levels below which the spread of an image is worth a word."""
_LOOKED_AT = 500
_PIXELS, _JOURNAL = "pixels.npy", "journal.jsonl"


def decode_once(
    root: Path,
    paths: Sequence[str],
    folder: Path,
    *,
    identity: str,
    pixel_size: int,
    aspect: str,
    window: str,
    max_broken: int,
    show: bool = True,
    images: Callable[[str], NDArray[Any]] | None = None,
    bits: int = 8,
) -> dict[int, str]:
    """Decode every file into ``folder/pixels.npy``, resuming where a killed call of this identity stopped.

    Each image has its row from the start, so the result does not depend on the number of threads or on
    interruptions. After every CHUNK images the pixels are synced to disk, then the journal says so.

    Args:
        root: Folder of the images.
        paths: (N,) files relative to it, in row order.
        folder: Working folder, made if missing.
        identity: Key of the content and of everything else that decides the result; a working folder of
            another identity is started anew.
        pixel_size: Edge of the stored images, pixels.
        aspect: See :func:`cxr_data.images.read.read_image`.
        window: Likewise.
        max_broken: Broken images that are still tolerated; DICOM files that are no images do not count.
        show: Whether to show progress.
        images: Gives the image of a path that is no file; see :class:`cxr_data.readers.Listing`.
        bits: Bits per pixel, 8 or 16.

    Returns:
        Row → reason of the broken images; their pixels are 0 until :func:`keep_rows` drops them.

    Raises:
        BadInput: Too many broken images, or no disk space or permission to write.
    """
    shape = (len(paths), pixel_size, pixel_size)
    depth = np.dtype(np.uint8 if bits == 8 else np.uint16)
    pixels, done, broken = _opened(folder, identity, shape, depth)

    def decode(start: int, stop: int) -> dict[int, str]:
        reasons = {}
        for row in range(start, stop):
            try:
                if images is None:
                    refuse_outside(root, paths[row])
                    pixels[row] = read_image(root / paths[row], pixel_size, aspect=aspect, window=window, bits=bits)
                else:
                    pixels[row] = fit_image(images(paths[row]), pixel_size, aspect=aspect, window=window, bits=bits)
            except BrokenImage as error:
                reasons[row] = str(error)
        return reasons

    steps = -(-len(paths) // TASK)
    first_step = -(-done // TASK)
    with (
        Progress("decode", 1, steps, start_step=first_step, show=show) as bar,
        _threads() as pool,
    ):
        for start in range(done, len(paths), CHUNK):
            stop = min(start + CHUNK, len(paths))
            tasks: list[tuple[int, Future[dict[int, str]]]] = [
                (min(first + TASK, stop) - first, pool.submit(decode, first, min(first + TASK, stop)))
                for first in range(start, stop, TASK)
            ]
            new: dict[int, str] = {}
            for count, task in tasks:
                new |= task.result()
                bar.step(images=count)
            pixels.flush()
            _log(folder, {"rows": stop, "broken": new})
            broken |= new
            if len(damaged := {row: why for row, why in broken.items() if why != NO_IMAGE}) > max_broken:
                raise too_many(root, paths, damaged, stop, max_broken)
    return broken


def keep_rows(folder: Path, rows: NDArray[np.int64]) -> None:
    """Reduce ``folder/pixels.npy`` to some of its rows.

    Args:
        folder: Working folder whose images are all decoded.
        rows: Rows to keep, ascending.

    Raises:
        BadInput: Too little disk space for the copy.
    """
    pixels = np.load(folder / _PIXELS, mmap_mode="r", allow_pickle=False)
    if len(rows) < len(pixels):
        refuse_small_disk(folder, len(rows) * pixels[0].nbytes)
        kept = np.lib.format.open_memmap(
            folder / "kept.npy", mode="w+", dtype=pixels.dtype, shape=(len(rows), *pixels.shape[1:])
        )
        for start in range(0, len(rows), CHUNK):
            kept[start : start + CHUNK] = pixels[rows[start : start + CHUNK]]
        kept.flush()
        os.replace(folder / "kept.npy", folder / _PIXELS)


def faint_notes(pixels: NDArray[Any]) -> list[str]:
    """A note for the user where images lie within few gray levels, such as values of 12 bits in files of 16.

    Args:
        pixels: (N, H, W) uint8 or uint16; some hundred of them are looked at.
    """
    rows = np.linspace(0, len(pixels) - 1, min(len(pixels), _LOOKED_AT)).astype(np.int64)
    levels = np.iinfo(pixels.dtype).max + 1
    faint = sum(int(pixels[row].max()) - int(pixels[row].min()) < FAINT * levels for row in rows)
    if faint <= 0.02 * len(rows):
        return []
    among = f" among {len(rows)} looked at" if len(rows) < len(pixels) else ""
    return [
        f"{faint} images{among} lie within {FAINT * levels:.0f} of {levels} gray levels (12 bits stored as 16?): "
        "--window percentile spreads each over all"
    ]


def forget_journal(folder: Path) -> None:
    """Remove the journal once nothing is left to do in the working folder."""
    (folder / _JOURNAL).unlink(missing_ok=True)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """A pool over all cores (decoding releases the GIL); on an exception what has not begun is dropped."""
    pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def create_pixels(folder: Path, shape: tuple[int, ...], depth: np.dtype[Any]) -> None:
    """Make ``folder/pixels.npy`` of zeros, with its disk space allocated.

    Raises:
        BadInput: Too little disk space.
        OSError: It cannot be written.
    """
    refuse_small_disk(folder, int(np.prod(shape)) * depth.itemsize)
    np.lib.format.open_memmap(folder / _PIXELS, mode="w+", dtype=depth, shape=shape).flush()
    if not hasattr(os, "posix_fallocate"):
        return
    with open(folder / _PIXELS, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot allocate ahead
                raise


def _opened(
    folder: Path, identity: str, shape: tuple[int, int, int], depth: np.dtype[Any]
) -> tuple[np.memmap[Any, Any], int, dict[int, str]]:
    """Pixels of the working folder, rows that are done, and broken ones; all anew where there is nothing to resume."""
    done, broken = _journalled(folder, identity, shape)
    try:
        if done is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            create_pixels(folder, shape, depth)
            _log(folder, {"identity": identity})
            done, broken = 0, {}
        return np.lib.format.open_memmap(folder / _PIXELS, mode="r+"), done, broken
    except OSError as error:
        raise not_writable(folder.parent, error) from error


def _journalled(folder: Path, identity: str, shape: tuple[int, ...]) -> tuple[int | None, dict[int, str]]:
    """(rows done, broken rows) of an interrupted call; (None, {}) when there is nothing to resume from."""
    journal = folder / _JOURNAL
    if not journal.is_file():
        return None, {}
    lines = journal.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):  # torn by the kill: its chunk is decoded again
        lines.pop()
        journal.write_bytes(b"".join(lines))
    try:
        entries = [json.loads(line) for line in lines]
        whole = entries[0]["identity"] == identity
        whole &= np.load(folder / _PIXELS, mmap_mode="r", allow_pickle=False).shape == shape
        done = entries[-1]["rows"] if len(entries) > 1 else 0
        broken = {int(row): reason for entry in entries[1:] for row, reason in entry["broken"].items()}
    except (OSError, EOFError, ValueError, KeyError, IndexError):
        return None, {}
    return (done, broken) if whole else (None, {})


def _log(folder: Path, entry: dict[str, object]) -> None:
    with open(folder / _JOURNAL, "ab") as file:
        file.write(json.dumps(entry).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def too_many(root: Path, paths: Sequence[str], broken: dict[int, str], looked_at: int, allowed: int) -> BadInput:
    """The error for more broken images than are tolerated, with the first of them."""
    named = [f"{paths[row]}: {reason}" for row, reason in sorted(broken.items())[:5]]
    more = [f"and {len(broken) - 5} more"] if len(broken) > 5 else []
    return BadInput(
        f"at most {allowed} broken images of {len(paths)}",
        f"{len(broken)} among the first {looked_at}\n  " + "\n  ".join(named + more),
        where=root,
        do="repair or remove them, or allow more with `cxr-data prepare FOLDER --max_bad SHARE`",
    )
