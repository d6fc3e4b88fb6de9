"""The table of answers, written while they come: CSV, JSON lines or Parquet.

Columns: ``file``; ``probability:LABEL`` and ``decision:LABEL`` of every label, empty for a file that could not be
read; ``warnings``, joined by "; "; and ``error``, why a file could not be read. JSON lines nest the same:
``{"file", "probabilities", "decisions", "warnings", "error"}``.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_data.files import whole_file

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Row:
    """One image: its answer, or why there is none.

    Attributes:
        file: Its name.
        probabilities: One a label; None where it could not be read.
        decisions: Likewise.
        warnings: What is unusual about it.
        error: Why it could not be read.
    """

    file: str
    probabilities: Sequence[float] | None = None
    decisions: Sequence[bool] | None = None
    warnings: Sequence[str] = ()
    error: str | None = None


Write = Callable[[Row], None]


@contextmanager
def writing(path: Path, labels: Sequence[str]) -> Iterator[Write]:
    """Open a table that takes its name only once it is complete.

    Args:
        path: File ending in .csv, .jsonl or .parquet.
        labels: Names of the labels.

    Yields:
        A function to call with each row.
    """
    with whole_file(path, "wb" if path.suffix == ".parquet" else "w") as file:
        if path.suffix == ".parquet":
            rows: list[dict[str, Any]] = []
            yield lambda row: rows.append(_flat(row, labels))
            _parquet(rows, labels).write_parquet(file)
            return
        if path.suffix == ".jsonl":
            yield lambda row: print(json.dumps(_nested(row, labels), ensure_ascii=False), file=file)
            return
        table = csv.DictWriter(file, list(_flat(Row(""), labels)), lineterminator="\n")
        table.writeheader()
        yield lambda row: table.writerow(_as_text(_flat(row, labels)))


def _flat(row: Row, labels: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"file": row.file}
    for i, label in enumerate(labels):
        values[f"probability:{label}"] = None if row.probabilities is None else float(row.probabilities[i])
        values[f"decision:{label}"] = None if row.decisions is None else bool(row.decisions[i])
    return {**values, "warnings": "; ".join(row.warnings) or None, "error": row.error}


def _as_text(values: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value).lower() if isinstance(value, bool) else value for key, value in values.items()}


def _nested(row: Row, labels: Sequence[str]) -> dict[str, Any]:
    read = row.probabilities is not None and row.decisions is not None
    return {
        "file": row.file,
        "probabilities": dict(zip(labels, map(float, row.probabilities or ()), strict=True)) if read else None,
        "decisions": dict(zip(labels, map(bool, row.decisions or ()), strict=True)) if read else None,
        "warnings": list(row.warnings),
        "error": row.error,
    }


def _parquet(rows: list[dict[str, Any]], labels: Sequence[str]) -> "pl.DataFrame":
    import polars as pl

    kinds: dict[str, Any] = {"file": pl.String}
    for label in labels:
        kinds |= {f"probability:{label}": pl.Float64, f"decision:{label}": pl.Boolean}
    return pl.DataFrame(rows, schema={**kinds, "warnings": pl.String, "error": pl.String})
