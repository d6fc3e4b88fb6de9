"""Any folder with one subfolder a class, with or without train, val and test above them."""

from pathlib import Path, PurePosixPath

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.readers import patients
from cxr_data.readers.listing import (
    MAX_CLASSES,
    SPLIT_FOLDERS,
    Listing,
    named_images,
    one_hot,
    order_classes,
    subfolders,
)
from cxr_data.readers.values import merged_spellings
from cxr_data.spelling import spelling_key


def looks_like(path: Path) -> bool:
    """Whether there is a subfolder: anything more particular has been asked before."""
    return any(entry.is_dir() for entry in path.iterdir())


def read(path: Path) -> Listing:
    """List the folder.

    ``CLASS/…`` or ``train/CLASS/…``: the first folder (below a split folder) is the class, however deep
    the image lies. A ``masks`` folder beside ``images`` (COVID-19 Radiography) is no image of its own and
    is left out.

    Args:
        path: Resolved folder.

    Returns:
        Exclusive classes, healthy-sounding ones first; patients as :func:`patients.facts` finds them.

    Raises:
        BadInput: Fewer than two classes, a class folder without images, or too many to be classes.
    """
    images, refused, other = named_images(path)
    split_of = {name: SPLIT_FOLDERS[name.lower()] for name in subfolders(path) if name.lower() in SPLIT_FOLDERS}
    rows: list[tuple[str, str, str | None]] = []
    loose = masks = 0
    for image in images:
        parts = PurePosixPath(image).parts
        split = split_of.get(parts[0])
        below = parts[1:] if split else parts
        if len(below) < 2 or (split_of and not split):
            loose += 1
        elif "masks" in below[1:-1]:
            masks += 1
        else:
            rows.append((image, below[0], split))
    spelling, merged = merged_spellings(label for _, label, _ in rows)
    rows = [(image, spelling[label], split) for image, label, split in rows]
    labels = order_classes({label for _, label, _ in rows})
    _check_classes(path, labels, [path / name for name in split_of] or [path])

    table = pl.DataFrame(rows, {"path": pl.String, "class": pl.String, "split": pl.String}, orient="row")
    who, notes = patients.facts(path, table["path"].to_list())
    notes = [*merged, *notes]
    if loose:
        where = "outside the class folders" if not split_of else "outside the split and class folders"
        notes.append(f"{loose} images lie {where} and were left out")
    if masks:
        notes.append(f"{masks} files in masks folders were left out")
    table = pl.concat([table, who], how="horizontal").with_columns(one_hot(table["class"].to_list(), labels))
    return Listing(path.name, table.drop("class"), labels, "multiclass", (*notes, *other), refused=refused)


def _check_classes(path: Path, labels: tuple[str, ...], above: list[Path]) -> None:
    there = {name for folder in above for name in subfolders(folder)}
    known = {spelling_key(label) for label in labels}
    if empty := sorted(name for name in there if spelling_key(name) not in known):
        links = {name for name in empty if any((folder / name).is_symlink() for folder in above)}
        named = [f"{name} (a link to a folder elsewhere)" if name in links else name for name in empty]
        raise BadInput(
            "images in every class folder",
            f"none in {', '.join(named[:5])}",
            where=path,
            do="put the images there, or move the folder out of the way",
        )
    if len(labels) < 2:
        do = "add the other classes, or use --reader unlabelled for pretraining without labels"
        if len(labels) == 1 and above == [path] and subfolders(path / labels[0]):
            do = f"if the classes are in there, name that folder: {path / labels[0]}"
        if sheets := sorted(file.name for file in path.iterdir() if file.suffix.lower() in (".xlsx", ".xls", ".ods")):
            do = f"if {sheets[0]} holds the labels, save it as labels.csv; else {do}"
        raise BadInput("at least two class folders", f"one: {labels[0]}" if labels else "none", where=path, do=do)
    if len(labels) > MAX_CLASSES:
        raise BadInput(
            f"up to {MAX_CLASSES} class folders",
            f"{len(labels)} ({', '.join(labels[:3])}, …), which look more like patients than classes",
            where=path,
            do="use --reader unlabelled for pretraining without labels",
        )
