"""The table beside a folder's images as text, its columns under our names."""

import re
from collections import Counter
from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.readers import values
from cxr_data.readers.listing import UNCERTAIN

CLASS = "class"


def columns(table_path: Path) -> list[str]:
    """Names of a CSV or Parquet table's columns; none where it cannot be read or is no table."""
    if not table_path.is_file():
        return []
    if table_path.suffix.lower() == ".parquet":
        try:
            return pl.scan_parquet(table_path).collect_schema().names()
        except (pl.exceptions.PolarsError, OSError):
            return []
    return values.header(table_path) if table_path.name.lower().endswith((".csv", ".csv.gz", ".tsv")) else []


def what_is_there(table_path: Path) -> str:
    """What a table without a column of files holds instead, for the error."""
    if not table_path.stat().st_size:
        return "an empty file"
    if table_path.suffix == ".parquet":
        names = columns(table_path)
        return f"the columns {', '.join(names)[:200]}" if names else "a file that is no Parquet table"
    names = values.header(table_path)
    return f"the columns {', '.join(names)[:200]}" if names else "bytes that are no text"


def as_text(table_path: Path) -> pl.DataFrame:
    """The whole table as stripped text, null words as null, columns under our names where we know them."""
    table = _parquet_text(table_path) if table_path.suffix.lower() == ".parquet" else values.read_csv(table_path)
    names = [re.sub(r"^label:\s*", "label:", name.strip(), flags=re.IGNORECASE) for name in table.columns]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadInput("each column once", f"{twice[0]} twice", where=table_path, do="rename or remove one of them")
    table.columns = names
    files = values.file_column(table.columns)
    table = table.rename({files: "file"}) if files else table
    if table.is_empty() or "file" not in table.columns:
        do = "write one row per image below the header, or move the table out of the folder"
        raise BadInput("a table with rows and a column file", "none", where=table_path, do=do)
    if twice := [name for name in map(_first_name, table.columns) if name in table.columns]:
        raise BadInput("each column once", f"{twice[0]} twice", where=table_path, do="rename or remove one of them")
    table = values.cleaned(table)
    if table.is_empty():
        raise BadInput("a table with rows and a column file", "blank rows", where=table_path)
    renamed = values.known_columns(table.columns)
    table = table.rename({name: ours for name, ours in renamed.items() if not holds_labels(table[name])})
    if "split" not in table.columns and (split := values.split_column(table)):
        table = table.rename({split: "split"})
    return table.rename(_class_column(table))


def _parquet_text(table_path: Path) -> pl.DataFrame:
    try:
        table = pl.read_parquet(table_path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput("a readable table", str(error).splitlines()[0], where=table_path) from error
    plain = [name for name, kind in table.schema.items() if not kind.is_nested() and kind != pl.Binary]
    return table.select(
        pl.col(name).cast(pl.Int8) if table.schema[name] == pl.Boolean else pl.col(name) for name in plain
    ).cast(pl.String)


def _class_column(table: pl.DataFrame) -> dict[str, str]:
    """The column of exclusive classes or findings, by its usual names, where no column is a label already."""
    if CLASS in table.columns or any(name.startswith("label:") for name in table.columns):
        return {}
    for spelling in values.CLASS_COLUMNS:
        for name in table.columns:
            if (
                values.key(name) == spelling
                and not holds_labels(table[name])
                and table[name].null_count() < table.height
            ):
                return {name: CLASS}
    return {}


def _first_name(column: str) -> str | None:
    """The name that polars has found twice in a header and numbered; None of any other."""
    match = re.fullmatch(r"(.+)_duplicated_\d+", column)
    return match and match[1].strip()


def holds_labels(column: pl.Series) -> bool:
    """Whether a column holds 0, 1, -1 and blanks only, and at least one 1."""
    cells = values.binary(column).drop_nulls().cast(pl.Float32, strict=False)
    return bool(cells.is_in([0.0, 1.0, UNCERTAIN]).fill_null(False).all()) and bool((cells == 1).any())
