"""Find images that several cohorts share under different names."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.cohorts.cohort import Cohort
from cxr_data.cohorts.digests import image_keys
from cxr_data.preparation.splits import join_groups


class Overlap(NamedTuple):
    """What several cohorts have in common.

    Attributes:
        keep: (N,) whether an image stays; the others would leak into validation or test.
        groups: (N,) group of each image, patients that share an image joined.
        notes: What was found and done, the most important first; empty where nothing is shared, and all was compared.
    """

    keep: NDArray[np.bool_]
    groups: NDArray[np.int64]
    notes: tuple[str, ...]


def overlap(cohorts: Sequence[Cohort], names: Sequence[str], targets: NDArray[np.float32]) -> Overlap:
    """Find images that are in several cohorts, and keep them from being trained on and tested on at once.

    Images with identical pixels are found in cohorts of any size; up to 20,000 images also copies that were re-encoded,
    rescaled, toned, inverted or turned (:func:`cxr_data.auditing.duplicates.near_pairs`). Patients who share an image
    are one group. A training or validation image of such a group is left out where another cohort tests on
    the group, a training image also where another cohort validates on it. Within one cohort nothing is changed.

    Args:
        cohorts: Two or more, of one pixel size, in order.
        names: Their names, for the notes.
        targets: (N, L) labels of all images, to say where cohorts disagree on an image they share.

    Returns:
        Of all N images, one cohort after the other.
    """
    owner = np.repeat(np.arange(len(cohorts)), [len(cohort) for cohort in cohorts])
    offsets = np.cumsum([0, *(int(cohort.groups.max(initial=-1)) + 1 for cohort in cohorts[:-1])])
    groups = np.concatenate([cohort.groups + offset for cohort, offset in zip(cohorts, offsets, strict=True)])
    split = np.concatenate([cohort.table["split"].to_numpy() for cohort in cohorts])
    _, number = np.unique(np.concatenate([image_keys(cohort.pixels) for cohort in cohorts]), return_inverse=True)
    picture, unsure = _copies(cohorts, number, owner)
    identical, shared = (_shared(cohorts, numbers, owner) for numbers in (number, picture))
    keep = np.ones(len(owner), bool)
    if not (shared >= 0).any():
        return Overlap(keep, groups, unsure)
    joined = [None if token < 0 else int(token).to_bytes(8, "big") for token in shared]
    groups = join_groups([str(group) for group in groups], joined)

    tested = _owners(groups, owner, split == "test")
    keep = ~((split != "test") & _elsewhere(groups, owner, tested))
    validated = _owners(groups, owner, (split == "val") & keep)
    keep &= ~((split == "train") & _elsewhere(groups, owner, validated))
    return Overlap(keep, groups, (*_overlap_notes(owner, split, identical >= 0, shared, keep, names, targets), *unsure))


def _shared(cohorts: Sequence[Cohort], number: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) number of each image where images of several cohorts have it, else -1; blank images do not count."""
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
    cohorts: Sequence[Cohort], number: NDArray[np.int64], owner: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(N,) one number for all copies of an image, from one for identical ones; and what was not compared, or in vain.

    In a set of many images that all look alike, as drawings do, likeness says nothing.
    """
    from cxr_data.auditing.duplicates import near_pairs
    from cxr_data.auditing.measures import measure
    from cxr_data.cohorts.likeness import MOST_ALIKE, MOST_COMPARED

    audit = "`cxr-data audit` of all these cohorts together compares them"
    if len(number) > MOST_COMPARED:
        many = f"more than {MOST_COMPARED:,} images: only identical ones were searched for in several cohorts"
        return number, (f"{many}, not copies that were re-encoded, rescaled or turned; {audit}",)
    measured = [measure(cohort) for cohort in cohorts]
    thumbs = np.concatenate([measures.thumbs for measures in measured])
    near = near_pairs(thumbs, [digest for measures in measured for digest in measures.digest])
    one, other = number[near.rows].T
    least = np.arange(int(number.max(initial=-1)) + 1)
    before = None
    while before is None or (least != before).any():  # the smallest number goes from image to image
        before = least.copy()
        lower = np.minimum(before[one], before[other])
        np.minimum.at(least, one, lower)
        np.minimum.at(least, other, lower)
    alike = np.bincount(least, minlength=len(least))[least] > MOST_ALIKE
    unsure = () if near.complete else (f"so many images look alike that not all were compared; {audit}",)
    if len(np.unique(owner[alike[number]])) > 1:
        unsure += (
            f"{int(alike[number].sum())} images look like many others: whether they are copies of images of another "
            "cohort cannot be told, and they count as different",
        )
    return np.where(alike, np.arange(len(least)), least)[number], unsure


def _owners(groups: NDArray[np.int64], owner: NDArray[np.int64], chosen: NDArray[np.bool_]) -> dict[int, set[int]]:
    """Group -> the cohorts that have a chosen image of it."""
    owners: dict[int, set[int]] = {}
    for group, cohort in zip(groups[chosen].tolist(), owner[chosen].tolist(), strict=True):
        owners.setdefault(group, set()).add(cohort)
    return owners


def _elsewhere(
    groups: NDArray[np.int64], owner: NDArray[np.int64], owners: Mapping[int, set[int]]
) -> NDArray[np.bool_]:
    """(N,) whether another cohort than the image's own is among the owners of its group."""
    pairs = zip(groups.tolist(), owner.tolist(), strict=True)
    return np.array([bool(owners.get(group, set()) - {cohort}) for group, cohort in pairs], bool)


def _overlap_notes(
    owner: NDArray[np.int64],
    split: NDArray[Any],
    same: NDArray[np.bool_],
    shared: NDArray[np.int64],
    keep: NDArray[np.bool_],
    names: Sequence[str],
    targets: NDArray[np.float32],
) -> tuple[str, ...]:
    from cxr_data.auditing.leakage import labels_differ

    alike = (shared >= 0) & ~same
    counts = [f"{int(same.sum())} images are identical"] if same.any() else []
    counts += [f"{int(alike.sum())} are copies, re-encoded, rescaled or turned,"] if alike.any() else []
    here = set(owner[shared >= 0].tolist())
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
    order = np.argsort(shared, kind="stable")[int((shared < 0).sum()) :]
    rows = np.split(order, np.flatnonzero(np.diff(shared[order])) + 1)
    if at_odds := sum(labels_differ(targets, of_one) for of_one in rows):
        notes.append(f"the labels of {at_odds} shared images differ from cohort to cohort, and are used as they are")
    tokens = shared[(shared >= 0) & keep & (split == "test")]
    if twice := len(tokens) - len(np.unique(tokens)):
        notes.append(
            f"{twice} test images are there more than once, in several cohorts; intervals count them as one patient"
        )
    return tuple(notes)
