"""A prepared cohort in chunks at a URL, and read from there through a cache of bounded size.

Layout, plain enough to be read without this package:

    cohort.json            as of a prepared cohort, and "chunks"; written last: without it there is no cohort
    cohort.parquet         the same table, one row per image
    folds-K.parquet        where the cohort has written folds
    train-00000.npy, ...   (n, P, P) uint8 or uint16: images of the split "train" in the order of the table's rows
    val-00000.npy, ...     likewise of "val" and "test"

"chunks" holds "files" (name, images, bytes, SHA-256 of each, in order), "tables" (bytes and SHA-256 by name), "dtype"
and "mean_std" (of the training pixels, so that they need not be read for it). No chunk holds images of two splits:
validation reads no training images.

Why .npy and not WebDataset's tar: an image is P·P bytes at a known place, so a chunk on disk is a memory map from which
rows are read in any order, as uniform shuffling needs; a tar of image files is read from front to back and decoded
again in each epoch. NumPy, and whatever reads its format, opens a chunk.
"""

import functools
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.chunk_cache import Chunk, chunk_cache
from cxr_data.cohorts.cohort import ABOUT, Cohort, about, about_json, assembled, is_prepared, parsed_about, readable
from cxr_data.cohorts.pixel_rows import PixelRows
from cxr_data.cohorts.remote import Remote, is_url
from cxr_data.command_line.progress import Progress
from cxr_data.errors import BadInput
from cxr_data.preparation.splits import SPLITS

_NAME, _SHA256 = re.compile(r"(train|val|test)-\d{5,}\.npy"), re.compile(r"[0-9a-f]{64}")
_AGAIN = "upload the cohort again with `cxr-data upload`"


def upload(
    cohort: Cohort,
    url: str,
    *,
    size: int | None = None,
    chunk_bytes: int = 64 * 10**6,
    tables: Mapping[str, bytes] | None = None,
    show: bool = True,
) -> int:
    """Write a cohort in chunks; each file appears whole or not at all, ``cohort.json`` last.

    Args:
        cohort: The cohort; masks are not written.
        url: Folder of any file system that fsspec knows; without another cohort in it.
        size: Edge of the network input that the cohort is for, where it is known.
        chunk_bytes: Bytes of pixels of a chunk, at most; at least one image.
        tables: Further files, as ``folds-5.parquet``.
        show: Whether to show progress.

    Returns:
        Number of chunks.

    Raises:
        BadInput: Another cohort is there, or nothing can be written.
    """
    remote = Remote(url)
    if there := _fingerprint_there(remote):
        if there != cohort.fingerprint:
            raise BadInput("an address without another cohort", "one there", where=url, do="choose another --to")
        remote.remove(ABOUT)  # written over: no cohort until all its files are there
    about_chunks.cache_clear()
    split = cohort.table["split"].to_numpy()
    if unknown := set(split.tolist()) - set(SPLITS):
        raise BadInput(f"images in {', '.join(SPLITS)}", f"some in {', '.join(map(str, unknown))}", where=cohort.source)
    parquet = io.BytesIO()
    cohort.table.write_parquet(parquet)
    written = {"cohort.parquet": parquet.getvalue(), **(tables or {})}
    of_tables = {name: _put(remote, name, content) for name, content in written.items()}
    images = max(1, chunk_bytes // int(np.prod(cohort.pixels.shape[1:])) // cohort.pixels.dtype.itemsize)
    parts = [
        (f"{name}-{number:05d}.npy", rows[start : start + images])
        for name in SPLITS
        for rows in [cohort.rows(name)]
        for number, start in enumerate(range(0, len(rows), images))
    ]
    files = []
    with Progress("upload", 1, len(parts), show=show) as bar:
        for name, rows in parts:
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(cohort.pixels[rows]), allow_pickle=False)
            files.append({"name": name, "images": len(rows), **_put(remote, name, content.getvalue())})
            bar.step(len(rows))
    chunks = {"files": files, "tables": of_tables, "dtype": cohort.pixels.dtype.name}
    if len(cohort.rows("train")):
        as_bytes = replace(cohort, pixels=cast(NDArray[np.uint8], PixelRows([cohort.pixels])))
        chunks["mean_std"] = as_bytes.mean_std()
    noted = {} if size is None else {"size": size}
    travelling = replace(cohort, source=Path(cohort.source).name or cohort.source)  # no paths of this machine
    text = json.dumps(about_json(travelling, chunks=chunks, **noted), indent=2, allow_nan=False, ensure_ascii=False)
    remote.write(ABOUT, f"{text}\n".encode())
    return len(files)


def chunks_at(data: str | Path) -> str | None:
    """The URL of a cohort in chunks that a data name means: a URL, or a folder that one was written to; else None."""
    if is_url(data):
        return str(data)
    folder = Path(data).expanduser()
    return f"file://{folder.resolve()}" if is_prepared(folder) and "chunks" in about(folder) else None


def load_chunks(url: str) -> Cohort:
    """Open a cohort that :func:`upload` wrote; its pixels are fetched when they are read.

    Returns:
        The cohort; its pixels are :class:`PixelRows` of :class:`Chunk`.

    Raises:
        BadInput: No cohort in chunks, a damaged one, or a cache that is too small.
    """
    remote = Remote(url)
    stored = about_chunks(url)
    with readable(url, _AGAIN):
        chunks = stored["chunks"]
        table = pl.read_parquet(io.BytesIO(_table(remote, chunks, "cohort.parquet")))
        size, cache = stored["pixel_size"], chunk_cache()
        depth = np.dtype(chunks["dtype"])
        for file in chunks["files"]:  # both become names of files here
            if not (_NAME.fullmatch(file["name"]) and _SHA256.fullmatch(file["sha256"])):
                raise ValueError(f"a chunk called {file['name']!r:.60} with SHA-256 {file['sha256']!r:.80}")
        parts = [
            Chunk(remote, file["name"], file["bytes"], file["sha256"], (file["images"], size, size), depth, cache)
            for file in chunks["files"]
        ]
        split = table["split"].to_numpy()
        place = np.argsort(np.concatenate([np.flatnonzero(split == name) for name in SPLITS]))
        if len(place) != table.height or sum(map(len, parts)) != table.height:
            raise ValueError(f"chunks of {sum(map(len, parts))} images, a table of {table.height}")
        largest = max((part.size for part in parts), default=0)
        if cache.limit < 2 * largest:
            found_bytes = f"{cache.limit / 1e9:g} GB in CXR_CACHE_GB"
            raise BadInput(f"a cache of at least two chunks ({2 * largest / 1e9:.3g} GB)", found_bytes, where=url)
        cohort = assembled(stored, table, cast(NDArray[np.uint8], PixelRows(cast(Any, parts), place)), None)
        if "mean_std" in chunks:
            mean, std = chunks["mean_std"]
            cohort.__dict__["_mean_std"] = (float(mean), float(std))  # as the cached property would keep it
    return cohort


@functools.lru_cache(maxsize=8)
def about_chunks(url: str) -> Mapping[str, Any]:
    """``cohort.json`` of a cohort in chunks, read once in a process: a command sees one state of a cohort.

    Raises:
        BadInput: There is none, it is damaged, or it is of a newer schema.
    """
    where = f"{url.rstrip('/')}/{ABOUT}"
    content = Remote(url).read(ABOUT)
    with readable(where, _AGAIN):
        parsed = parsed_about(content, where)
        if "chunks" not in parsed:
            do = "upload it with `cxr-data upload`, or name its folder without file://"
            raise BadInput("a cohort in chunks", "one in a memory map", where=url, do=do)
        return parsed


def written_folds(url: str, folds: int) -> pl.DataFrame | None:
    """The folds that were uploaded with a cohort, (image, fold); None where none of that number were."""
    chunks, name = about_chunks(url)["chunks"], f"folds-{folds}.parquet"
    if name not in chunks["tables"]:
        return None
    with readable(url, _AGAIN):
        return pl.read_parquet(io.BytesIO(_table(Remote(url), chunks, name))).select("image", "fold")


def _fingerprint_there(remote: Remote) -> str:
    """Fingerprint of the cohort at an address; empty where there is none."""
    if not remote.exists(ABOUT):
        return ""
    with readable(remote.url, _AGAIN):
        return str(json.loads(remote.read(ABOUT))["fingerprint"])


def _put(remote: Remote, name: str, content: bytes) -> dict[str, Any]:
    remote.write(name, content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _table(remote: Remote, chunks: Mapping[str, Any], name: str) -> bytes:
    return remote.read_checked(name, chunks["tables"][name]["bytes"], chunks["tables"][name]["sha256"])
