"""Any folder with a table of its images: CSV or Parquet with a column of files, as ``file``, ``path`` or ``image``.

``manifest.csv``, ``manifest.parquet``, ``labels.csv`` or ``labels.parquet`` is recognised when it also has labels:
columns ``label:NAME``, else one column ``class``, else every column of 0, 1 and blanks (but folds, sex and projection).
Beside images without class folders the only table of any other name is recognised too, or ``train.csv`` with
``val.csv`` and ``test.csv``. With ``--reader manifest`` any name will do. ``patient``, ``split``, ``projection``,
``sex`` and ``age`` are used in any usual spelling. A ``labels`` table that cannot be understood is refused where
images would otherwise count as unlabelled.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from cxr_data.cohorts.cohort import Task
from cxr_data.errors import BadInput, listed
from cxr_data.folders import inside
from cxr_data.readers import image_table, naming, patients, unlabelled, values
from cxr_data.readers.listing import (
    MAX_CLASSES,
    SPLIT_FOLDERS,
    UNCERTAIN,
    Listing,
    image_files,
    one_hot,
    order_classes,
    subfolders,
)
from cxr_data.readers.tables import numbers
from cxr_data.spelling import sounds_healthy

NAMES = tuple(f"{stem}.{kind}" for stem in ("manifest", "labels") for kind in ("csv", "csv.gz", "tsv", "parquet"))
_KNOWN = ("file", "patient", "study", "split", image_table.CLASS, "projection", "sex", "age")
_UNLABELLED = "or, for pretraining without labels, move the table out of the folder"


def looks_like(path: Path) -> bool:
    """Whether one of the usual tables names files and their labels, or ought to."""
    if any(_labelled(path / name) for name in NAMES):
        return True
    if not _without_classes(path):
        return False
    if any(_promises_labels(path / name) for name in NAMES):
        return True
    try:
        return all(_labelled(table) for table in _tables(path))
    except BadInput:  # no table, or several: not for us to choose
        return False


def _without_classes(path: Path) -> bool:
    """Whether no folders stand for classes: images lie in the folder itself, or all in one folder below it."""
    if unlabelled.looks_like(path):
        return True
    folders = subfolders(path)
    return len(folders) == 1 and unlabelled.looks_like(path / folders[0])


def read(path: Path) -> Listing:
    """List the images that the table names.

    Args:
        path: Folder with the table; ``file`` is relative to it.

    Returns:
        Labels side by side (0, 1, -1 for uncertain, blank or NaN for unknown) in the table's order, or exclusive
        classes, healthy-sounding ones first (blank: unknown); the table's patients and split, else one patient per
        image and no split. Without labels: for pretraining.

    Raises:
        BadInput: No such table or several, one that cannot be understood, a file named twice or with two splits,
            labels that are not 0 and 1, or none of the files is there.
    """
    tables = _tables(path)
    table_path, entries = tables[0], _together(tables)
    notes = _other_tables(path, table_path)
    entries = _with_study(entries)
    if "patient" not in entries.columns:
        values.refuse_hidden_patients(entries, table_path)
    entries, refused = _inside(path, entries, table_path)
    images = image_files(path)
    otherwise = naming.as_on_disk(entries["path"], images)
    entries = entries.with_columns(pl.col("path").replace(otherwise))
    if twice := entries.filter(pl.col("path").is_duplicated())["path"].to_list():
        do = "write one row per image; findings of one image go into columns"
        raise BadInput("each file once", f"{twice[0]} twice", where=table_path, do=do)
    matched = entries.filter(pl.col("path").is_in(images)).sort("path")
    if matched.is_empty():
        found = f"none of them ({entries['file'][0]}, …)"
        do = f"write them relative to the folder, as {images[0]}" if images else "name the folder that holds both"
        raise BadInput("images that the table names", found, where=table_path, do=do)
    if elsewhere := [f"{name} is {place}" for name, place in otherwise.items() if "/" in place and "/" not in name]:
        notes.append(f"{table_path.name} names {len(elsewhere)} images without their folder: {elsewhere[0]}")
    if missing := entries.height - matched.height:
        first = entries.filter(~pl.col("path").is_in(images))["file"][0]
        notes.append(
            f"{missing} images of {table_path.name} are not there and were left out ({first}{', …' * (missing > 1)})"
        )
    if unlisted := len(images) - matched.height:
        notes.append(f"{unlisted} images are not in {table_path.name} and were left out")

    labels, task, columns, said = _labels(matched, table_path)
    notes += said
    if not labels and _promises_labels(table_path):
        raise BadInput(
            "columns label:NAME, a column class, or columns of zeros and ones",
            f"the columns {naming.cells(matched.drop('path', 'file'))[:300]}",
            where=table_path,
            do=f"write 1 where a finding is present and 0 where it is absent; {_UNLABELLED}",
        )
    matched, said = patients.of_table(path, matched, table_path.name)
    notes += said
    extras = [pl.col(name) for name in ("projection", "sex") if name in matched.columns]
    table = matched.select("path", "patient", _split(matched, table_path), *columns, *extras)
    if "age" in matched.columns:
        ages, said = values.ages(matched["age"])
        table, notes = table.with_columns(ages), notes + said
    used = {*_KNOWN, "path", *labels, *(f"label:{label}" for label in labels)}
    if unused := [name for name in matched.columns if name not in used]:
        blank = [name for name in unused if matched[name].null_count() == matched.height]
        if others := [name or "one without a name" for name in unused if name not in blank]:
            notes.append(f"columns that are no labels were not used: {listed(others, 20)}")
        if blank:
            notes.append(f"columns without a value in any row were not used: {listed(blank, 20)}")
        notes += values.nearly_labels(matched.select(unused))
    return Listing(path.name, table, labels, task, tuple(notes), refused=refused)


def _other_tables(path: Path, taken: Path) -> list[str]:
    """A note on tables of labels beside the one that is taken."""
    others = [name for name in NAMES if name != taken.name and _labelled(path / name)] if taken.name in NAMES else []
    return [f"{taken.name} is used, and not {', '.join(others)} beside it"] if others else []


def _with_study(entries: pl.DataFrame) -> pl.DataFrame:
    """Entries with the column that numbers their studies, if any, as ``study``."""
    for name in entries.columns:
        # A study has some images; a column of few values numbers the studies of each patient.
        if values.key(name) in values.STUDY_COLUMNS and 8 * entries[name].n_unique() >= entries.height:
            return entries.drop("study", strict=False).rename({name: "study"}) if name != "study" else entries
    return entries.drop("study", strict=False)


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
        do = "name the folder that holds both table and images"
        raise BadInput("paths inside the folder", repr(refused[0][0]), where=table_path, do=do)
    return kept, tuple(refused)


def _tables(path: Path) -> list[Path]:
    """The table: one of the usual names first, else the only one with a column of files, or one for each split."""
    for name in NAMES:
        if values.file_column(image_table.columns(path / name)):
            return [path / name]
    for name in NAMES:
        if _promises_labels(path / name):
            raise BadInput(
                f"a table with a column of files ({', '.join(values.FILE_COLUMNS)})",
                image_table.what_is_there(path / name),
                where=path / name,
                do=f"write it as UTF-8 text with commas, one row per image; {_UNLABELLED}",
            )
    with os.scandir(path) as entries:
        names = sorted(e.name for e in entries if os.path.isfile(e.path))
    named = [path / name for name in names if values.file_column(image_table.columns(path / name))]
    splits = [_split_of(table) for table in named]
    if len(named) == 1 or (None not in splits and len(set(splits)) == len(named) > 1):
        return named
    found = ", ".join(table.name for table in named) or "none"
    raise BadInput("one CSV or Parquet table with a column file", found, where=path, do=f"call it {NAMES[0]}")


def _split_of(table_path: Path) -> str | None:
    """The split that a table's name says ("valid.csv"), or None."""
    return SPLIT_FOLDERS.get(table_path.name.split(".")[0].lower())


def _together(tables: list[Path]) -> pl.DataFrame:
    """The entries of the table, or of one table for each split."""
    if len(tables) == 1:
        return image_table.as_text(tables[0])
    parts = []
    for table in tables:
        entries = image_table.as_text(table)
        here = pl.col("split") if "split" in entries.columns else pl.lit(_split_of(table)).alias("split")
        parts.append(entries.with_columns(here))
    return pl.concat(parts, how="diagonal")


def _labelled(table_path: Path) -> bool:
    """Whether a table names files and their labels."""
    columns = image_table.columns(table_path)
    if not values.file_column(columns):
        return False
    if any(name.lower() == image_table.CLASS or name.lower().startswith("label:") for name in columns):
        return True
    if not _promises_labels(table_path) and not _without_classes(table_path.parent):
        return False  # class folders, and a manifest of their patients with some other column of zeros and ones
    try:
        entries = image_table.as_text(table_path)
        return image_table.CLASS in entries.columns or bool(_plain_labels(entries))
    except BadInput:
        return False


def _promises_labels(table_path: Path) -> bool:
    """Whether a table must not be passed over: its name says labels."""
    return table_path.name.startswith("labels.") and table_path.is_file()


def _plain_labels(entries: pl.DataFrame) -> list[str]:
    """Columns of 0, 1 and blanks that are nothing else."""
    names = [name for name in entries.columns if name not in {*_KNOWN, "path"} and not values.is_no_finding(name)]
    return [name for name in names if image_table.holds_labels(entries[name])]


def _labels(matched: pl.DataFrame, table_path: Path) -> tuple[tuple[str, ...], Task | None, list[pl.Series], list[str]]:
    """Label names, the task, ``label:NAME`` columns, and notes."""
    marked = [name for name in matched.columns if name.startswith("label:")]
    if not marked and image_table.CLASS in matched.columns:
        return _classes(matched[image_table.CLASS], table_path)
    if "label:" in marked:
        raise BadInput("a name in every column label:NAME", "label: without one", where=table_path, do="name it")
    chosen = marked or _plain_labels(matched)
    columns = [
        numbers(values.binary(matched[name]), (0, 1, UNCERTAIN), table_path)
        .fill_null(float("nan"))
        .alias(f"label:{name.removeprefix('label:')}")
        for name in chosen
    ]
    if columns:
        cells = np.concatenate([column.to_numpy() for column in columns])
        if set(np.unique(cells)) == {1, UNCERTAIN}:  # neither a 0 nor a blank
            do = "write 0 where a finding is absent; -1 means uncertain"
            raise BadInput("0 and 1 in the columns of labels", "1 and -1 alone", where=table_path, do=do)
    labels = tuple(column.name.removeprefix("label:") for column in columns)
    if twice := [name for name, count in Counter(map(str.casefold, labels)).items() if count > 1]:
        raise BadInput("labels that differ in more than case", f"{twice[0]} twice", where=table_path)
    return labels, "multilabel" if labels else None, columns, []


def _classes(classes: pl.Series, table_path: Path) -> tuple[tuple[str, ...], Task, list[pl.Series], list[str]]:
    """Exclusive classes of a column, or findings side by side where it names several of one image."""
    if (unbracketed := values.without_brackets(classes)) is not None:
        return _findings(unbracketed, "|", table_path)
    if separator := values.several_findings(classes):
        return _findings(classes, separator, table_path)
    taken, notes = values.merged_spellings(classes)
    names = [None if name is None else taken[name] for name in classes]
    labels = order_classes(set(taken.values()))
    if len(labels) < 2:
        found = ", ".join(labels) or "none"
        raise BadInput("at least two classes", found, where=table_path, do=f"add the others; {_UNLABELLED}")
    if len(labels) > MAX_CLASSES or len(labels) > max(10, len(names) // 2):
        found = f"{len(labels)} in {len(names)} images (such as {labels[0]!r:.60}), which look more like text or names"
        raise BadInput(f"up to {MAX_CLASSES} classes, each of several images", found, where=table_path, do=_UNLABELLED)
    known = classes.is_not_null()
    return labels, "multiclass", [_where(known, column) for column in one_hot([n or "" for n in names], labels)], notes


def _findings(
    classes: pl.Series, separator: str, table_path: Path
) -> tuple[tuple[str, ...], Task, list[pl.Series], list[str]]:
    """``label:NAME`` columns of "Effusion|Mass"; "No Finding" is an image without any of them."""
    parts = [
        None if cell is None else [part.strip() for part in cell.split(separator) if part.strip()] for cell in classes
    ]
    taken, notes = values.merged_spellings(part for cell in parts for part in cell or ())
    cells = [None if cell is None else {taken[part] for part in cell} for cell in parts]
    labels = tuple(sorted({name for name in taken.values() if not sounds_healthy(name)}))
    for cell in cells:
        if cell and any(map(sounds_healthy, cell)) and not all(map(sounds_healthy, cell)):
            raise BadInput("findings, or that there are none", separator.join(sorted(cell)), where=table_path)
    known = classes.is_not_null()
    columns = [
        _where(known, pl.Series(f"label:{label}", [float(label in (cell or ())) for cell in cells], pl.Float32))
        for label in labels
    ]
    mark = separator.replace("\n", "line breaks")
    notes.append(f"several findings of one image, separated by {mark}: read as findings that may occur together")
    if blank := classes.null_count():
        notes.append(f"{blank} images name no finding: unknown; write No Finding where there is none")
    return labels, "multilabel", columns, notes


def _where(known: pl.Series, column: pl.Series) -> pl.Series:
    """A column where it is known, else NaN."""
    masked = pl.when(known).then(column).otherwise(float("nan")).cast(pl.Float32)
    return pl.select(masked.alias(column.name)).to_series()


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
