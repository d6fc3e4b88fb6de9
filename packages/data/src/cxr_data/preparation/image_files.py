"""The image files of a folder: which files count as images, and which other files are there."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cxr_data.errors import BadInput, listed
from cxr_data.folders import refuse_outside, scan_with_links
from cxr_data.images.header import BrokenImage, UnreadFormat, first_bytes, image_kind

_READ = ".jpg .jpeg .jpe .jfif .png .apng .tif .tiff .btf .tf8 .bmp .dib .gif .webp .jp2 .j2k .j2c .jpx .jpf"
_DICOM, _NOT_READ = ".dcm .dicom .ima", ".heic .heif .avif .jxl"
IMAGE_SUFFIXES = frozenset(f"{_READ} {_DICOM} {_NOT_READ}".split())
"""Suffixes of files that are taken for images without a look: what cannot be read is named as broken."""
_TABLES = ".csv .tsv .json .jsonl .xml .yaml .yml .xls .xlsx .parquet .npy .npz .h5"
_TEXTS, _CODE = ".txt .md .html .htm .pdf .doc .docx .log", ".py .ipynb .zip .tar .tgz .sha256 .md5"
_NO_IMAGES = frozenset(f"{_TABLES} {_TEXTS} {_CODE}".split())
"""Suffixes of files that are not looked into."""


@dataclass(frozen=True)
class Images:
    """What :func:`find_images` finds below a folder.

    Attributes:
        paths: Relative paths of the images, sorted, whatever bytes their names are.
        notes: What else lies there, for the user: other files, and linked folders that were not followed.
    """

    paths: list[str]
    notes: tuple[str, ...]


def spelt(path: str) -> str:
    """A path as text that a table can hold: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find_images(root: Path) -> Images:
    """Find the image files below a folder; see :func:`is_image` for what counts.

    Raises:
        BadInput: No image at all.
    """
    files, links = scan_with_links(root)
    images = [file.path for file in files if _is_image(root, file.path)]
    taken = set(images)
    others = Counter(_suffix(file.path) or "without suffix" for file in files if file.path not in taken)
    kinds = ", ".join(f"{count} x {kind}" for kind, count in others.most_common(5))
    kinds += f" and {len(others) - 5} other kinds" if len(others) > 5 else ""
    linked = listed([spelt(link) for link in links])
    if not images:
        there = kinds or "an empty folder"
        if links:
            there = f"{len(links)} links to folders elsewhere ({linked})" + (f", {kinds}" if kinds else "")
        do = "copy what they lead to (`cp -rL`), or name the folder itself" if links else "check the path"
        raise BadInput("images (JPEG, PNG, TIFF, BMP, GIF, WebP, JPEG 2000 or DICOM)", there, where=root, do=do)
    notes = []
    if links:
        notes.append(links_note(links))
    if others:
        notes.append(f"{counted(others.total(), 'other file')} left out: {kinds}")
    return Images(images, tuple(notes))


def counted(count: int, noun: str) -> str:
    """``1 file was``, ``2 files were``."""
    return f"{count} {noun} was" if count == 1 else f"{count} {noun}s were"


def links_note(links: list[str]) -> str:
    """Note for the user on links to folders that were not followed."""
    linked = listed([spelt(link) for link in links])
    return f"links to folders elsewhere were not followed: {linked}; copy what they lead to (`cp -rL`)"


def is_image(path: Path) -> bool:
    """Whether a file counts as an image: by its suffix, and where that does not tell by its first bytes.

    Pictures of formats that are not read count too, so that each is named as broken and none is left out unseen.
    """
    suffix = _suffix(path.name)
    if suffix in IMAGE_SUFFIXES or suffix in {f"{name}.gz" for name in IMAGE_SUFFIXES}:
        return True
    if suffix in _NO_IMAGES or suffix.endswith((".csv.gz", ".nii.gz", ".tar.gz")):
        return False
    try:
        image_kind(first_bytes(path))
    except UnreadFormat:
        return True
    except BrokenImage:
        return False
    return True


def _suffix(path: str) -> str:
    """Suffix in small letters; before ``.gz`` that of the packed file belongs to it."""
    stem, suffix = os.path.splitext(path)
    suffix = suffix.lower()
    return os.path.splitext(stem)[1].lower() + suffix if suffix == ".gz" else suffix


def _is_image(root: Path, path: str) -> bool:
    """:func:`is_image`, but a link that leads out of the folder is left to its suffix alone."""
    if _suffix(path) in IMAGE_SUFFIXES:  # most files, and quick
        return True
    try:
        refuse_outside(root, path)
    except BrokenImage:
        return False
    return is_image(root / path)
