"""Write files and folders atomically: they appear whole or not at all."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cxr_data.errors import BadInput

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors of writing for which the user's disk is the cause."""
OF_THE_PLACE = (*OF_THE_DISK, errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)
"""Errors of reading and writing that no program can help: those, permissions, damaged disks, names that cannot be."""
FORGOTTEN = 24 * 3600
"""Seconds after which a temporary folder is taken for that of a killed call: writing a folder never takes so long."""


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
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")  # the same bytes on every system
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise not_writable(path.parent, error) from error
    try:
        with os.fdopen(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())  # mkstemp makes private files; results are meant to be shared
        os.replace(beside, path)
    except BaseException as error:
        Path(beside).unlink(missing_ok=True)
        if (cause := of_the_disk(error)) is not None:
            raise not_writable(path.parent, cause) from error
        raise


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder that takes its name only once all its files are written; an earlier one is replaced.

    It is filled within a temporary folder beside the target, whose name no other call uses: process numbers come back
    in containers. On an exception the target is left as it was. Whatever a killed call left is cleaned up by the next.

    Args:
        path: The folder to write; missing parents are made.

    Yields:
        The folder to fill.

    Raises:
        BadInput: It cannot be written to, or its disk is full.
    """
    folder = Path(os.path.realpath(path))  # Path.resolve raises where links lead in a ring
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _put_right(folder)
        holder = Path(tempfile.mkdtemp(prefix=_prefix(folder), suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise not_writable(folder.parent, error) from error
    new, old = holder / "new", holder / "old"
    try:
        new.mkdir()  # mkdtemp makes private folders; results are meant to be shared
        yield new
        sync_files(new)
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        except OSError as error:
            raise not_writable(folder, error) from error
    except Exception as error:
        if (cause := of_the_disk(error)) is not None:
            raise not_writable(folder.parent, cause) from error
        raise
    finally:
        _settle(holder, folder)


def sync_files(folder: Path) -> None:
    """Have the disk hold every file below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb" if os.name == "posix" else "r+b") as file:  # Windows syncs what can be written to
                os.fsync(file.fileno())


def refuse_unwritable(path: str | Path) -> None:
    """See before long work that :func:`whole_folder` will be able to write; nothing is left there.

    Raises:
        BadInput: It will not.
    """
    above = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=above))
    except OSError as error:
        raise not_writable(above, error) from error


def _prefix(folder: Path) -> str:
    return f".{folder.name[:60]}."  # 60 letters are 240 bytes at most, and a name may have 255


def _put_right(folder: Path) -> None:
    """Settle what killed calls left beside a folder."""
    ours = re.compile(re.escape(_prefix(folder)) + r"[a-z0-9_]{8}\.tmp")
    for holder in [path for path in folder.parent.iterdir() if ours.fullmatch(path.name)]:
        # Without "old" it may be another call's that is at work.
        if (holder / "old").exists() or _age(holder) > FORGOTTEN:
            _settle(holder, folder)


def _settle(holder: Path, folder: Path) -> None:
    """Put back an earlier folder that nothing has replaced, and remove the temporary one."""
    old = holder / "old"
    if old.exists() and not folder.exists():
        try:
            old.rename(folder)
        except OSError:
            return  # rather a temporary folder too many than the only copy lost
    shutil.rmtree(holder, ignore_errors=True)


def _age(holder: Path) -> float:
    """Seconds since something was last made in a temporary folder; 0 where it is gone by now."""
    made = [path.stat().st_mtime for path in (holder, holder / "new") if path.exists()]
    return time.time() - max(made) if made else 0.0


def of_the_disk(error: BaseException | None) -> OSError | None:
    """The error of the user's disk behind one of a library that was writing (torch, polars), if there is one."""
    while error is not None:
        in_rust = re.search(r"\(os error (\d+)\)", str(error))
        cause = OSError(int(in_rust[1]), os.strerror(int(in_rust[1]))) if in_rust else error
        if isinstance(cause, OSError) and cause.errno in OF_THE_DISK:
            return cause
        error = error.__cause__ or error.__context__
    return None


def not_writable(folder: Path, error: OSError) -> BadInput:
    """The error for a folder that cannot be written to."""
    return BadInput(
        "a folder this user may write to",
        error.strerror or str(error),
        where=folder,
        do="choose another folder (CXR_CACHE names that of the cache), free space, or change its permissions",
    )


def refuse_small_disk(folder: Path, needed: int) -> None:
    """Refuse to fill a disk through a memory map, which would end the process without a word (SIGBUS).

    Args:
        folder: Existing working folder that is to be written to; its parent is named.
        needed: Bytes.

    Raises:
        BadInput: Too little disk space.
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


def read_json(path: str | Path) -> dict[str, Any]:
    """The table that a JSON file holds; empty where it cannot be read or holds something else."""
    try:
        values = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The table that a YAML file holds; empty where it cannot be read or holds something else."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
