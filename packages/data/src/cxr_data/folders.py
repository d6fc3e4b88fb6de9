"""Input and output folders: looked up with helpful errors, locked, and written whole or not at all."""

import difflib
import os
import posixpath
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cxr_data.errors import BadInput
from cxr_data.files import not_writable, refuse_unwritable, sync_files, whole_folder
from cxr_data.images.header import BrokenImage

SKIPPED = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class File(NamedTuple):
    """A file below a folder: relative path with forward slashes, size in bytes, time of change."""

    path: str
    size: int
    mtime_ns: int


def existing_folder(path: str | Path) -> Path:
    """A folder that exists, resolved.

    Raises:
        BadInput: Nothing there (with the nearest names beside it), or a file.
    """
    if not str(path).strip():
        raise BadInput("a folder of images", "an empty name", do="check the variable that should hold it")
    path = Path(path).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise BadInput("a folder of images", "a file", where=path, do="unpack it first, or name its folder")
    above, missing = path.parent, path.name
    while not above.exists():
        above, missing = above.parent, above.name
    names = [entry.name for entry in os.scandir(above)] if above.is_dir() else []
    close = difflib.get_close_matches(missing, names, n=3, cutoff=0.5)
    do = f"did you mean {' or '.join(str(above / name) for name in close)}?" if close else "check the path"
    raise BadInput("a folder of images", "nothing there", where=path, do=do)


def scan(root: Path) -> list[File]:
    """Every file below a folder, sorted by path: the first part of :func:`scan_with_links`."""
    return scan_with_links(root)[0]


def scan_with_links(root: Path) -> tuple[list[File], list[str]]:
    """Every file below a folder, and the linked folders that were not followed; hidden files and litter are left out.

    Args:
        root: Resolved folder.

    Returns:
        The files, sorted by path, and the paths of links to folders outside ``root``, or to a folder that the link
        itself lies in. Other links to folders are followed. All other links count as files, also those that lead out
        of the folder or nowhere: reading them is refused (:func:`refuse_outside`), so that each is named as broken.

    Raises:
        BadInput: A folder cannot be read.
    """
    files: list[File] = []
    links: list[str] = []
    base = os.path.join(root, "")
    # Each folder with its real path and those of the folders it was reached through.
    folders = [("", str(root).rstrip("/"), frozenset([str(root)]))]
    while folders:
        folder, place, through = folders.pop()
        try:
            for entry in os.scandir(base + folder):
                name = entry.name
                if name.startswith(".") or name in SKIPPED:
                    continue
                path = folder + name
                link = entry.is_symlink()
                if os.path.isdir(entry.path) if link else entry.is_dir():
                    real = os.path.realpath(entry.path) if link else f"{place}/{name}"
                    if link and (real in through or not Path(real).is_relative_to(root)):
                        links.append(path)
                    else:
                        folders.append((path + "/", real, through | {real}))
                    continue
                if link:
                    readable = _within(root, path) and os.path.isfile(entry.path)
                    state = entry.stat(follow_symlinks=readable)
                elif entry.is_file():
                    state = entry.stat()
                else:
                    continue
                files.append(File(path, state.st_size, state.st_mtime_ns))
        except OSError as error:  # no permission to list it or to look at what is in it, or something has just gone
            raise BadInput("a readable folder", error.strerror or str(error), where=root / folder) from error
    return sorted(files), sorted(links)


def inside(root: Path, name: str, listed_in: Path) -> str:
    """A path that a table names, made relative to the folder it must stay in.

    Returns:
        Normalised relative path with forward slashes.

    Raises:
        BadInput: The path leaves the folder.
    """
    path = posixpath.normpath(name.replace("\\", "/"))
    if os.path.isabs(path) and Path(path).is_relative_to(root):
        path = Path(os.path.relpath(path, root)).as_posix()
    if os.path.isabs(path) or path == ".." or path.startswith("../"):
        raise BadInput("paths inside the folder", repr(name), where=listed_in, do="remove the entry")
    return path


def refuse_outside(root: Path, path: str) -> None:
    """Refuse to read what a link within a folder names outside of it.

    Raises:
        BrokenImage: The link leads out, or nowhere.
    """
    if not os.path.islink(root / path):
        return
    if not _within(root, path):
        raise BrokenImage("a link that leads out of the folder")
    if not (root / path).is_file():
        raise BrokenImage("a link that leads to no file")


def _within(root: Path, path: str) -> bool:
    return not os.path.islink(root / path) or Path(os.path.realpath(root / path)).is_relative_to(root)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Make a folder that takes its name only once it is complete.

    Args:
        folder: Must not exist, or be empty.

    Yields:
        The folder to fill, near the final one. It is removed on an exception.

    Raises:
        BadInput: The folder holds something, or cannot be written.
    """
    folder = Path(folder)
    refuse_full(folder)
    with whole_folder(folder) as beside:
        yield beside
        refuse_full(folder)  # somebody else may have filled it meanwhile


def take_name(beside: Path, folder: Path) -> None:
    """Sync a finished folder's files to disk and rename it."""
    sync_files(beside)
    if folder.exists():
        folder.rmdir()  # empty: refuse_full has looked
    os.rename(beside, folder)


def refuse_full(folder: Path) -> None:
    """Refuse to write where something already is.

    Raises:
        BadInput: The folder is a file or has content.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        there = "a file" if folder.is_file() else "files in it"
        raise BadInput("a new or empty folder to write", there, where=folder, do="choose another --out")


def refuse_other_files(folder: Path, ours: Collection[str], *, earlier: str, option: str) -> None:
    """See that a result may be written: nothing is there, or an earlier one, and the folder can be written to.

    Args:
        folder: The folder.
        ours: Names of the files and folders that an earlier result consists of.
        earlier: What such a result is called, for the error.
        option: The option that names the folder.

    Raises:
        BadInput: The folder holds other files, is a file, or cannot be written.
    """
    refuse_unwritable(folder)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name} if folder.exists() else set()
    if others := sorted(there - set(ours)):
        found = f"other files ({', '.join(others[:5])})"
        raise BadInput(f"a new folder, or {earlier}", found, where=folder, do=f"choose another {option}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; other processes wait. The lock ends with the process, however it ends.

    Raises:
        BadInput: The folder of the lock file cannot be written.
    """
    from filelock import FileLock

    refuse_unwritable(path)  # the lock would be tried for ever
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire()
    except OSError as error:
        raise not_writable(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()
