"""Which images and labels of a data set are used, and how uncertain labels are treated; the same for all readers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.errors import BadInput, require_known, unknown_name
from cxr_data.readers.listing import UNCERTAIN, UNMENTIONED, Listing
from cxr_data.spelling import sounds_healthy

Policy = Literal["ones", "zeros", "ignore"]
Silence = Literal["zeros", "ignore"]
Votes = Literal["majority", "union"]
Projection = Literal["auto", "frontal", "lateral", "all"]
Exclusive = Literal["auto", "multilabel", "multiclass"]

_VALUES = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}
_FRONTAL = re.compile(r"(AP|PA|FRONTAL|ANTERO|POSTERO)(?![A-Z])|(ANTERO|POSTERO)", re.IGNORECASE)
_LATERAL = re.compile(r"(L|LL|RL|LAT|LATERAL|XTABLE LATERAL|LEFT LATERAL|RIGHT LATERAL)(?![A-Z])", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """What is used of a data set.

    Attributes:
        labels: Names to use, in this order; none means those the data set is known for. "NEW=OLD" gives a label another
            name, and "NEW=A|B" is present where A or B is, absent where both are, else unknown; "NEW=No Finding" is
            present where all labels of the data set are absent, if it has none of that name.
        uncertain: What a doubtful finding counts as: "ones", "zeros" or "ignore" (unknown), for all labels or
            by label; labels not named are ignored where doubtful.
        unmentioned: What a finding counts as that the report is silent on: "zeros", as is usual, or "ignore".
        votes: What several readers of an image amount to: "majority" (more than half) or "union" (anyone).
        projection: "frontal", "lateral", "all", or "auto": frontal where the data set says which images are.
        task: "multilabel"; "multiclass", which keeps the images that have one of the labels and none of the others; or
            "auto", that of the data set.
    """

    labels: tuple[str, ...] = ()
    uncertain: str | Mapping[str, str] = "ignore"
    unmentioned: str = "zeros"
    votes: str = "majority"
    projection: str = "auto"
    task: str = "auto"

    def __post_init__(self) -> None:
        policies = [self.uncertain] if isinstance(self.uncertain, str) else list(self.uncertain.values())
        for policy in policies:
            require_known("policy for uncertain labels", policy, get_args(Policy))
        require_known("policy for unmentioned labels", self.unmentioned, get_args(Silence))
        require_known("way to count votes", self.votes, get_args(Votes))
        require_known("task", self.task, get_args(Exclusive))
        require_known("projection", self.projection, get_args(Projection))
        if repeated := sorted({name for name in self.labels if self.labels.count(name) > 1}):
            raise BadInput("each label once", f"{', '.join(repeated)} twice", where="--labels")

    def options(self) -> dict[str, Any]:
        """The choices that differ from the defaults, as JSON types."""
        usual = Selection.__dataclass_fields__
        chosen = {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name].default}
        as_json = {tuple: list, str: str}
        return {name: as_json.get(type(value), dict)(value) for name, value in chosen.items()}


def parse_selection(
    labels: str | Sequence[str],
    uncertain: str | Mapping[str, str],
    unmentioned: str,
    votes: str,
    projection: str,
    task: str = "auto",
) -> Selection:
    """A selection as a person types it.

    Args:
        labels: Names, or one text with commas between them.
        uncertain: "ones", or by label: "Edema=ones,Atelectasis=ones", or a mapping.
        unmentioned: As in :class:`Selection`.
        votes: Likewise.
        projection: Likewise.
        task: Likewise.

    Raises:
        BadInput: A name or a policy that is not known.
    """
    names = labels.split(",") if isinstance(labels, str) else labels
    if isinstance(uncertain, str) and "=" in uncertain:
        pairs = [pair.partition("=") for pair in uncertain.split(",")]
        uncertain = {name.strip(): policy.strip() for name, _, policy in pairs}
    kept = tuple(name.strip() for name in names if name.strip())
    return Selection(kept, uncertain, unmentioned, votes, projection, task)


def select(listing: Listing, selection: Selection, where: Path) -> tuple[Listing, dict[str, Any]]:
    """Settle projections, labels and doubtful values of a listing.

    Returns:
        The listing, its labels in {0, 1, NaN}, with the share of readers who said yes as ``votes:NAME`` columns
        where there were several; and what was done, as JSON types, empty when there was nothing to do.

    Raises:
        BadInput: A label the data set does not have, projections that are not known, or nothing left.
    """
    done: dict[str, Any] = {}
    listing = _of_projection(listing, selection, where, done)
    parts = _parts(listing, selection, where)
    needed = list(dict.fromkeys(column for columns, _ in parts.values() for column in columns))
    if isinstance(selection.uncertain, Mapping):
        for name in selection.uncertain:
            require_known("label", name, [column.removeprefix("label:") for column in needed])
    others = [name for name in listing.table.columns if name.startswith("label:") and name not in needed]
    listing = _settled(replace(listing, table=listing.table.drop(others)), needed, selection, done)
    return _composed(listing, parts, selection, done), done


_MEANING = {"ones": "present", "zeros": "absent", "ignore": "unknown"}
_COUNTED = {"majority": "more than half of them", "union": "anyone's yes"}


def _settled(listing: Listing, columns: Sequence[str], selection: Selection, done: dict[str, Any]) -> Listing:
    """Labels of these columns in {0, 1, NaN}."""
    table, notes, doubtful = listing.table, list(listing.notes), {}
    silent = voted = 0
    for column in columns:
        name = column.removeprefix("label:")
        values = table[column].cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()
        policy = (
            selection.uncertain if isinstance(selection.uncertain, str) else selection.uncertain.get(name, "ignore")
        )
        settled = values.copy()
        settled[values == UNCERTAIN] = _VALUES[policy]
        settled[values == UNMENTIONED] = _VALUES[selection.unmentioned]
        if count := int((values == UNCERTAIN).sum()):
            doubtful[name] = (policy, count)
        silent += int((values == UNMENTIONED).sum())
        shared = (values > 0) & (values < 1)
        if shared.any():
            voted += int(shared.sum())
            settled[shared] = values[shared] > (0.5 if selection.votes == "majority" else 0.0)
            shares = np.where(values < 0, np.float32("nan"), values)
            table = table.with_columns(pl.Series(f"votes:{name}", shares))
        table = table.with_columns(pl.Series(column, settled))
    for policy in get_args(Policy):
        if counts := {name: count for name, (used, count) in doubtful.items() if used == policy}:
            named = ", ".join(f"{name} {count}" for name, count in counts.items())
            notes.append(f"{sum(counts.values())} uncertain labels count as {_MEANING[policy]} ({named})")
    if doubtful:
        done["uncertain"] = {name: policy for name, (policy, _) in doubtful.items()}
    if silent:
        done["unmentioned"] = selection.unmentioned
        notes.append(f"{silent} labels the reports do not mention count as {_MEANING[selection.unmentioned]}")
    if voted:
        done["votes"] = selection.votes
        notes.append(f"readers differ on {voted} labels: {_COUNTED[selection.votes]} decides")
    return replace(listing, table=table, notes=tuple(notes))


def _of_projection(listing: Listing, selection: Selection, where: Path, done: dict[str, Any]) -> Listing:
    wanted = listing.projection if selection.projection == "auto" else selection.projection
    if wanted == "all" or ("projection" not in listing.table.columns and selection.projection == "auto"):
        return listing
    if "projection" not in listing.table.columns:
        expected = "a data set that says which projection an image is"
        raise BadInput(expected, "one that does not", where=where, do="--projection all")
    pattern = _FRONTAL if wanted == "frontal" else _LATERAL
    keep = [bool(pattern.match(name or "")) for name in listing.table["projection"]]
    table = listing.table.filter(pl.Series(keep, dtype=pl.Boolean))
    if table.is_empty():
        found = ", ".join(str(name) for name in listing.table["projection"].unique().sort().to_list()[:5])
        raise BadInput(f"{wanted} images", f"only {found}", where=where, do="--projection all takes every projection")
    done["projection"] = wanted
    left = listing.table.height - table.height
    notes = [f"{left} images that are not {wanted} were left out (--projection all keeps them)"] if left else []
    return replace(listing, table=table, notes=(*listing.notes, *notes))


def _parts(listing: Listing, selection: Selection, where: Path) -> dict[str, tuple[list[str], bool]]:
    """Label -> the columns that it is made of, and whether it is present where all are absent."""
    offered = [name.removeprefix("label:") for name in listing.table.columns if name.startswith("label:")]
    parts: dict[str, tuple[list[str], bool]] = {}
    for label in selection.labels or listing.labels:
        name, sources, contrary = label, [label], False
        if label not in offered and "=" in label:
            name, _, text = (part.strip() for part in label.partition("="))
            sources = [source.strip() for source in text.split("|")]
            if text not in offered and sounds_healthy(text):
                sources, contrary = list(listing.labels), True
        for source in sources:
            if source not in offered:
                raise unknown_name("label", source, offered) if offered else BadInput("labels", "none", where=where)
        if not name or not sources:
            raise BadInput("NEW=OLD, of labels that the data set has", repr(label), where="--labels")
        if name in parts:
            raise BadInput("each label once", f"{name} twice", where="--labels")
        parts[name] = [f"label:{source}" for source in sources], contrary
    return parts


def _composed(
    listing: Listing, parts: Mapping[str, tuple[list[str], bool]], selection: Selection, done: dict[str, Any]
) -> Listing:
    """The labels that were asked for, of settled ones; of exclusive classes the images that have one."""
    if selection.labels:
        done["labels"] = list(selection.labels)
    table, task = listing.table, listing.task if selection.task == "auto" else selection.task
    if any(part != ([f"label:{name}"], False) for name, part in parts.items()):
        made = [pl.Series(f"label:{name}", _any_of(table, *part)) for name, part in parts.items()]
        table = table.drop([name for name in table.columns if name.startswith(("label:", "votes:"))]).with_columns(made)
    used = sorted(column for columns, _ in parts.values() for column in columns)
    of_all = listing.task == task and used == sorted(f"label:{name}" for name in listing.labels)
    listing = replace(listing, table=table, labels=tuple(parts), task=task if parts else None)
    return listing if task != "multiclass" or of_all else _of_one_class(listing, selection)


def _any_of(table: pl.DataFrame, columns: Sequence[str], contrary: bool) -> NDArray[np.float32]:
    """(N,) 1 where any of the columns is, 0 where all are, else NaN; or the contrary."""
    values = table.select(columns).to_numpy()
    known = np.where(np.isnan(values).any(1), np.float32("nan"), np.float32(0))
    present = np.where((values == 1).any(1), np.float32(1), known)
    return 1 - present if contrary else present


def _of_one_class(listing: Listing, selection: Selection) -> Listing:
    """The images that have one of the labels and, where these do not exclude each other anyway, none of the others."""
    if len(listing.labels) < 2:
        raise BadInput("at least two classes", ", ".join(listing.labels) or "none", where="--labels")
    labels = listing.table.select(f"label:{name}" for name in listing.labels).to_numpy()
    present = (labels == 1).sum(1)
    keep = present == 1
    if selection.task == "multiclass":
        keep &= (labels == 0).sum(1) == len(listing.labels) - 1
    elif (present > 1).any():
        found = f"{(present > 1).sum()} images of more than one of {', '.join(listing.labels)}"
        raise BadInput("classes that exclude each other", found, where="--labels")
    table, left = listing.table.filter(pl.Series(keep)), int((~keep).sum())
    if table.is_empty():
        raise BadInput("images of one of the classes", "none", where="--labels")
    kinds = "other classes, of several or of unknown ones" if selection.task == "multiclass" else "other classes"
    notes = (f"{left} images of {kinds} were left out",) if left else ()
    return replace(listing, table=table, notes=(*listing.notes, *notes))
