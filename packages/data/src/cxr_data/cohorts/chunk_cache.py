"""Local cache for chunks of a remote cohort: downloaded on first use, evicted when the size limit is reached."""

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cxr_data.cohorts.cache import cache_folder
from cxr_data.cohorts.cohort import Cohort
from cxr_data.cohorts.pixel_rows import PixelRows
from cxr_data.cohorts.remote import Remote
from cxr_data.errors import BadInput
from cxr_data.files import whole_file
from cxr_data.folders import locked

CACHE_GB = 100.0
"""Bound of the chunks kept on disk, 10^9 bytes, where ``$CXR_CACHE_GB`` does not say another."""
_WITHOUT_CHUNKS = 1024
"""Images of a memory map that count as a chunk where it is joined with a cohort in chunks."""


class ChunkCache:
    """Chunks on the local disk, shared by all processes of this user; the least recently used are evicted.

    Args:
        folder: Where they are kept, each under the SHA-256 of its bytes.
        limit: Bytes that they never exceed.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit, self._prefix = folder, limit, f"{folder}{os.sep}"
        self._open: dict[str, NDArray[Any]] = {}

    def images(self, chunk: "Chunk") -> NDArray[Any]:
        """A chunk as a memory map, fetched where it is not here.

        Raises:
            BadInput: It cannot be fetched or is not what was uploaded, or the disk is full.
        """
        path = f"{self._prefix}{chunk.sha256}.npy"
        try:
            os.utime(path)  # used now; and it is still here, whatever other processes have evicted
            images = self._open.get(chunk.sha256)
            return self._opened(path, chunk) if images is None else images
        except (FileNotFoundError, _Damaged):
            self._open.pop(chunk.sha256, None)
        with locked(self.folder / ".locks" / chunk.sha256[:2]):  # one of the processes and threads fetches it
            try:
                return self._opened(path, chunk)
            except (FileNotFoundError, _Damaged):
                content = chunk.remote.read_checked(chunk.name, chunk.size, chunk.sha256)
            with locked(self.folder / ".locks" / "all"):
                self._make_room(chunk.size)
                with whole_file(path) as file:
                    file.write(content)
                try:
                    return self._opened(path, chunk)
                except _Damaged as error:
                    found = "an array of another shape"
                    raise BadInput(f"{chunk.dtype} {chunk.shape}", found, where=chunk.remote.url) from error

    def _opened(self, path: str, chunk: "Chunk") -> NDArray[Any]:
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise _Damaged from error
        if images.shape != chunk.shape or images.dtype != chunk.dtype:
            raise _Damaged
        self._open[chunk.sha256] = images
        return images

    def _make_room(self, size: int) -> None:
        """Evict until so many bytes fit."""
        for part in self.folder.glob(".*.part"):
            part.unlink()  # of a killed process: who writes holds the lock
        with os.scandir(self.folder) as entries:
            kept = [(entry.stat(), entry.path) for entry in entries if entry.name.endswith(".npy")]
        excess = sum(state.st_size for state, _ in kept) + size - self.limit
        for state, path in sorted(kept, key=lambda entry: entry[0].st_mtime_ns):
            if excess <= 0:
                break
            Path(path).unlink(missing_ok=True)
            excess -= state.st_size
        for sha256 in [key for key in list(self._open) if not (self.folder / f"{key}.npy").exists()]:
            self._open.pop(sha256, None)  # evicted by another process: a map would keep its disk space


class _Damaged(Exception):
    """A file of the cache that does not hold its chunk."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Images of one file at a URL, read like an array (n, P, P) along its first axis.

    Attributes:
        remote: Where the file is.
        name: Of the file.
        size: Its bytes.
        sha256: Of its bytes.
        shape: (n, P, P).
        dtype: uint8 or uint16.
        cache: Where it is kept once it was read.
    """

    remote: Remote
    name: str
    size: int
    sha256: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    cache: ChunkCache

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.cache.images(self)[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The whole chunk as a memory map."""
        return np.asarray(self.cache.images(self), dtype, copy=copy)


def chunk_cache() -> ChunkCache:
    """The cache of this user: ``cohorts/downloaded-chunks`` in :func:`cache_folder`, of ``$CXR_CACHE_GB``.

    Raises:
        BadInput: The variable is no number above 0.
    """
    text = os.environ.get("CXR_CACHE_GB", str(CACHE_GB))
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise BadInput("a number of gigabytes above 0", repr(text), where="environment variable CXR_CACHE_GB")
    return _the_cache(cache_folder() / "cohorts" / "downloaded-chunks", limit)


@functools.lru_cache
def _the_cache(folder: Path, limit: int) -> ChunkCache:
    return ChunkCache(folder, limit)


class Window(NamedTuple):
    """How images are shuffled that do not all fit in the cache: chunks come in random order, images among neighbours.

    Attributes:
        chunk_of: (M,) number of the chunk that each of M rows is in.
        chunks: Number of chunks that images of a chunk are shuffled among.
    """

    chunk_of: NDArray[np.int64]
    chunks: int


def shuffle_window(cohort: Cohort, rows: NDArray[np.int64]) -> Window | None:
    """How training rows are shuffled; None, uniformly, where the cache holds all chunks of the cohort.

    Otherwise the window is three quarters of the cache: the rest is for batches made ahead, and for validation.

    Args:
        cohort: Any cohort.
        rows: (M,) rows to train on.
    """
    chunks: list[Chunk | None] = []
    numbers = _chunk_numbers(cohort.pixels, rows, chunks)
    remote = [chunk for chunk in chunks if chunk is not None]
    if not remote or sum(chunk.size for chunk in remote) <= remote[0].cache.limit:
        return None
    return Window(numbers, max(1, remote[0].cache.limit * 3 // 4 // max(chunk.size for chunk in remote)))


def shuffle_identity(cohort: Cohort) -> dict[str, Any]:
    """What the order of training images depends on beside their number and the seed: empty without a window."""
    window = shuffle_window(cohort, cohort.rows("train"))
    if window is None:
        return {}
    numbers = np.unique(window.chunk_of, return_inverse=True)[1].astype("<i8")
    return {"shuffle": {"chunks": window.chunks, "of": hashlib.sha256(numbers.tobytes()).hexdigest()[:16]}}


def _chunk_numbers(pixels: Any, rows: NDArray[np.int64], chunks: list[Chunk | None]) -> NDArray[np.int64]:
    """(M,) number of each row's chunk, as an index of ``chunks``, to which all chunks of ``pixels`` are appended."""
    first = len(chunks)
    if not isinstance(pixels, PixelRows):
        chunks.extend([None] * (len(pixels) // _WITHOUT_CHUNKS + 1))
        return first + rows // _WITHOUT_CHUNKS
    part_of, local = pixels.located(rows)
    if all(isinstance(part, Chunk) for part in pixels.parts):
        chunks.extend(cast(list[Chunk | None], pixels.parts))
        return first + part_of
    numbers = np.empty(len(rows), np.int64)
    for number, part in enumerate(pixels.parts):
        here = part_of == number
        numbers[here] = _chunk_numbers(part, local[here], chunks)
    return numbers
