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

Policy = Literal["ones", "zeros", "ignore"]
Silence = Literal["zeros", "ignore"]
Votes = Literal["majority", "union"]
Projection = Literal["auto", "frontal", "lateral", "all"]

_VALUES = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}
_FRONTAL = re.compile(r"(AP|PA|FRONTAL|ANTERO|POSTERO)(?![A-Z])|(ANTERO|POSTERO)", re.IGNORECASE)
_LATERAL = re.compile(r"(L|LL|RL|LAT|LATERAL|XTABLE LATERAL|LEFT LATERAL|RIGHT LATERAL)(?![A-Z])", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """What is used of a data set.

    Attributes:
        labels: Names to use, in this order; none means those the data set is known for.
        uncertain: What a doubtful finding counts as: "ones", "zeros" or "ignore" (unknown), for all labels or
            by label; labels not named are ignored where doubtful.
        unmentioned: What a finding counts as that the report is silent on: "zeros", as is usual, or "ignore".
        votes: What several readers of an image amount to: "majority" (more than half) or "union" (anyone).
        projection: "frontal", "lateral", "all", or "auto": frontal where the data set says which images are.
    """

    labels: tuple[str, ...] = ()
    uncertain: str | Mapping[str, str] = "ignore"
    unmentioned: str = "zeros"
    votes: str = "majority"
    projection: str = "auto"

    def __post_init__(self) -> None:
        policies = [self.uncertain] if isinstance(self.uncertain, str) else list(self.uncertain.values())
        for policy in policies:
            require_known("policy for uncertain labels", policy, get_args(Policy))
        require_known("policy for unmentioned labels", self.unmentioned, get_args(Silence))
        require_known("way to count votes", self.votes, get_args(Votes))
        require_known("projection", self.projection, get_args(Projection))
        if repeated := sorted({name for name in self.labels if self.labels.count(name) > 1}):
            raise BadInput("each label once", f"{', '.join(repeated)} twice", where="--labels")

    def options(self) -> dict[str, Any]:
        """The choices that differ from the defaults, as JSON types."""
        chosen = {
            "labels": list(self.labels),
            "uncertain": self.uncertain if isinstance(self.uncertain, str) else dict(self.uncertain),
            "unmentioned": self.unmentioned,
            "votes": self.votes,
            "projection": self.projection,
        }
        usual = {"labels": [], "uncertain": "ignore", "unmentioned": "zeros", "votes": "majority", "projection": "auto"}
        return {name: value for name, value in chosen.items() if value != usual[name]}


def parse_selection(
    labels: str | Sequence[str],
    uncertain: str | Mapping[str, str],
    unmentioned: str,
    votes: str,
    projection: str,
) -> Selection:
    """A selection as a person types it.

    Args:
        labels: Names, or one text with commas between them.
        uncertain: "ones", or by label: "Edema=ones,Atelectasis=ones", or a mapping.
        unmentioned: As in :class:`Selection`.
        votes: Likewise.
        projection: Likewise.

    Raises:
        BadInput: A name or a policy that is not known.
    """
    names = labels.split(",") if isinstance(labels, str) else labels
    if isinstance(uncertain, str) and "=" in uncertain:
        pairs = [pair.partition("=") for pair in uncertain.split(",")]
        uncertain = {name.strip(): policy.strip() for name, _, policy in pairs}
    kept = tuple(name.strip() for name in names if name.strip())
    return Selection(kept, uncertain, unmentioned, votes, projection)


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
    listing = _of_labels(listing, selection, where, done)
    if isinstance(selection.uncertain, Mapping):
        for name in selection.uncertain:
            require_known("label", name, listing.labels)
    table, notes, doubtful = listing.table, list(listing.notes), {}
    silent = voted = 0
    for name in listing.labels:
        column = table[f"label:{name}"].cast(pl.Float32).fill_null(float("nan"))
        values = column.to_numpy().copy()
        policy = (
            selection.uncertain if isinstance(selection.uncertain, str) else selection.uncertain.get(name, "ignore")
        )
        if count := int((values == UNCERTAIN).sum()):
            doubtful[name] = (policy, count)
        silent += int((values == UNMENTIONED).sum())
        shared = (values > 0) & (values < 1)
        if shared.any():
            voted += int(shared.sum())
            shares = np.where(values < 0, np.float32("nan"), values)
            table = table.with_columns(pl.Series(f"votes:{name}", shares))
        table = table.with_columns(pl.Series(f"label:{name}", _settled(values, policy, selection)))
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
    return replace(listing, table=table, notes=tuple(notes)), done


_MEANING = {"ones": "present", "zeros": "absent", "ignore": "unknown"}
_COUNTED = {"majority": "more than half of them", "union": "anyone's yes"}


def _settled(values: NDArray[np.float32], policy: str, selection: Selection) -> NDArray[np.float32]:
    """(N,) labels in {0, 1, NaN}."""
    settled = values.copy()
    settled[values == UNCERTAIN] = _VALUES[policy]
    settled[values == UNMENTIONED] = _VALUES[selection.unmentioned]
    shared = (values > 0) & (values < 1)
    settled[shared] = values[shared] > (0.5 if selection.votes == "majority" else 0.0)
    return settled


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


def _of_labels(listing: Listing, selection: Selection, where: Path, done: dict[str, Any]) -> Listing:
    offered = [name.removeprefix("label:") for name in listing.table.columns if name.startswith("label:")]
    labels = selection.labels or listing.labels
    for name in labels:
        if name not in offered:
            raise unknown_name("label", name, offered) if offered else BadInput("labels", "none", where=where)
    if selection.labels:
        done["labels"] = list(labels)
    table = listing.table.drop([f"label:{name}" for name in offered if name not in labels])
    notes = []
    if listing.task == "multiclass" and set(labels) != set(listing.labels):
        if len(labels) < 2:
            raise BadInput("at least two classes", ", ".join(labels), where="--labels")
        chosen = pl.sum_horizontal(pl.col(f"label:{name}") == 1 for name in labels)
        if twice := table.filter(chosen > 1).height:
            raise BadInput(
                "classes that exclude each other",
                f"{twice} images of more than one of {', '.join(labels)}",
                where="--labels",
            )
        table = table.filter(chosen > 0)
        if left := listing.table.height - table.height:
            notes.append(f"{left} images of other classes were left out")
    return replace(listing, table=table, labels=tuple(labels), notes=(*listing.notes, *notes))
