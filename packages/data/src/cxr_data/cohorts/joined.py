"""Several cohorts read as one: labels matched by name, pixels read from each cohort's memory map."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.cohorts.cohort import Cohort, Task, label_matrix
from cxr_data.cohorts.copies import overlap
from cxr_data.cohorts.pixel_rows import PixelRows
from cxr_data.errors import BadInput
from cxr_data.spelling import sounds_healthy, spelling_key


def join(cohorts: Sequence[Cohort], *, remove_leaks: bool = True) -> Cohort:
    """Put cohorts one after the other.

    Labels are the same when their names are, but for case, spaces and punctuation; the first spelling is kept. A
    finding that a cohort does not know is unknown (NaN) for its images; a class that it does not know is 0, classes
    being exclusive. Each cohort keeps its split. Images and patients carry their cohort's name in front, so that
    none is mistaken for another's. Images that several cohorts share are found by their pixels; those that would be
    trained on in one cohort and tested on in another are left out (:func:`cxr_data.cohorts.copies.overlap`).

    Args:
        cohorts: At least one. Those without labels are unknown throughout.
        remove_leaks: Whether images that would leak are left out; an audit keeps them, to show them.

    Returns:
        The cohort, with a column ``cohort``; its pixels are :class:`PixelRows`.

    Raises:
        BadInput: Different tasks, pixel sizes or ways to map files to pixels, one cohort twice, two labels of one
            cohort that read alike, or no training image left.

    Examples:
        >>> from cxr_data import join, open_cohort
        >>> parts = [open_cohort("phantom:30", pixel_size=32, seed=seed, show=False) for seed in (0, 1)]
        >>> len(join(parts))
        60
    """
    if len(cohorts) == 1:
        return cohorts[0]
    cohorts = [  # images of 16 bits are compared as they are read, in 8
        cohort
        if cohort.pixels.dtype == np.uint8
        else replace(cohort, pixels=cast(NDArray[np.uint8], PixelRows([cohort.pixels])))
        for cohort in cohorts
    ]
    names = _names(cohorts)
    _refuse_unlike(cohorts, names)
    labels = _union(cohorts, names)
    task: Task | None = next((cohort.task for cohort in cohorts if cohort.task), None)
    tables = [_table(name, cohort, labels) for name, cohort in zip(names, cohorts, strict=True)]
    table = pl.concat(tables, how="diagonal_relaxed")
    keep, groups, leaks = overlap(cohorts, names, label_matrix(table, tuple(labels.values())))
    table = table.with_columns(pl.Series("group", groups))
    rows = None
    if remove_leaks and not keep.all():
        rows = np.flatnonzero(keep)
        table = table[rows]
        if not (table["split"] == "train").any():
            found = f"none: all are in the test or validation part of another ({'; '.join(leaks)})"
            raise BadInput("training images", found, where=" and ".join(names), do="leave one of the cohorts out")
    first = ["image", "patient", "split", "group", "cohort", *(f"label:{label}" for label in labels.values())]
    table = table.select(*first, *(name for name in table.columns if name not in first))
    masks = None
    if all(cohort.masks is not None and cohort.labels == cohorts[0].labels for cohort in cohorts):
        drawn = [cast(NDArray[np.uint8], cohort.masks) for cohort in cohorts]
        masks = cast(NDArray[np.uint8], PixelRows(drawn, rows))
    left_out = [] if rows is None else [np.flatnonzero(~keep).tolist()]
    identity = json.dumps([*(cohort.fingerprint for cohort in cohorts), *left_out]).encode()
    return Cohort(
        name=" + ".join(names),
        task=task,
        labels=tuple(labels.values()),
        table=table,
        pixels=cast(NDArray[np.uint8], PixelRows([cohort.pixels for cohort in cohorts], rows)),
        pixel_mapping=cohorts[0].pixel_mapping,
        source=" + ".join(cohort.source for cohort in cohorts),
        fingerprint=hashlib.sha256(identity).hexdigest(),
        notes=(
            *(leaks if remove_leaks else ()),
            *_matched(cohorts, names, labels, task),
            *(f"{name}: {note}" for name, cohort in zip(names, cohorts, strict=True) for note in cohort.notes),
        ),
        masks=masks,
        broken=tuple(
            (f"{name}/{file}", reason)
            for name, cohort in zip(names, cohorts, strict=True)
            for file, reason in cohort.broken
        ),
        parts=tuple(
            part
            for cohort in cohorts
            for part in cohort.parts or ({"name": cohort.name, "fingerprint": cohort.fingerprint},)
        ),
    )


def _names(cohorts: Sequence[Cohort]) -> list[str]:
    """The cohorts' names; a repeated one is numbered."""
    names: list[str] = []
    for cohort in cohorts:
        name, number = cohort.name, 2
        while name in names:
            name, number = f"{cohort.name} {number}", number + 1
        names.append(name)
    return names


def _refuse_unlike(cohorts: Sequence[Cohort], names: list[str]) -> None:
    where = " and ".join(names)
    if len({cohort.fingerprint for cohort in cohorts}) < len(cohorts):
        raise BadInput("each cohort once", "one twice", where=where)
    tasks = {cohort.task: name for name, cohort in zip(names, cohorts, strict=True) if cohort.task}
    if len(tasks) > 1:
        found = ", ".join(f"{task} ({name})" for task, name in tasks.items())
        do = "prepare one again with a manifest that gives its labels as the other's are"
        raise BadInput("cohorts of one task", found, where=where, do=do)
    sizes = {cohort.pixel_size: name for name, cohort in zip(names, cohorts, strict=True)}
    if len(sizes) > 1:
        found = ", ".join(f"{size} pixels ({name})" for size, name in sizes.items())
        raise BadInput("cohorts stored at one size", found, where=where, do="prepare them with the same --size")
    pairs = zip(names, cohorts, strict=True)
    mappings = {json.dumps(cohort.pixel_mapping, sort_keys=True): name for name, cohort in pairs}
    if len(mappings) > 1:
        found = ", ".join(f"{mapping} ({name})" for mapping, name in mappings.items())
        do = "prepare them with the same --aspect and --window"
        raise BadInput("cohorts whose files became pixels in one way", found, where=where, do=do)


def _union(cohorts: Sequence[Cohort], names: list[str]) -> dict[str, str]:
    """What a label's name reads as -> its first spelling, in order of appearance."""
    labels: dict[str, str] = {}
    for name, cohort in zip(names, cohorts, strict=True):
        own: dict[str, str] = {}
        for label in cohort.labels:
            if (key := _key(label)) in own:
                raise BadInput("labels that read differently", f"{own[key]} and {label}", where=name)
            own[key] = label
        labels |= {key: label for key, label in own.items() if key not in labels}
    return labels


def _key(label: str) -> str:
    """A label's name without case, spaces and punctuation, but for signs: COVID+ is not COVID-."""
    return re.sub(r"[^\w+<>=%-]|_", "", spelling_key(label)) or label


def _table(name: str, cohort: Cohort, labels: dict[str, str]) -> pl.DataFrame:
    own = {_key(label): f"label:{label}" for label in cohort.labels}
    absent = 0.0 if cohort.task == "multiclass" else float("nan")
    unknown = cohort.table.height and np.isnan(cohort.targets).all(axis=1)
    columns = []
    for key, label in labels.items():
        if key in own:
            columns.append(pl.col(own[key]).cast(pl.Float32).alias(f"label:{label}"))
        else:
            values = np.full(len(cohort), absent, np.float32)
            values[unknown] = np.nan
            columns.append(pl.Series(f"label:{label}", values))
    extras = [c for c in cohort.table.columns if not c.startswith("label:") and c not in ("image", "patient", "group")]
    return cohort.table.select(
        (pl.lit(f"{name}/") + pl.col("image")).alias("image"),
        (pl.lit(f"{name}/") + pl.col("patient")).alias("patient"),
        pl.lit(name).alias("cohort"),
        *columns,
        *(column for column in extras if column != "cohort"),
    )


def _matched(cohorts: Sequence[Cohort], names: list[str], labels: dict[str, str], task: Task | None) -> list[str]:
    """What was matched, in plain sentences."""
    of = {name: {_key(label) for label in cohort.labels} for name, cohort in zip(names, cohorts, strict=True)}
    labelled = [name for name in names if of[name]]
    notes = [f"{len(cohort)} images of {name}" for name, cohort in zip(names, cohorts, strict=True)]
    notes = [f"cohorts read as one: {', '.join(notes)}"]
    if labels and (silent := [name for name in names if not of[name]]):
        notes.append(f"without labels, unknown for all images: {', '.join(silent)}")
    healthy = [label for label in labels.values() if sounds_healthy(label)]
    if task == "multiclass" and len(healthy) > 1:
        notes.append(f"classes that may mean the same, kept apart by their names: {', '.join(healthy)}")
    for (one, first), (other, second) in combinations(zip(names, cohorts, strict=True), 2):
        if same := len(_patients(first) & _patients(second)):
            notes.append(
                f"{same} patients of {one} are called as patients of {other} are: they count as different people; if "
                "they are the same, put the images into one folder and prepare that, or they are trained on and tested"
            )
    shared = [label for key, label in labels.items() if all(key in of[name] for name in labelled)]
    if labels:
        notes.append(f"labels of all: {', '.join(shared) or 'none'}")
    for name in labelled:
        only = [label for key, label in labels.items() if key in of[name] and label not in shared]
        if only:
            here = "absent" if task == "multiclass" else "unknown"
            others = " and ".join(n for n in names if not {_key(label) for label in only} <= of[n])
            notes.append(f"labels of {name}: {', '.join(only)}; {here} for images of cohorts without them ({others})")
    return notes


def _patients(cohort: Cohort) -> set[str]:
    """Patients that have a number or name of their own, not that of their image."""
    named = cohort.table.filter(pl.col("patient") != pl.col("image"))
    return set(named["patient"].unique())
