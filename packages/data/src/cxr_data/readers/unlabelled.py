"""Images without labels, for pretraining: a flat folder, or with ``--reader unlabelled`` any tree."""

import os
from pathlib import Path, PurePosixPath

import polars as pl

from cxr_data.preparation.image_files import is_image
from cxr_data.readers import patients
from cxr_data.readers.listing import SPLIT_FOLDERS, Listing, named_images


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
    images, refused, other = named_images(path)
    split = [SPLIT_FOLDERS.get(PurePosixPath(image).parts[0].lower()) for image in images]
    if None in split or "train" not in split:
        split = [None] * len(images)
    who, notes = patients.facts(path, images)
    table = pl.DataFrame({"path": images, "split": pl.Series(split, dtype=pl.String)})
    notes = [*notes, *other]
    suffixes = (".xlsx", ".xls", ".ods", ".json", ".jsonl", ".xml")
    if sheets := sorted(one.name for one in path.iterdir() if one.suffix.lower() in suffixes):
        notes.append(f"{sheets[0]} is not read: for its labels save it as labels.csv")
    return Listing(path.name, pl.concat([table, who], how="horizontal"), (), None, tuple(notes), refused=refused)


def _flat(folder: Path) -> bool:
    """Whether a folder holds images and no folders."""
    with os.scandir(folder) as entries:
        visible = [e for e in entries if not e.name.startswith((".", "__MACOSX"))]
    return not any(os.path.isdir(e.path) for e in visible) and any(is_image(Path(e.path)) for e in visible)
