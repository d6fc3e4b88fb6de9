"""RSNA Pneumonia Detection Challenge (Shih et al., Radiology: AI 2019): boxes around lung opacities.

``stage_2_train_labels.csv`` has one row per box and one row per image without any; DICOM images are named by
``patientId``. They were chosen from ChestX-ray14: never train on one and test on the other.
"""

from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.readers.listing import Listing, one_hot
from cxr_data.readers.tables import find_table, find_tables, match_images, numbers, read_columns

LABELS = ("No Lung Opacity", "Lung Opacity")
BOX_FRAME = (1024, 1024)
"""Width and height of the images that boxes are drawn on."""
_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
_DETAILS = ("patientId", "class")


def looks_like(path: Path) -> bool:
    """Whether a table with the official columns lies in the folder."""
    return bool(find_tables(path, _COLUMNS))


def read(path: Path) -> Listing:
    """List the data set.

    Args:
        path: Folder with the table; the images may lie anywhere below.

    Returns:
        Two classes, no split, one patient per image, ``boxes`` (how many) and, where
        ``stage_2_detailed_class_info.csv`` is there, ``detail`` (Normal, Lung Opacity, No Lung Opacity / Not Normal).

    Raises:
        BadInput: No table, a Target that is not 0 or 1 throughout an image, or a table that matches no image.
    """
    table_path = find_table(path, _COLUMNS, "stage_2_train_labels.csv")
    boxes = read_columns(table_path, _COLUMNS)
    boxes = boxes.with_columns(numbers(boxes["Target"], (0, 1), table_path), pl.col("patientId").alias("key"))
    images = boxes.group_by("key", maintain_order=True).agg(
        pl.col("Target").min(), pl.col("Target").max().alias("most"), pl.col("x").count().alias("boxes")
    )
    if torn := images.filter(pl.col("Target").is_null() | (pl.col("Target") != pl.col("most")))["key"].to_list():
        raise BadInput("one Target an image, 0 or 1", f"several or none for {torn[0]}", where=table_path)
    if details := find_tables(path, _DETAILS):
        detail = read_columns(details[0], _DETAILS).unique("patientId", keep="first", maintain_order=True)
        images = images.join(
            detail.select(pl.col("patientId").alias("key"), pl.col("class").alias("detail")), "key", "left"
        )
    matched, notes = match_images(path, images.with_columns(pl.col("key").alias("patient")), table_path, stem=True)
    classes = [LABELS[int(target)] for target in matched["Target"]]
    table = matched.with_columns(pl.lit(None, pl.String).alias("split"), *one_hot(classes, LABELS))
    columns = ["path", "patient", "split", *(f"label:{label}" for label in LABELS), "boxes"]
    notes.append("these images come from ChestX-ray14: do not train on one and test on the other")
    extras = ["detail"] if "detail" in table.columns else []
    return Listing("rsna", table.select(*columns, *extras), LABELS, "multiclass", tuple(notes))


def boxes(path: Path) -> pl.DataFrame:
    """The boxes around lung opacities.

    Args:
        path: Folder with the table.

    Returns:
        A row a box: ``image`` (file name without suffix), ``label`` (Lung Opacity), ``x``, ``y``, ``width``,
        ``height`` in pixels of :data:`BOX_FRAME`.

    Raises:
        BadInput: No table.
    """
    table = read_columns(find_table(path, _COLUMNS, "stage_2_train_labels.csv"), _COLUMNS)
    return table.filter(pl.col("x").is_not_null()).select(
        pl.col("patientId").alias("image"),
        pl.lit(LABELS[1]).alias("label"),
        pl.col("x", "y", "width", "height").cast(pl.Float64, strict=False),
    )
