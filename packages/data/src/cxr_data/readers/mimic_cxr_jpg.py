"""MIMIC-CXR-JPG (Johnson et al., arXiv 1901.07042): 377,110 images with CheXpert's 14 observations.

Four tables, ``mimic-cxr-2.x.x-{metadata,split,chexpert,negbio}.csv.gz``, joined on subject_id, study_id and
dicom_id; images as ``files/p10/p10000032/s50414267/DICOM_ID.jpg``.
"""

from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.readers.chexpert import LABELS, observations
from cxr_data.readers.listing import Listing
from cxr_data.readers.tables import find_table, find_tables, match_images, official_split, read_columns

_STUDY = ("subject_id", "study_id")
_IMAGE = (*_STUDY, "dicom_id")
_PREFIX = "mimic-cxr"
_SPLITS = {"train": "train", "validate": "val", "test": "test"}


def looks_like(path: Path) -> bool:
    """Whether the metadata and a label table lie in the folder."""
    return bool(find_tables(path, (*_IMAGE, "ViewPosition"), prefix=_PREFIX) and _label_tables(path))


def read(path: Path) -> Listing:
    """List the data set.

    Args:
        path: Folder with the tables; the images may lie anywhere below.

    Returns:
        14 labels of the CheXpert labeller (NegBio's where only they are there), doubtful ones UNCERTAIN and
        blank ones UNMENTIONED, NaN where a study has no labels; patients by subject_id, the official split,
        ``projection`` and ``study``. Frontal images unless the user chooses.

    Raises:
        BadInput: A table is missing or damaged, or they match no image.
    """
    metadata = find_table(path, (*_IMAGE, "ViewPosition"), "mimic-cxr-2.0.0-metadata.csv.gz", prefix=_PREFIX)
    label_tables = _label_tables(path)
    if not label_tables:
        raise BadInput("a table of labels (mimic-cxr-2.0.0-chexpert.csv.gz)", "none", where=path)
    labels = label_tables[0]
    entries = read_columns(metadata, [*_IMAGE, "ViewPosition"])
    of_study = read_columns(labels, [*_STUDY, *LABELS]).unique(_STUDY, keep="first", maintain_order=True)
    entries = entries.join(of_study, on=_STUDY, how="left")
    notes = [] if "chexpert" in labels.name else [f"labels are those of {labels.name}"]
    split_tables = find_tables(path, (*_IMAGE, "split"), prefix=_PREFIX)
    if split_tables:
        parts = read_columns(split_tables[0], [*_IMAGE, "split"]).unique(_IMAGE, keep="first", maintain_order=True)
        entries = entries.join(parts, on=_IMAGE, how="left")
    else:
        entries = entries.with_columns(pl.lit(None, pl.String).alias("split"))
        notes.append("mimic-cxr-2.0.0-split.csv.gz is not there: this is not the official split")
    matched, more = match_images(path, entries.with_columns(pl.col("dicom_id").alias("key")), metadata, stem=True)
    notes += more
    if split_tables:
        split = pl.col("split").replace_strict(_SPLITS, default=None, return_dtype=pl.String)
        matched, more = official_split(matched.with_columns(split), split_tables[0].name)
        notes += more
    columns = observations(matched, labels)
    if unread := int(columns[0].is_nan().sum()):
        notes.append(f"{unread} images have no labels: unknown")
    table = matched.select(
        "path",
        pl.col("subject_id").alias("patient"),
        "split",
        *columns,
        pl.col("ViewPosition").alias("projection"),
        pl.col("study_id").alias("study"),
    )
    return Listing("mimic_cxr_jpg", table, LABELS, "multilabel", tuple(notes), projection="frontal")


def _label_tables(path: Path) -> list[Path]:
    """Tables of labels, those of the CheXpert labeller first."""
    tables = find_tables(path, (*_STUDY, *LABELS), prefix=_PREFIX)
    return sorted(tables, key=lambda table: "chexpert" not in table.name)
