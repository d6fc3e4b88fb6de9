"""Find images that several cohorts share under different names."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.cohorts.cohort import Cohort, image_keys
from cxr_data.preparation.splits import join_groups

MOST_COMPARED = 20_000
"""Images up to which copies that are not identical are searched for, too: a few seconds."""


class Overlap(NamedTuple):
    """What several cohorts have in common.

    Attributes:
        keep: (N,) whether an image stays; the others would leak into validation or test.
        groups: (N,) group of each image, patients that share an image joined.
        notes: What was found and done, the most important first; empty where nothing is shared.
    """

    keep: NDArray[np.bool_]
    groups: NDArray[np.int64]
    notes: tuple[str, ...]


def overlap(cohorts: Sequence[Cohort], names: Sequence[str]) -> Overlap:
    """Find images that are in several cohorts, and keep them from being trained on and tested on at once.

    Images with identical pixels are found in cohorts of any size; up to :data:`MOST_COMPARED` images also copies that
    were re-encoded, rescaled, toned or inverted (:func:`cxr_data.auditing.duplicates.near_pairs`). Patients who share
    an image are one group. A training or validation image of such a group is left out where another cohort tests on
    the group, a training image also where another cohort validates on it. Within one cohort nothing is changed.

    Args:
        cohorts: Two or more, of one pixel size, in order.
        names: Their names, for the notes.

    Returns:
        Of all N images, one cohort after the other.
    """
    owner = np.repeat(np.arange(len(cohorts)), [len(cohort) for cohort in cohorts])
    offsets = np.cumsum([0, *(int(cohort.groups.max(initial=-1)) + 1 for cohort in cohorts[:-1])])
    groups = np.concatenate([cohort.groups + offset for cohort, offset in zip(cohorts, offsets, strict=True)])
    split = np.concatenate([cohort.table["split"].to_numpy() for cohort in cohorts])
    identical = _identical(cohorts, owner)
    copies = _copies(cohorts, owner, identical) if len(owner) <= MOST_COMPARED else {}
    keep = np.ones(len(owner), bool)
    if not (identical >= 0).any() and not copies:
        return Overlap(keep, groups, ())
    for tokens in (identical, *copies.values()):
        joined = [None if token < 0 else int(token).to_bytes(8, "big") for token in tokens]
        groups = join_groups([str(group) for group in groups], joined)

    tested = _owners(groups, owner, split == "test")
    keep = ~((split != "test") & _elsewhere(groups, owner, tested))
    validated = _owners(groups, owner, (split == "val") & keep)
    keep &= ~((split == "train") & _elsewhere(groups, owner, validated))
    return Overlap(keep, groups, _overlap_notes(owner, split, identical, copies, keep, names))


def _identical(cohorts: Sequence[Cohort], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) number of each image that has an identical one in another cohort, else -1; blank images do not count."""
    _, number = np.unique(np.concatenate([image_keys(cohort.pixels) for cohort in cohorts]), return_inverse=True)
    holders = np.unique(np.stack([number, owner]), axis=1)[0]
    shared = np.flatnonzero(np.bincount(holders) > 1)
    tokens = np.where(np.isin(number, shared), number, -1)
    starts = np.cumsum([0, *map(len, cohorts)])
    for row in np.flatnonzero(tokens >= 0):
        image = cohorts[owner[row]].pixels[int(row - starts[owner[row]])]
        if image.min() == image.max():
            tokens[row] = -1
    return tokens


def _copies(
    cohorts: Sequence[Cohort], owner: NDArray[np.int64], identical: NDArray[np.int64]
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """For each two cohorts, (N,) number of the pair of copies that an image is in, else -1.

    Only pairs of which each image has no other copy in the other's cohort: where many images of a cohort look alike,
    as drawings and phantoms do, likeness says nothing.
    """
    from cxr_data.auditing.duplicates import near_pairs
    from cxr_data.auditing.measures import measure

    measured = [measure(cohort) for cohort in cohorts]
    thumbs = np.concatenate([one.thumbs for one in measured])
    rows = near_pairs(thumbs, [digest for one in measured for digest in one.digest]).rows
    rows = rows[owner[rows[:, 0]] != owner[rows[:, 1]]]
    found = {}
    for first, second in combinations(range(len(cohorts)), 2):
        pairs = rows[(owner[rows[:, 0]] == first) & (owner[rows[:, 1]] == second)]
        left, right = (np.bincount(side, minlength=len(owner)) for side in pairs.T)
        pairs = pairs[(left[pairs[:, 0]] == 1) & (right[pairs[:, 1]] == 1)]
        if len(pairs):
            tokens = np.full(len(owner), -1, np.int64)
            tokens[pairs[:, 0]] = tokens[pairs[:, 1]] = np.arange(len(pairs))
            found[first, second] = tokens
    return found


def _owners(groups: NDArray[np.int64], owner: NDArray[np.int64], chosen: NDArray[np.bool_]) -> dict[int, set[int]]:
    """Group -> the cohorts that have a chosen image of it."""
    found: dict[int, set[int]] = {}
    for group, cohort in zip(groups[chosen].tolist(), owner[chosen].tolist(), strict=True):
        found.setdefault(group, set()).add(cohort)
    return found


def _elsewhere(
    groups: NDArray[np.int64], owner: NDArray[np.int64], owners: Mapping[int, set[int]]
) -> NDArray[np.bool_]:
    """(N,) whether another cohort than the image's own is among the owners of its group."""
    pairs = zip(groups.tolist(), owner.tolist(), strict=True)
    return np.array([bool(owners.get(group, set()) - {cohort}) for group, cohort in pairs], bool)


def _overlap_notes(
    owner: NDArray[np.int64],
    split: NDArray[Any],
    identical: NDArray[np.int64],
    copies: Mapping[tuple[int, int], NDArray[np.int64]],
    keep: NDArray[np.bool_],
    names: Sequence[str],
) -> tuple[str, ...]:
    same, alike = identical >= 0, np.zeros(len(owner), bool)
    for tokens in copies.values():
        alike |= tokens >= 0
    alike &= ~same
    counts = [f"{int(same.sum())} images are identical"] if same.any() else []
    counts += [f"{int(alike.sum())} are copies, re-encoded or rescaled,"] if alike.any() else []
    here = set(owner[same | alike].tolist())
    holders = ", ".join(name for number, name in enumerate(names) if number in here)
    notes = [f"cohorts share images: {' and '.join(counts)} to an image of another cohort ({holders})"]
    if left := int((~keep).sum()):
        parts = " and ".join(
            f"{count} {word}"
            for name, word in (("train", "training"), ("val", "validation"))
            if (count := int((~keep & (split == name)).sum()))
        )
        notes.append(
            f"{left} images were left out ({parts}): an identical image, a copy, or an image of the same patient is in "
            "the test or validation part of another cohort"
        )
    tokens = identical[same & keep & (split == "test")]
    if twice := len(tokens) - len(np.unique(tokens)):
        notes.append(
            f"{twice} test images are there more than once, in several cohorts; intervals count them as one patient"
        )
    return tuple(notes)
