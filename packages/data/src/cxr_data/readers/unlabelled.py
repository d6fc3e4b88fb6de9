"""Images without labels, for pretraining: a flat folder, or with ``--reader unlabelled`` any tree."""

import os
from pathlib import Path, PurePosixPath

import polars as pl

from cxr_data.image_files import IMAGE_SUFFIXES
from cxr_data.readers import patients
from cxr_data.readers.listing import SPLIT_FOLDERS, Listing, images_and_refused


def looks_like(path: Path) -> bool:
    """Whether images lie in the folder itself, or in its train, val and test, with no folders beside them."""
    with os.scandir(path) as entries:
        visible = [e for e in entries if not e.name.startswith((".", "__MACOSX"))]
    folders = [e.name for e in visible if os.path.isdir(e.path)]
    if any(name.lower() not in SPLIT_FOLDERS for name in folders):
        return False
    return all(_flat(path / name) for name in folders) if folders else _flat(path)


def read(path: Path) -> Listing:
    """List every image below the folder without labels.

    Args:
        path: Resolved folder.

    Returns:
        No labels, task None; a split where train, val and test folders are there; patients as
        :func:`patients.facts` finds them.

    Raises:
        BadInput: No image.
    """
    images, refused = images_and_refused(path)
    split = [SPLIT_FOLDERS.get(PurePosixPath(image).parts[0].lower()) for image in images]
    if None in split or "train" not in split:
        split = [None] * len(images)
    who, notes = patients.facts(path, images)
    table = pl.DataFrame({"path": images, "split": pl.Series(split, dtype=pl.String)})
    return Listing(path.name, pl.concat([table, who], how="horizontal"), (), None, tuple(notes), refused=refused)


def _flat(folder: Path) -> bool:
    """Whether a folder holds images and no folders; a file without a suffix may be DICOM."""
    with os.scandir(folder) as entries:
        visible = [e for e in entries if not e.name.startswith((".", "__MACOSX"))]
    kinds = {os.path.splitext(e.name)[1].lower() for e in visible}
    return not any(os.path.isdir(e.path) for e in visible) and (
        bool(kinds & IMAGE_SUFFIXES) or any(not kind or kind[1:].isdigit() for kind in kinds)
    )
