"""Cross-validation folds by patient, stored with the cohort."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.cohort import Cohort
from cxr_data.errors import BadInput
from cxr_data.files import whole_file
from cxr_data.preparation.splits import kfold


def fold_numbers(cohort: Cohort, folds: int, *, seed: int = 0) -> NDArray[np.int64]:
    """The fold of every image, by whole patients, with each label's share alike in all.

    Args:
        cohort: The cohort.
        folds: Number of folds, at least 2.
        seed: Fixes them.

    Returns:
        (N,) numbers 1 to ``folds``; 0 for test images, which are in none.

    Raises:
        BadInput: Fewer than 2 folds, or fewer patients than folds.
    """
    numbers = np.zeros(len(cohort), np.int64)
    for number, (_, rows) in enumerate(kfold(cohort, folds, seed=seed), 1):
        numbers[rows] = number
    return numbers


def save_folds(cohort: Cohort, folder: str | Path, folds: int, *, seed: int = 0) -> Path:
    """Write the folds of a prepared cohort into its folder, as ``folds-K.parquet`` (image, fold).

    Raises:
        BadInput: Other folds of that number are there already, or see :func:`fold_numbers`.
    """
    path = _file(folder, folds)
    table = pl.DataFrame({"image": cohort.table["image"], "fold": fold_numbers(cohort, folds, seed=seed)})
    if path.exists():
        if not _read(path).equals(table):
            raise BadInput(f"no other {folds} folds", "folds of another seed", where=path, do="remove it first")
        return path
    with whole_file(path) as file:
        table.write_parquet(file)
    return path


def with_fold(
    cohort: Cohort, fold: int, folds: int, *, folder: str | Path | None = None, written: pl.DataFrame | None = None
) -> Cohort:
    """The cohort with one fold as its validation part and all others as its training part; test stays.

    Args:
        cohort: The cohort.
        fold: 1 to ``folds``.
        folds: Number of folds.
        folder: Where ``folds-K.parquet`` may lie; without one the folds of seed 0 are dealt, which are the same
            each time.
        written: Such a table (image, fold) where it lies elsewhere.

    Returns:
        The cohort, of another fingerprint.

    Raises:
        BadInput: No such fold, or the file is of another cohort.
    """
    if not 1 <= fold <= folds:
        raise BadInput(f"a fold from 1 to {folds}", str(fold), do=f"COHORT@1/{folds} is the first")
    path = _file(folder, folds) if folder is not None else None
    table = written if path is None or not path.exists() else _read(path)
    if table is not None:
        if table["image"].to_list() != cohort.table["image"].to_list():
            raise BadInput(
                "the folds of this cohort", "folds of another", where=path or cohort.source, do="remove the file"
            )
        numbers = table["fold"].to_numpy()
    else:
        numbers = fold_numbers(cohort, folds)
    split = np.where(numbers == fold, "val", np.where(numbers > 0, "train", "test"))
    shared = hashlib.sha256(f"{cohort.fingerprint} {numbers.tolist()} {fold}".encode()).hexdigest()
    note = f"fold {fold} of {folds}: validation is {int((numbers == fold).sum())} images, training the other folds"
    table = cohort.table.with_columns(pl.Series("split", split, pl.String))
    return replace(cohort, table=table, fingerprint=shared, notes=(*cohort.notes, note))


def _file(folder: str | Path, folds: int) -> Path:
    return Path(folder) / f"folds-{folds}.parquet"


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path).select("image", "fold")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput("a table of folds", str(error).splitlines()[0], where=path, do="remove it") from error
