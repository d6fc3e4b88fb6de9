"""Images without labels, for pretraining: a flat folder, or with ``--reader unlabelled`` any tree."""

from pathlib import Path, PurePosixPath

import polars as pl

from cxr_data.readers import patients
from cxr_data.readers.listing import SPLIT_FOLDERS, Listing, is_flat, named_images, subfolders


def looks_like(path: Path) -> bool:
    """Whether images lie in the folder itself, or in its train, val and test, with no folders beside them."""
    folders = subfolders(path)
    if any(name.lower() not in SPLIT_FOLDERS for name in folders):
        return False
    return all(is_flat(path / name) for name in folders) if folders else is_flat(path)


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
