"""Files that appear whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cxr_common.errors import BadInput

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors of writing for which the user's disk is the cause."""


@contextmanager
def whole_file(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes its name only once it is complete.

    The bytes are written beside the target, fsynced and renamed, so a reader (or a killed run) never
    sees half a file. On an exception the target is left as it was.

    Args:
        path: The file to write; missing parent folders are made.
        mode: "wb" or "w" (UTF-8).

    Yields:
        The open file.

    Raises:
        BadInput: The folder cannot be written to, its disk is full, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput("a file to write", "a folder", where=path, do="choose another name")
    encoding = None if "b" in mode else "utf-8"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise not_writable(path.parent, error) from error
    try:
        with os.fdopen(handle, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())  # mkstemp makes private files; results are meant to be shared
        os.replace(beside, path)
    except BaseException as error:
        Path(beside).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            raise not_writable(path.parent, error) from error
        raise


def not_writable(folder: Path, error: OSError) -> BadInput:
    """The error for a folder that cannot be written to."""
    return BadInput(
        "a folder this user may write to",
        error.strerror or str(error),
        where=folder,
        do="choose another folder, free space, or change its permissions",
    )


def refuse_small_disk(folder: Path, needed: int) -> None:
    """Refuse to fill a disk through a memory map, which would end the process without a word (SIGBUS).

    Args:
        folder: Existing working folder that is to be written to; its parent is named.
        needed: Bytes.

    Raises:
        BadInput: Too little room.
    """
    needed = int(needed * 1.02) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BadInput(
            f"{_size(needed)} of free disk",
            _size(free),
            where=folder.parent,
            do="free space, choose another folder (--out, or CXR_CACHE for the cache), or a smaller size",
        )


def _size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with whole_file(path, "w") as file:
        file.write(text)


def write_json(path: str | Path, value: object) -> None:
    """Write JSON whole or not at all; NaN is refused (say ``None`` where a value is undefined)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
