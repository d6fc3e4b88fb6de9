"""Any folder with a table of its images: CSV or Parquet with a column of files, as ``file``, ``path`` or ``image``.

``manifest.csv``, ``manifest.parquet``, ``labels.csv`` or ``labels.parquet`` is recognised when it also has labels:
columns ``label:NAME``, else one column ``class``, else every column of 0, 1 and blanks. With ``--reader manifest``
any name will do. ``patient``, ``split``, ``view``, ``sex`` and ``age`` are used where they are there. A ``labels``
table that cannot be understood is refused where images would otherwise count as unlabelled.
"""

import os
import re
from pathlib import Path

import polars as pl

from cxr_data.cohort import Task
from cxr_data.errors import BadInput
from cxr_data.folders import inside
from cxr_data.images.dicom import age_in_years
from cxr_data.readers import unlabelled
from cxr_data.readers.listing import SPLIT_FOLDERS, UNCERTAIN, Listing, image_files, one_hot, order_classes
from cxr_data.readers.tables import header, numbers

NAMES = ("manifest.csv", "manifest.parquet", "labels.csv", "labels.parquet")
FILE_COLUMNS = ("file", "path", "image", "filename", "file_name", "image_path")
"""Names of the column of files, in any case; the first of them that is there."""
_KNOWN = ("file", "patient", "split", "class", "view", "sex", "age")
_CLASS = "class"
_UNLABELLED = "or, for pretraining without labels, move the table out of the folder"


def looks_like(path: Path) -> bool:
    """Whether one of the usual tables names files and their labels, or ought to."""
    if any(_labelled(path / name) for name in NAMES):
        return True
    return any(_promises_labels(path / name) for name in NAMES) and unlabelled.looks_like(path)


def read(path: Path) -> Listing:
    """List the images that the table names.

    Args:
        path: Folder with the table; ``file`` is relative to it.

    Returns:
        Labels side by side (0, 1, -1 for uncertain, blank or NaN for unknown) in the table's order, or exclusive
        classes, healthy-sounding ones first (blank: unknown); the table's patients and split, else one patient an image
        and no split. Without labels: for pretraining.

    Raises:
        BadInput: No such table or several, one that cannot be understood, a file named twice or with two splits,
            labels that are not 0 and 1, or none of the files is there.
    """
    table_path = _table(path)
    entries = _text(table_path)
    entries, refused = _inside(path, entries, table_path)
    if twice := entries.filter(pl.col("path").is_duplicated())["path"].to_list():
        raise BadInput("each file once", f"{twice[0]} twice", where=table_path)
    images = image_files(path)
    matched = entries.filter(pl.col("path").is_in(images)).sort("path")
    if matched.is_empty():
        found = f"none of them ({entries['file'][0]}, …)"
        raise BadInput("images that the table names", found, where=table_path)
    notes = []
    if missing := entries.height - matched.height:
        notes.append(f"{missing} images of {table_path.name} are not there and were left out")
    if unlisted := len(images) - matched.height:
        notes.append(f"{unlisted} images are not in {table_path.name} and were left out")

    labels, task, columns = _labels(matched, table_path)
    if not labels and _promises_labels(table_path):
        raise BadInput(
            "columns label:NAME, a column class, or columns of zeros and ones",
            f"the columns {', '.join(matched.drop('path').columns)[:200]}",
            where=table_path,
            do=_UNLABELLED,
        )
    patient = pl.col("path").alias("patient")
    if "patient" in matched.columns:
        patient = pl.coalesce("patient", "path").alias("patient")
    else:
        notes.append(f"{table_path.name} has no column patient: each image counts as one patient of its own")
    extras = [pl.col(name) for name in ("view", "sex") if name in matched.columns]
    ages = [age_in_years(text) for text in matched["age"]] if "age" in matched.columns else []
    table = matched.select("path", patient, _split(matched, table_path), *columns, *extras)
    if ages:
        table = table.with_columns(pl.Series("age", ages, pl.Float32))
    used = {*_KNOWN, "path", *labels, *(f"label:{label}" for label in labels)}
    if unused := [name for name in matched.columns if name not in used]:
        notes.append(f"columns that are no labels were not used: {', '.join(unused)}")
    return Listing(path.name, table, labels, task, tuple(notes), refused=refused)


def _inside(path: Path, entries: pl.DataFrame, table_path: Path) -> tuple[pl.DataFrame, tuple[tuple[str, str], ...]]:
    """Entries with their ``path``, without those that leave the folder, and these with the reason."""
    paths: list[str | None] = []
    refused = []
    for name in entries["file"]:
        try:
            paths.append(inside(path, name or "", table_path))
        except BadInput:
            paths.append(None)
            refused.append((name or "", f"{table_path.name} names a file outside the folder"))
    kept = entries.with_columns(pl.Series("path", paths, pl.String)).filter(pl.col("path").is_not_null())
    if kept.is_empty():
        raise BadInput("paths inside the folder", repr(refused[0][0]), where=table_path)
    return kept, tuple(refused)


def _table(path: Path) -> Path:
    """The table: one of the usual names first, else the only one with a column of files."""
    for name in NAMES:
        if _file_column(_columns(path / name)):
            return path / name
    for name in NAMES:
        if _promises_labels(path / name):
            raise BadInput(
                f"a table with a column of files ({', '.join(FILE_COLUMNS)})",
                _what_is_there(path / name),
                where=path / name,
                do=f"write it as UTF-8 text with commas, one row an image; {_UNLABELLED}",
            )
    with os.scandir(path) as entries:
        names = sorted(e.name for e in entries if os.path.isfile(e.path))
    found = [path / name for name in names if _file_column(_columns(path / name))]
    if len(found) != 1:
        named = ", ".join(table.name for table in found) or "none"
        raise BadInput("one CSV or Parquet table with a column file", named, where=path, do=f"call it {NAMES[0]}")
    return found[0]


def _columns(table_path: Path) -> list[str]:
    if not table_path.is_file():
        return []
    if table_path.suffix.lower() == ".parquet":
        try:
            return pl.scan_parquet(table_path).collect_schema().names()
        except (pl.exceptions.PolarsError, OSError):
            return []
    return header(table_path) if table_path.name.lower().endswith((".csv", ".csv.gz")) else []


def _file_column(columns: list[str]) -> str | None:
    """The column of files, or None."""
    names = {name.lower(): name for name in reversed(columns)}
    return next((names[name] for name in FILE_COLUMNS if name in names), None)


def _labelled(table_path: Path) -> bool:
    """Whether a table names files and their labels."""
    columns = _columns(table_path)
    if not _file_column(columns):
        return False
    if _CLASS in columns or any(name.startswith("label:") for name in columns):
        return True
    if not _promises_labels(table_path) and not unlabelled.looks_like(table_path.parent):
        return False  # class folders, and a manifest of their patients with some other column of zeros and ones
    try:
        return bool(_plain_labels(_text(table_path)))
    except BadInput:
        return False


def _promises_labels(table_path: Path) -> bool:
    """Whether a table must not be passed over: its name says labels."""
    return table_path.name.startswith("labels.") and table_path.is_file()


def _what_is_there(table_path: Path) -> str:
    """What a table without a column of files holds instead, for the error."""
    if not table_path.stat().st_size:
        return "an empty file"
    if table_path.suffix == ".parquet":
        columns = _columns(table_path)
        return f"the columns {', '.join(columns)[:200]}" if columns else "a file that is no Parquet table"
    with open(table_path, "rb") as file:
        line = file.readline(2**16)
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return "bytes that are no UTF-8 text"
    return f"the header {text[:200]!r}" if text.isprintable() else "bytes that are no text"


def _text(table_path: Path) -> pl.DataFrame:
    """The whole table as stripped text, blanks and NaN as null."""
    try:
        if table_path.suffix.lower() == ".parquet":
            table = pl.read_parquet(table_path)
        else:
            table = pl.read_csv(table_path, infer_schema=False)
        plain = [name for name, kind in table.schema.items() if not kind.is_nested() and kind != pl.Binary]
        table = table.select(
            pl.col(name).cast(pl.Int8) if kind == pl.Boolean else pl.col(name)
            for name, kind in table.select(plain).schema.items()
        )
        table = table.cast(pl.String).rename(lambda name: name.strip())
        files = _file_column(table.columns)
        table = table.rename({files: "file"}) if files else table
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput("a readable table", str(error).splitlines()[0], where=table_path) from error
    if table.is_empty() or "file" not in table.columns:
        raise BadInput("a table with rows and a column file", "none", where=table_path)
    if twice := [name for name in map(_first_name, table.columns) if name in table.columns]:
        raise BadInput("each column once", f"{twice[0]} twice", where=table_path, do="rename or remove one of them")
    text = pl.all().str.strip_chars()
    return table.select(text).select(pl.when(~pl.all().is_in(["", "NaN", "nan", "NA"])).then(pl.all()))


def _first_name(column: str) -> str | None:
    """The name that polars has found twice in a header and numbered; None of any other."""
    found = re.fullmatch(r"(.+)_duplicated_\d+", column)
    return found and found[1].strip()


def _plain_labels(entries: pl.DataFrame) -> list[str]:
    """Columns of 0, 1 and blanks that are nothing else."""
    return [name for name in entries.columns if name not in {*_KNOWN, "path"} and _binary(entries[name])]


def _labels(matched: pl.DataFrame, table_path: Path) -> tuple[tuple[str, ...], Task | None, list[pl.Series]]:
    """Label names, the task, and ``label:NAME`` columns."""
    marked = [name for name in matched.columns if name.startswith("label:")]
    if not marked and _CLASS in matched.columns:
        classes = matched[_CLASS]
        labels = order_classes(classes.drop_nulls().unique())
        if len(labels) < 2:
            raise BadInput("at least two classes", ", ".join(labels) or "none", where=table_path)
        known = classes.is_not_null()
        hot = [_where(known, column) for column in one_hot(classes.fill_null("").to_list(), labels)]
        return labels, "multiclass", hot
    if "label:" in marked:
        raise BadInput("a name in every column label:NAME", "label: without one", where=table_path)
    chosen = marked or _plain_labels(matched)
    columns = [
        numbers(matched[name], (0, 1, UNCERTAIN), table_path)
        .fill_null(float("nan"))
        .alias(f"label:{name.removeprefix('label:')}")
        for name in chosen
    ]
    labels = tuple(column.name.removeprefix("label:") for column in columns)
    return labels, "multilabel" if labels else None, columns


def _where(known: pl.Series, column: pl.Series) -> pl.Series:
    """A column where it is known, else NaN."""
    values = pl.when(known).then(column).otherwise(float("nan")).cast(pl.Float32)
    return pl.select(values.alias(column.name)).to_series()


def _binary(column: pl.Series) -> bool:
    """Whether a column holds 0, 1, -1 and blanks only, and at least one 1."""
    values = column.drop_nulls().cast(pl.Float32, strict=False)
    return bool(values.is_in([0.0, 1.0, UNCERTAIN]).fill_null(False).all()) and bool((values == 1).any())


def _split(matched: pl.DataFrame, table_path: Path) -> pl.Series:
    if "split" not in matched.columns or matched["split"].is_null().all():
        return pl.Series("split", [None] * matched.height, pl.String)
    split = [SPLIT_FOLDERS.get((name or "").lower()) for name in matched["split"]]
    if None in split:
        strange = matched["split"][split.index(None)]
        raise BadInput(
            "train, val or test in every row of the column split",
            "a blank cell" if strange is None else repr(strange),
            where=table_path,
            do="fill in every row, or leave the column out to have patients split",
        )
    return pl.Series("split", split, pl.String)
