"""CheXpert of Stanford (Irvin et al., AAAI 2019): 14 observations mined from reports, each with doubt.

``train.csv`` and ``valid.csv`` with a ``Path`` column, images as ``patientNNNNN/studyN/viewN_frontal.jpg``
below ``train`` and ``valid`` (full and small edition) or in the batches of the later download. An observation
is 1, 0, -1 (uncertain) or blank (not mentioned).
"""

from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.images.dicom import age_in_years
from cxr_data.readers.listing import UNCERTAIN, UNMENTIONED, Listing
from cxr_data.readers.tables import header, match_images, numbers, official_split, read_columns, words

LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_COLUMNS = ("Path", "Frontal/Lateral", *LABELS)
_WORN = ("Sex", "Age", "AP/PA")
_TABLES = {"train.csv": "train", "valid.csv": "val", "test.csv": "test"}


def looks_like(path: Path) -> bool:
    """Whether a train.csv or valid.csv with the official columns lies in the folder, or in its CheXpert folder."""
    return bool(_tables(path))


def read(path: Path) -> Listing:
    """List the data set.

    The test part of the challenge is rarely at hand, so results are published on ``valid.csv``, which
    radiologists labelled: without a ``test.csv`` it is the test part here, and validation patients are drawn
    from train.

    Args:
        path: Folder with the tables, or the one above it; the images may lie anywhere below.

    Returns:
        14 labels, doubtful ones UNCERTAIN and blank ones UNMENTIONED; patients, ``projection`` (AP, PA, Frontal,
        Lateral), ``sex``, ``age``. Frontal images unless the user chooses.

    Raises:
        BadInput: No table, a value that is no observation, or tables that match no image.
    """
    tables = _tables(path)
    if not tables:
        raise BadInput(f"train.csv with the columns {', '.join(_COLUMNS[:3])}, …", "none", where=path)
    parts = [
        read_columns(table, [*_COLUMNS, *_WORN]).with_columns(pl.lit(split).alias("split"))
        for table, split in tables.items()
    ]
    entries = pl.concat(parts, how="diagonal").with_columns(
        # However the download is unpacked, the last three parts name an image.
        pl.col("Path").str.replace_all("\\", "/", literal=True).str.split("/").list.tail(3).list.join("/").alias("key")
    )
    first = next(iter(tables))
    matched, notes = match_images(path, entries, first, parts=3)
    if "test" not in tables.values():
        if "val" in tables.values():
            notes.append("valid.csv, labelled by radiologists, is the test part, as in published results")
        matched = matched.with_columns(pl.col("split").replace({"val": "test"}))
    matched, split_notes = official_split(matched, " and ".join(table.name for table in tables))
    patient = matched["path"].str.split("/").list.get(-3)
    table = matched.select(
        "path",
        patient.alias("patient"),
        "split",
        *observations(matched, first),
        *_extras(matched),
    )
    return Listing("chexpert", table, LABELS, "multilabel", (*notes, *split_notes), projection="frontal")


def observations(table: pl.DataFrame, table_path: Path) -> list[pl.Series]:
    """``label:NAME`` columns from what the CheXpert labeller writes: 1, 0, -1 or nothing.

    Args:
        table: Text columns named as in LABELS.
        table_path: For errors.

    Returns:
        1, 0, UNCERTAIN or UNMENTIONED; NaN where a row has no observation at all (no report was labelled).

    Raises:
        BadInput: Any other value.
    """
    columns = [numbers(table[name], (1, 0, UNCERTAIN), table_path) for name in LABELS]
    labelled = table.select(pl.any_horizontal(pl.col(LABELS).is_not_null())).to_series()
    values = pl.DataFrame(columns).with_columns(labelled.alias("labelled"))
    silence = pl.when("labelled").then(UNMENTIONED).otherwise(float("nan"))
    return values.select(
        pl.col(name).fill_null(silence).cast(pl.Float32).alias(f"label:{name}") for name in LABELS
    ).get_columns()


def _tables(path: Path) -> dict[Path, str]:
    """Official tables and their parts, in the folder or in the CheXpert folder within it."""
    inner = sorted(entry for entry in path.iterdir() if entry.name.startswith("CheXpert") and entry.is_dir())
    for base in (path, *inner):
        tables = {base / name: split for name, split in _TABLES.items() if set(_COLUMNS) <= set(header(base / name))}
        if tables:
            return tables
    return {}


def _extras(matched: pl.DataFrame) -> list[pl.Series]:
    whole = matched.with_columns(pl.lit(None, pl.String).alias(name) for name in _WORN if name not in matched.columns)
    frontal = (pl.col("Frontal/Lateral") == "Frontal") & pl.col("AP/PA").is_in(["AP", "PA"])
    projection = whole.select(
        pl.when(frontal).then("AP/PA").otherwise("Frontal/Lateral").alias("projection")
    ).to_series()
    years = {text: age_in_years(text) for text in whole["Age"].unique()}
    age = pl.Series("age", [years[text] for text in whole["Age"]], pl.Float32)
    return [projection, words(whole["Sex"], {"female": "F", "male": "M"}).alias("sex"), age]
