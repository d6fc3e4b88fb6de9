"""Label tables beside images: their headers, their columns as text, and which image a row speaks of."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.readers import values
from cxr_data.readers.listing import image_files


def header(path: Path) -> list[str]:
    """Column names of an official table, which has commas; empty when it cannot be read."""
    return values.header(path, (",",))


def find_tables(folder: Path, columns: Iterable[str], *, prefix: str = "") -> list[Path]:
    """CSV files of a folder, plain or gzipped, that have all of some columns, sorted by name.

    Args:
        folder: Where to look, not below.
        columns: Names the header must have.
        prefix: How the file's name begins, in any case.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                e.name for e in entries if e.name.lower().endswith((".csv", ".csv.gz")) and os.path.isfile(e.path)
            )
    except OSError:
        return []
    wanted = set(columns)
    return [
        folder / name
        for name in names
        if name.lower().startswith(prefix.lower()) and wanted <= set(header(folder / name))
    ]


def find_table(folder: Path, columns: Sequence[str], example: str, *, prefix: str = "") -> Path:
    """The first of :func:`find_tables`.

    Args:
        folder: Where to look.
        columns: Names the header must have.
        example: What the official table is called, for the error.
        prefix: How the file's name begins.

    Raises:
        BadInput: There is none.
    """
    tables = find_tables(folder, columns, prefix=prefix)
    if not tables:
        raise BadInput(f"a table with the columns {', '.join(columns)} ({example})", "none", where=folder)
    return tables[0]


def read_columns(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Those of some columns that a CSV table, plain or gzipped, has, as stripped text.

    Returns:
        Text columns in the wanted order; what is blank is null.

    Raises:
        BadInput: The table cannot be read, or has no row.
    """
    names = header(path)
    present = [name for name in columns if name in names]
    try:
        table = pl.read_csv(
            path, infer_schema=False, truncate_ragged_lines=True, columns=[names.index(name) for name in present]
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput("a readable CSV table", str(error).splitlines()[0], where=path) from error
    if table.is_empty():
        raise BadInput("a table with rows", "none", where=path)
    table.columns = [name.strip() for name in table.columns]
    text = pl.all().str.strip_chars()
    return table.select(present).select(pl.when(text != "").then(text))


def match_images(
    root: Path, entries: pl.DataFrame, table_path: Path, *, parts: int = 1, stem: bool = False
) -> tuple[pl.DataFrame, list[str]]:
    """Find the image of every row, wherever it lies below the folder.

    Args:
        root: Resolved folder.
        entries: A table with a text column ``key``: the last ``parts`` parts of the image's path, with
            forward slashes.
        table_path: Where the entries come from, for notes and errors.
        parts: How many parts of a path name an image; 0 for the whole path.
        stem: Whether keys lack the suffix of the file.

    Returns:
        The rows whose image is there, with ``path`` and without ``key``, sorted by path; and notes on rows
        without an image and images without a row.

    Raises:
        BadInput: No image at all, or none that the table names.
    """
    images = image_files(root)
    keys = ["/".join(path.split("/")[-parts:]) for path in images]
    if stem:
        keys = [os.path.splitext(key)[0] for key in keys]
    known = pl.DataFrame({"path": images, "key": keys}, {"path": pl.String, "key": pl.String})
    known = known.unique("key", keep="first", maintain_order=True)
    rows = entries.unique("key", keep="first", maintain_order=True)
    matched = rows.join(known, on="key", how="inner")
    if matched.is_empty():
        raise BadInput(
            "images that the table names",
            f"none of them among {len(images)} images (the first is {images[0]})",
            where=table_path,
        )
    notes = []
    if missing := rows.height - matched.height:
        notes.append(f"{missing} images of {table_path.name} are not there and were left out")
    if unlisted := len(images) - matched.height:
        notes.append(f"{unlisted} images are not in {table_path.name} and were left out")
    return matched.drop("key").sort("path"), notes


def numbers(column: pl.Series, allowed: Sequence[float], table_path: Path) -> pl.Series:
    """A text column as Float32; a blank is null.

    Raises:
        BadInput: Anything else, with the first of them.
    """
    values = column.cast(pl.Float32, strict=False)
    strange = column.filter(column.is_not_null() & ~values.is_in([float(value) for value in allowed]).fill_null(False))
    if len(strange):
        raise BadInput(
            f"{', '.join(f'{value:g}' for value in allowed)} or nothing in the column {column.name}",
            repr(strange[0]),
            where=table_path,
            do="write 1 where a finding is present, 0 where it is absent, and nothing where it is unknown",
        )
    return values


def words(column: pl.Series, meanings: Mapping[str, str]) -> pl.Series:
    """A text column with each known word (lower case) replaced, anything else as it is."""
    return pl.Series(column.name, [meanings.get((v or "").lower(), v) for v in column], pl.String)


def official_split(table: pl.DataFrame, where: str) -> tuple[pl.DataFrame, list[str]]:
    """Use the ``split`` column of a data set, or set it aside.

    Args:
        table: With ``split``: "train", "val", "test" or null.
        where: What says the split, for notes.

    Returns:
        The table: rows in no part are left out; all null where train or test has no image here.
    """
    if not {"train", "test"} <= set(table["split"].unique()):
        nothing = table.with_columns(pl.lit(None, pl.String).alias("split"))
        return nothing, [f"{where} leaves train or test without an image here: not the official split"]
    inside = table.filter(pl.col("split").is_not_null())
    left = table.height - inside.height
    return inside, [f"{left} images are in no part of {where} and were left out"] if left else []
