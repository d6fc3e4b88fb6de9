"""VinDr-CXR (Nguyen et al., Scientific Data 2022): radiographs that several radiologists each read.

Two editions. Kaggle: ``train.csv``, one row per box and reader (image_id, class_name, class_id, rad_id, x_min …),
three readers per image, test without labels. PhysioNet: ``image_labels_train.csv``, one row per image and reader
with a 0/1 column per finding, and ``image_labels_test.csv``, the consensus of five.
"""

from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.readers.listing import Listing
from cxr_data.readers.tables import find_tables, header, match_images, numbers, official_split, read_columns

_BOXES = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")
_PLACES = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")
_HEALTHY = "No finding"


def looks_like(path: Path) -> bool:
    """Whether a table of one of the two editions lies in the folder or in its ``annotations``."""
    return bool(_physionet(path) or find_tables(path, _BOXES))


def read(path: Path) -> Listing:
    """List the data set.

    Args:
        path: Folder with the tables; the images may lie anywhere below.

    Returns:
        One label per finding (No finding: all 0): the share of an image's readers who saw it, in [0, 1]; one
        patient per image (the release does not say), ``readers`` (how many), and the official split where the
        test labels are there.

    Raises:
        BadInput: No table, a damaged one, or tables that match no image.
    """
    if tables := _physionet(path):
        shares = [_by_image(table).with_columns(pl.lit(split).alias("split")) for split, table in tables.items()]
        first, entries = next(iter(tables.values())), pl.concat(shares, how="diagonal")
    elif box_tables := find_tables(path, _BOXES):
        first, entries = box_tables[0], _by_box(box_tables[0]).with_columns(pl.lit(None, pl.String).alias("split"))
    else:
        raise BadInput(f"a table with the columns {', '.join(_BOXES[:4])}, … (train.csv)", "none", where=path)
    matched, notes = match_images(path, entries, first, stem=True)
    if tables:
        matched, more = official_split(matched, " and ".join(table.name for table in tables.values()))
        notes += more
    notes.append("the release does not say which images are of one patient: each counts as one of its own")
    labels = [name for name in matched.columns if name.startswith("label:")]
    table = matched.select("path", "patient", "split", pl.col(labels).cast(pl.Float32), "readers")
    return Listing("vindr_cxr", table, tuple(name[6:] for name in labels), "multilabel", tuple(notes))


def boxes(path: Path) -> pl.DataFrame:
    """The boxes that the readers drew, each reader's own.

    Args:
        path: Folder with the tables; PhysioNet's lie in ``annotations_train.csv`` and ``annotations_test.csv``.

    Returns:
        A row a box: ``image`` (file name without suffix), ``label``, ``x``, ``y`` (upper left), ``width``,
        ``height`` in pixels of the image itself. No row where there is no table with boxes.

    Raises:
        BadInput: A corner is not a number.
    """
    tables = [_corners(table) for folder in (path, path / "annotations") for table in find_tables(folder, _PLACES)]
    names = ("image", "label", "x", "y", "width", "height")
    empty = pl.DataFrame(schema={name: pl.String if name in names[:2] else pl.Float64 for name in names})
    return pl.concat([empty, *tables])


def _corners(table_path: Path) -> pl.DataFrame:
    table = read_columns(table_path, _PLACES)
    table = table.filter(pl.col("x_min").is_not_null() & (pl.col("class_name") != _HEALTHY))
    try:
        corners = table.with_columns(pl.col(_PLACES[2:]).cast(pl.Float64))
    except pl.exceptions.InvalidOperationError as error:
        raise BadInput("numbers in x_min … y_max", str(error).splitlines()[0], where=table_path) from error
    return corners.select(
        pl.col("image_id").alias("image"),
        pl.col("class_name").alias("label"),
        pl.col("x_min").alias("x"),
        pl.col("y_min").alias("y"),
        (pl.col("x_max") - pl.col("x_min")).alias("width"),
        (pl.col("y_max") - pl.col("y_min")).alias("height"),
    )


def _physionet(path: Path) -> dict[str, Path]:
    """Image-level tables by split."""
    for folder in (path, path / "annotations"):
        tables = {
            split: folder / f"image_labels_{split}.csv"
            for split in ("train", "test")
            if {"image_id", _HEALTHY} <= set(header(folder / f"image_labels_{split}.csv"))
        }
        if tables:
            return tables
    return {}


def _by_image(table_path: Path) -> pl.DataFrame:
    """Shares from one row per image and reader; a consensus counts as one reader."""
    columns = header(table_path)
    findings = [name for name in columns if name not in ("", "image_id", "rad_id", "rad_ID", _HEALTHY)]
    table = read_columns(table_path, ["image_id", *findings])
    votes = [numbers(table[name], (0, 1), table_path).alias(f"label:{name}") for name in findings]
    by_image = table.select(pl.col("image_id").alias("key"), *votes).group_by("key", maintain_order=True)
    shares = by_image.agg(pl.col(f"label:{name}").mean() for name in findings)
    return shares.join(by_image.len("readers"), on="key").with_columns(pl.col("key").alias("patient"))


def _by_box(table_path: Path) -> pl.DataFrame:
    """Shares from one row per box and reader: a reader says yes with one box or several."""
    boxes = read_columns(table_path, _BOXES[:4])
    if boxes.select(pl.any_horizontal(pl.all().is_null()).any()).item():
        raise BadInput("an image, a class and a reader in every row", "a row without", where=table_path)
    classes = boxes.select("class_name", pl.col("class_id").cast(pl.Int32, strict=False)).unique().sort("class_id")
    findings = [name for name in classes["class_name"] if name != _HEALTHY]
    by_image = boxes.group_by(pl.col("image_id").alias("key"), maintain_order=True)
    shares = by_image.agg(
        pl.col("rad_id").n_unique().alias("readers"),
        *(
            (pl.col("rad_id").filter(pl.col("class_name") == name).n_unique() / pl.col("rad_id").n_unique()).alias(
                f"label:{name}"
            )
            for name in findings
        ),
    )
    return shares.with_columns(pl.col("key").alias("patient"))
