"""The same figures for the parts of a cohort: by sex, age band, projection, or any other column.

A group too small for its figures to mean anything is named, with null and the reason. Averages over labels
take only the labels that every evaluated group of the column has enough patients for: groups are never
compared on different labels.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.errors import BadInput, unknown_name
from cxr_eval import entries
from cxr_eval.entries import LEAST_OF_CLASS
from cxr_eval.metrics import records
from cxr_eval.metrics.classification import macro
from cxr_eval.predictions import Answers
from cxr_eval.statistics.bootstrap import Draws

USUAL = ("sex", "age", "projection")
AGE_BANDS = (0, 18, 40, 60, 80)
"""Lower ends of the age bands, years; the last is open."""
MOST_GROUPS = 20
LEAST_PATIENTS = 20
"""Patients of the smallest group that is evaluated."""


@dataclass(frozen=True)
class Grouping:
    """A column cut into groups.

    Attributes:
        column: Its name.
        names: Names of the G groups in order.
        number: (N,) group of each image, in [0, G); -1 where the column is empty.
    """

    column: str
    names: tuple[str, ...]
    number: NDArray[np.int64]


def groupings(table: pl.DataFrame, asked: Sequence[str]) -> list[Grouping]:
    """Cut the columns asked for into groups.

    Words are groups as they stand; ages are cut into bands of years, other numbers with more than ``MOST_GROUPS``
    values at their quartiles.

    Args:
        table: The evaluated rows.
        asked: Names of columns; empty for those of ``USUAL`` that are there and tell at least two groups apart.

    Raises:
        BadInput: No such column, an empty one, or one with more words than ``MOST_GROUPS``.
    """
    known = [
        name
        for name in table.columns
        if name not in ("image", "split", "group", "patient") and not name.startswith("label:")
    ]
    usual = not asked
    columns = []
    for name in dict.fromkeys(asked or USUAL):
        if name not in known:
            if usual:
                continue
            raise unknown_name("column of the cohort", name, known)
        grouping = _grouping(table[name], name)
        if usual and len(grouping.names) < 2:
            continue
        if not grouping.names:
            raise BadInput(f"values in column {name}", "none for these images", where="--subgroups")
        if len(grouping.names) > MOST_GROUPS:
            raise BadInput(
                f"a column of at most {MOST_GROUPS} groups",
                f"{len(grouping.names)} in {name}",
                where="--subgroups",
                do="choose a column that sorts the images into a few groups",
            )
        columns.append(grouping)
    return columns


def _grouping(column: pl.Series, name: str) -> Grouping:
    column = column.fill_nan(None) if column.dtype.is_float() else column  # what is not known is no group
    if column.dtype.is_numeric() and (name == "age" or column.drop_nulls().n_unique() > MOST_GROUPS):
        values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        if name == "age":
            bands = [*(f"{a}-{b - 1}" for a, b in itertools.pairwise(AGE_BANDS)), f"{AGE_BANDS[-1]}+"]
            return _bands(name, values, AGE_BANDS, bands)
        cuts = np.unique(np.nanquantile(values, [0.0, 0.25, 0.5, 0.75])) if not np.isnan(values).all() else np.empty(0)
        ends = [*(f"{a:g} to < {b:g}" for a, b in itertools.pairwise(cuts)), *(f"{a:g} and more" for a in cuts[-1:])]
        return _bands(name, values, cuts, ends)
    words, in_order = _words(column), _words(column.unique().sort())  # by value: 80 comes before 100
    names = tuple(dict.fromkeys(word for word in in_order if word is not None and word.strip()))
    numbers: dict[str | None, int] = {word: i for i, word in enumerate(names)}
    return Grouping(name, names, np.array([numbers.get(word, -1) for word in words], np.int64))


def _words(column: pl.Series) -> list[str | None]:
    words = column.cast(pl.String)
    # Whole numbers with gaps among them are read as floats.
    return (words.str.strip_suffix(".0") if column.dtype.is_float() else words).to_list()


def _bands(column: str, values: NDArray, lows: Sequence[float] | NDArray, names: list[str]) -> Grouping:
    """Only bands with an image make a group."""
    band = np.searchsorted(np.asarray(lows, np.float64), values, side="right") - 1
    band = np.where(np.isnan(values) | (band < 0), -1, band)
    present = np.unique(band[band >= 0])
    number = np.where(band >= 0, np.searchsorted(present, band), -1)
    return Grouping(column, tuple(names[int(i)] for i in present), number.astype(np.int64))


def measure(
    groupings: Sequence[Grouping],
    labels: Sequence[str],
    columns: Sequence[int],
    targets: NDArray[np.float32],
    answers: Mapping[str, Answers],
    patient: NDArray[np.int64],
    draws: Draws | None,
) -> dict[str, Any]:
    """Figures of every model in every group, and the gaps between groups.

    Args:
        groupings: Of `groupings`, for the N evaluated images.
        labels: Names of the reported labels.
        columns: Their columns.
        targets: (N, L) in {0, 1, NaN}.
        answers: Answers by model name.
        patient: (N,) number of each image's patient.
        draws: The resamples of the whole cohort; None for no intervals.

    Returns:
        "columns": column -> "groups" (name, images, patients, reason why it is not evaluated or None), "unknown"
        (images without a group) and "labels" (those the averages are over);
        "models": model -> column -> group -> "overall" (metric -> value) and "labels" (label -> the
        same);
        "gaps": the largest difference between two groups, for every model, column, figure and label
        (or None for the average), the largest first: "model", "column", "label", "metric", "best" and "worst"
        (names of the groups), "value", "low", "high". The two groups were picked after looking, which makes
        the interval optimistic.
    """
    truth = targets[:, list(columns)]
    about: dict[str, Any] = {}
    models: dict[str, Any] = {name: {grouping.column: {} for grouping in groupings} for name in answers}
    gaps: list[dict[str, Any]] = []
    for grouping in groupings:
        about[grouping.column], enough = _sizes(grouping, labels, truth, patient)
        drawn: dict[str, dict[str, Any]] = {name: {} for name in answers}
        for group, entry in enumerate(about[grouping.column]["groups"]):
            rows = np.flatnonzero(grouping.number == group)
            # Patients outside the group weigh nothing: leave them out of the products.
            inside, number = np.unique(patient[rows], return_inverse=True)
            here = draws.of(inside) if draws is not None and entry["reason"] is None else None
            for name, answer in answers.items():
                p, called = (array[rows][:, list(columns)] for array in (answer.probabilities, answer.decisions))
                figures, drawn[name][entry["name"]] = _one_group(
                    entry["reason"], labels, truth[rows], p, called, number, here, enough[group], _shared(enough)
                )
                models[name][grouping.column][entry["name"]] = figures
        for name in answers:
            averaged = about[grouping.column]["labels"]
            gaps += _gaps(name, grouping.column, models[name][grouping.column], drawn[name], labels, averaged)
    return {"columns": about, "models": models, "gaps": sorted(gaps, key=lambda gap: -gap["value"])}


def _sizes(
    grouping: Grouping, labels: Sequence[str], truth: NDArray, patient: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """How large the groups are, and (G, L) whether a label of a group has patients enough."""
    groups = []
    enough = np.zeros((len(grouping.names), truth.shape[1]), bool)
    for group, name in enumerate(grouping.names):
        rows = grouping.number == group
        patients = len(np.unique(patient[rows]))
        reason = None
        if patients < LEAST_PATIENTS:
            reason = f"{patients} patient{'s' if patients != 1 else ''}: fewer than {LEAST_PATIENTS}"
        else:
            for label, column in enumerate(truth[rows].T):
                counts = [len(np.unique(patient[rows][column == value])) for value in (1, 0)]
                enough[group, label] = min(counts) >= LEAST_OF_CLASS
        groups.append({"name": name, "images": int(rows.sum()), "patients": patients, "reason": reason})
    return {
        "groups": groups,
        "unknown": int(np.sum(grouping.number < 0)),
        "labels": [label for label, kept in zip(labels, _shared(enough), strict=True) if kept],
    }, enough


def _shared(enough: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(L,) labels that every group with any label has patients enough for."""
    return np.logical_and(enough[enough.any(axis=1)].all(axis=0), enough.any(axis=0))


def _one_group(
    reason: str | None,
    labels: Sequence[str],
    truth: NDArray,
    p: NDArray,
    called: NDArray,
    patient: NDArray[np.int64],
    draws: Draws | None,
    enough: NDArray[np.bool_],
    shared: NDArray[np.bool_],
) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Figures of one model in one group, and their resamples: label, or None for the average -> metric -> (R,)."""
    if reason is not None:
        return {"overall": _nothing(reason), "labels": {label: _nothing(reason) for label in labels}}, {}
    figures_of = records.shown("subgroup")
    values, sample, of_each = entries.of_labels(truth, p, called, patient, draws, figures_of)
    figures: dict[str, Any] = {"labels": {}}
    drawn: dict[Any, Any] = {}
    for i, label in enumerate(labels):
        if not enough[i]:
            figures["labels"][label] = _nothing(f"fewer than {LEAST_OF_CLASS} patients with, or without, the finding")
            continue
        drawn[label] = {key: of_labels[:, i] for key, of_labels in sample.items()} if sample else None
        figures["labels"][label] = of_each[i]
    if not (enough & shared).any():
        figures["overall"] = _nothing("no label has patients enough in every group")
        return figures, drawn
    drawn[None] = {key: of_labels[:, shared].mean(axis=1) for key, of_labels in sample.items()} if sample else None
    for key in figures_of:
        of_labels = values[key][shared]
        entry = entries.metric(key, float(macro(of_labels)), drawn[None])
        figures.setdefault("overall", {})[key] = entries.over_labels(entry, of_labels)
    if len(labels) == 1:
        figures["overall"] = dict(figures["labels"][labels[0]])
    return figures, drawn


def _nothing(reason: str) -> dict[str, Any]:
    return {key: entries.undefined(reason) for key in records.shown("subgroup")}


def _gaps(
    model: str,
    column: str,
    groups: Mapping[str, Any],
    drawn: Mapping[str, Any],
    labels: Sequence[str],
    averaged: Sequence[str],
) -> list[dict[str, Any]]:
    gaps = []
    # The average of one of several labels is that label: it is listed once.
    scopes: list[str | None] = [None] if len(labels) == 1 else [*labels] if len(averaged) == 1 else [None, *labels]
    for label in scopes:
        for key in records.shown("gap"):
            values = {
                name: (figures["labels"][label] if label is not None else figures["overall"])[key]["value"]
                for name, figures in groups.items()
            }
            defined = {name: value for name, value in values.items() if value is not None}
            if len(defined) < 2:
                continue
            best, worst = max(defined, key=lambda name: defined[name]), min(defined, key=lambda name: defined[name])
            samples = [drawn[name][label][key] if drawn[name].get(label) else None for name in (best, worst)]
            entry = entries.difference(key, defined[best], defined[worst], samples[0], samples[1])
            about = {"model": model, "column": column, "label": label, "metric": key, "best": best, "worst": worst}
            gaps.append(about | {part: entry[part] for part in ("value", "low", "high")})
    return gaps
