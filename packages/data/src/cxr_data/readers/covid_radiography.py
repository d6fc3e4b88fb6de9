"""COVID-19 Radiography Database (Chowdhury et al. 2020, Rahman et al. 2021): class folders with lung masks.

``{COVID,Normal,Lung_Opacity,Viral Pneumonia}/{images,masks}/NAME-1.png``, 299 x 299 pixels, no official split.
"""

from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.readers.listing import Listing, image_files, one_hot

CLASSES = ("Normal", "COVID", "Lung_Opacity", "Viral Pneumonia")


def looks_like(path: Path) -> bool:
    """Whether COVID and another of the classes are there, each with a folder ``images``."""
    classes = _classes(_base(path))
    return "COVID" in classes and len(classes) > 1


def read(path: Path) -> Listing:
    """List the data set.

    Args:
        path: Folder of the class folders, or the one above it.

    Returns:
        The classes that are there, no split, one patient per image (the release does not say), and ``mask``:
        the path of its lung mask, null where there is none.

    Raises:
        BadInput: Fewer than two classes, or one without images.
    """
    base = _base(path)
    labels = _classes(base)
    if len(labels) < 2:
        found = ", ".join(labels) or "none"
        raise BadInput(f"folders {', '.join(CLASSES)}, each with a folder images", found, where=base)
    prefix = "" if base == path else base.name + "/"
    rows: list[tuple[str, str, str | None]] = []
    for label in labels:
        masks = set(image_files(base / label / "masks")) if (base / label / "masks").is_dir() else set()
        for name in image_files(base / label / "images"):
            mask = f"{prefix}{label}/masks/{name}" if name in masks else None
            rows.append((f"{prefix}{label}/images/{name}", label, mask))
    table = pl.DataFrame(rows, dict.fromkeys(("path", "class", "mask"), pl.String), orient="row").sort("path")
    notes = ["the release does not say which images are of one patient: each counts as one of its own"]
    if bare := table["mask"].null_count():
        notes.append(f"{bare} images have no mask")
    table = table.select(
        "path",
        pl.col("path").alias("patient"),
        pl.lit(None, pl.String).alias("split"),
        *one_hot(table["class"].to_list(), labels),
        "mask",
    )
    return Listing("covid_radiography", table, labels, "multiclass", tuple(notes))


def _base(path: Path) -> Path:
    """The folder of the class folders: the archive unpacks to ``COVID-19_Radiography_Dataset``."""
    inner = path / "COVID-19_Radiography_Dataset"
    return inner if inner.is_dir() and not _classes(path) else path


def _classes(base: Path) -> tuple[str, ...]:
    return tuple(label for label in CLASSES if (base / label / "images").is_dir())
