"""ChestX-ray14 of the NIH Clinical Center (Wang et al., CVPR 2017): 14 findings, side by side.

Layouts: the official release (``Data_Entry_2017*.csv`` with images in ``images_0xx/images``, ``images``
or beside it, ``train_val_list.txt`` and ``test_list.txt``), the Kaggle sample (``sample_labels.csv``), or
any folder whose table has the official columns and a ``file`` column of paths. Images that are not there
are left out and counted.
"""

from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.folders import inside
from cxr_data.images.dicom import age_in_years
from cxr_data.readers.listing import SPLIT_FOLDERS, Listing
from cxr_data.readers.tables import find_tables, header, match_images, read_columns

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
BOX_FRAME = (1024, 1024)
"""Width and height of the images that boxes are drawn on."""
_BOXES = ("BBox_List_2017.csv", "BBox_List_2017.csv.gz")
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID")
_EXTRAS = {"Patient Age": "age", "Patient Gender": "sex", "View Position": "projection"}


def looks_like(path: Path) -> bool:
    """Whether a table with the official columns lies in the folder."""
    return bool(_tables(path))


def read(path: Path) -> Listing:
    """List the data set.

    Args:
        path: Folder with the table; the images may lie anywhere below it.

    Returns:
        14 labels (No Finding: all 0), patients by Patient ID, the official split where its lists are there,
        and ``sex``, ``age``, ``projection``.

    Raises:
        BadInput: No table, an unknown finding, or a table that matches no image.
    """
    tables = _tables(path)
    if not tables:
        raise BadInput(
            f"a table with the columns {', '.join(_COLUMNS)} (Data_Entry_2017_v2020.csv)", "none", where=path
        )
    # Its header is broken: OriginalImage[Width,Height] is one name written with a comma, so that the columns after
    # View Position carry halves of names. They are not read.
    entries, table_path = read_columns(tables[0], [*_COLUMNS, *_EXTRAS, "file"]), tables[0]
    if "file" in entries.columns:
        keys = pl.Series("key", [inside(path, name or "", table_path) for name in entries["file"]], pl.String)
        matched, notes = match_images(path, entries.with_columns(keys), table_path, parts=0)
    else:
        matched, notes = match_images(path, entries.with_columns(key="Image Index"), table_path)
    split, split_notes = _split(path, matched)
    table = matched.select(
        "path", pl.col("Patient ID").alias("patient"), split, *_labels(matched, table_path), *_extras(matched)
    )
    if (outside := table["split"].null_count()) and outside < table.height:
        split_notes.append(f"{outside} images are in neither official list and were left out")
        table = table.filter(pl.col("split").is_not_null())
    return Listing("chestxray14", table, LABELS, "multilabel", (*notes, *split_notes))


def boxes(path: Path) -> pl.DataFrame:
    """Boxes that a radiologist drew around findings of some images (``BBox_List_2017.csv``, plain or gzipped).

    Its header says ``Bbox [x,y,w,h]`` over four columns, and it calls Infiltration Infiltrate.

    Args:
        path: The table, or the folder it lies in.

    Returns:
        A row a box: ``image`` (file name), ``label``, and ``x``, ``y`` (of the upper left corner), ``width``,
        ``height`` in pixels of the 1024 x 1024 release (:data:`BOX_FRAME`). No row where there is no such table.

    Raises:
        BadInput: The table is damaged, or a label is not one of the 14.
    """
    table_path = next((path / name for name in _BOXES if (path / name).is_file()), path)
    names = ("image", "label", "x", "y", "width", "height")
    schema = pl.Schema({name: pl.String() if name in names[:2] else pl.Float64() for name in names})
    if not table_path.is_file():
        return pl.DataFrame(schema=schema)
    try:
        rows = pl.read_csv(table_path, has_header=False, skip_rows=1, infer_schema=False, truncate_ragged_lines=True)
        table = rows[:, :6].rename(dict(zip(rows.columns[:6], names, strict=True)))
        table = table.with_columns(pl.col(names[2:]).cast(pl.Float64))
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise BadInput("a readable table of boxes", str(error).splitlines()[0], where=table_path) from error
    table = table.with_columns(pl.col("label").str.strip_chars().replace({"Infiltrate": "Infiltration"}))
    if unknown := sorted(set(table["label"]) - set(LABELS)):
        raise BadInput(f"the findings {', '.join(LABELS)}", ", ".join(map(str, unknown[:5])), where=table_path)
    return table


def _tables(path: Path) -> list[Path]:
    """CSV files with the official columns; one that names files by path first."""
    return sorted(find_tables(path, _COLUMNS), key=lambda table: ("file" not in header(table), table.name))


def _labels(matched: pl.DataFrame, table_path: Path) -> list[pl.Series]:
    findings = matched["Finding Labels"].str.split("|")
    unknown = set(findings.explode().drop_nulls().unique().to_list()) - {*LABELS, "No Finding", ""}
    if unknown:
        raise BadInput(
            f"the findings {', '.join(LABELS)} or No Finding",
            ", ".join(sorted(unknown)[:5]),
            where=table_path,
        )
    # An image without any entry has not been read: unknown, not healthy.
    unread = matched["Finding Labels"].fill_null("") == ""
    columns = [findings.list.contains(label).cast(pl.Float32).alias(f"label:{label}") for label in LABELS]
    return [pl.select(pl.when(~unread).then(c).otherwise(float("nan")).alias(c.name)).to_series() for c in columns]


def _extras(matched: pl.DataFrame) -> list[pl.Series]:
    columns = []
    for official, name in _EXTRAS.items():
        if official not in matched.columns:
            continue
        column = matched[official].alias(name)
        if name == "age":  # the first edition has ages such as 058Y, 006M and, by mistake, 414
            column = pl.Series(name, [age_in_years(text) for text in column], pl.Float32)
        columns.append(column)
    return columns


def _split(path: Path, matched: pl.DataFrame) -> tuple[pl.Series, list[str]]:
    """Official split by the two lists; a null column when there are none or one side has no image here."""
    nothing = pl.Series("split", [None] * matched.height, pl.String)
    lists = {"train": path / "train_val_list.txt", "test": path / "test_list.txt"}
    if all(file.is_file() for file in lists.values()):
        part = {
            name: split for split, file in lists.items() for name in file.read_text("utf-8").replace("\\", "/").split()
        }
        split = pl.Series("split", [part.get(name) for name in matched["Image Index"]], pl.String)
        if {"train", "test"} <= set(split.unique()):
            return split, []
        return nothing, ["the official lists leave train or test without an image here: not used"]
    notes = ["train_val_list.txt and test_list.txt are not there: this is not the official split"]
    parts = matched.select(
        pl.col("path").str.split("/").list.first().str.to_lowercase().replace_strict(SPLIT_FOLDERS, default=None),
        "Patient ID",
    )
    crossing = parts.group_by("Patient ID").agg(pl.col("path").n_unique()).filter(pl.col("path") > 1).height
    if crossing:
        notes.append(f"the split folders share {crossing} of {parts['Patient ID'].n_unique()} patients: not used")
    return nothing, notes
