"""The cache of prepared cohorts: its folder, its keys, and a list of what it holds."""

import fnmatch
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxr_data.folders import scan

FORMAT = 4
"""Part of every key: raised when the same files would become other cohorts."""


def cache_folder() -> Path:
    """``$CXR_CACHE``, or ``~/.cache/cxr``."""
    named = os.environ.get("CXR_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "cxr"


def content_key(root: Path, options: dict[str, Any]) -> str:
    """Key of a folder's content under given options.

    Args:
        root: Resolved folder.
        options: Whatever else decides the result, as JSON types.

    Returns:
        SHA-256 (64 hexadecimal digits) over the relative paths, sizes and times of change of its files.
    """
    return _key([[*file] for file in scan(root)], options)


def option_key(options: dict[str, Any]) -> str:
    """Key of what is generated, not read: the options alone."""
    return _key([], options)


def _key(files: list[list[Any]], options: dict[str, Any]) -> str:
    total = hashlib.sha256(json.dumps([FORMAT, options], sort_keys=True).encode())
    for file in files:
        total.update(json.dumps(file).encode())
    return total.hexdigest()


class Cached(NamedTuple):
    """A folder of the cache.

    Attributes:
        name: Of the folder.
        path: Where it is.
        size: Bytes on disk.
        unused_days: Days since a file of it was last read or written, as far as the file system notes that.
    """

    name: str
    path: Path
    size: int
    unused_days: float


def cached(names: Sequence[str] = (), unused_days: float = 0.0) -> list[Cached]:
    """The prepared cohorts in the cache, the largest first.

    Args:
        names: Patterns with * and ?; none means all.
        unused_days: Only those not used for so many days.
    """
    folder = cache_folder() / "cohorts"
    entries = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() or (names and not any(fnmatch.fnmatch(path.name, name) for name in names)):
            continue
        files = [file.stat() for file in path.rglob("*") if file.is_file()]
        used = max((max(state.st_atime, state.st_mtime) for state in files), default=path.stat().st_mtime)
        size = sum(getattr(state, "st_blocks", -(-state.st_size // 512)) * 512 for state in files)
        entry = Cached(path.name, path, size, max(0.0, (time.time() - used) / 86400))
        if entry.unused_days >= unused_days:
            entries.append(entry)
    return sorted(entries, key=lambda entry: -entry.size)


def remove(entry: Cached) -> None:
    """Remove a folder of the cache; a cohort that is open elsewhere stays readable until it is closed."""
    doomed = entry.path.with_name(f".{entry.path.name}.removed")
    entry.path.rename(doomed)  # never a half-removed cohort under its name
    shutil.rmtree(doomed)
