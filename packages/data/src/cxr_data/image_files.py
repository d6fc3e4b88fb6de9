"""The image files below a folder."""

import os
from collections import Counter
from pathlib import Path

from cxr_data.errors import BadInput
from cxr_data.folders import File, refuse_outside, scan
from cxr_data.images.elements import SNIFFED, is_dicom
from cxr_data.images.header import BrokenImage

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".bmp", ".dcm", ".dicom"}


def spelt(path: str) -> str:
    """A path as text that a table can hold: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def found_images(root: Path) -> list[str]:
    """Relative paths of the image files below a folder, sorted, whatever bytes their names are.

    Suffixes decide; a file without one, or with digits for one, counts when it begins as DICOM does.

    Raises:
        BadInput: No image at all.
    """
    files = scan(root)
    images = [file.path for file in files if _is_image(root, file)]
    if not images:
        kinds = Counter(os.path.splitext(file.path)[1].lower() or "no suffix" for file in files)
        found = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(5)) or "an empty folder"
        raise BadInput(f"images ({', '.join(sorted(IMAGE_SUFFIXES))})", found, where=root)
    return images


def _is_image(root: Path, file: File) -> bool:
    suffix = os.path.splitext(file.path)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if (suffix and not suffix[1:].isdigit()) or file.size < 132:
        return False
    try:
        refuse_outside(root, file.path)
        with open(root / file.path, "rb") as handle:
            return is_dicom(handle.read(SNIFFED))
    except (BrokenImage, OSError):
        return False
