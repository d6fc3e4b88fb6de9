"""Who is in train, val and test: whole patients, balanced over labels, the same for the same seed.

A *group* is what must stay together: one patient, or several patients joined by exact duplicate images.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.errors import BadInput, require, require_known

if TYPE_CHECKING:
    from cxr_data.cohorts.cohort import Cohort

SPLITS = ("train", "val", "test")
_OFFICIAL = "the split that the data set brings"
_ANOTHER = "have another one drawn with `cxr-data prepare FOLDER --split patients`"
_OWN = (7, 1, 2)
"""Parts of train, val and test where a data set brings no split."""
_OWN_UNLABELLED = (9, 1, 0)
"""Without labels nothing can be tested."""
_DEALS, _DEALT_GROUPS = 40, 40_000
"""Deals tried for the most even split, and groups dealt in all: large cohorts need no second try."""


def join_groups(patients: Sequence[str], digests: Sequence[bytes | None]) -> NDArray[np.int64]:
    """Number the groups: images of one patient, and patients that share an identical image.

    Args:
        patients: (N,) patient of each image.
        digests: (N,) hash of each image's pixels; None joins nothing.

    Returns:
        (N,) group numbers from 0, in order of first appearance.
    """
    patient_numbers: dict[str, int] = {}
    codes = [patient_numbers.setdefault(patient, len(patient_numbers)) for patient in patients]
    parent = list(range(len(patient_numbers)))

    def root(code: int) -> int:
        while parent[code] != code:
            parent[code] = parent[parent[code]]
            code = parent[code]
        return code

    first: dict[bytes, int] = {}
    for code, digest in zip(codes, digests, strict=True):
        if digest is not None:
            one, other = root(first.setdefault(digest, code)), root(code)
            parent[max(one, other)] = min(one, other)
    roots = np.array([root(code) for code in range(len(parent))], np.int64)
    return _renumber(roots[np.array(codes, np.int64)]) if codes else np.zeros(0, np.int64)


def stratified(
    groups: NDArray[np.int64], targets: NDArray[np.float32], parts: Sequence[int], seed: int
) -> NDArray[np.int64]:
    """Deal whole groups to parts of given sizes, keeping each label's share alike in all of them.

    Iterative stratification (Sechidis et al., ECML PKDD 2011), of groups: they are dealt from the rarest label
    to the commonest, in random order or those with most images first, each to the part that is furthest behind
    its due share of the label's images so far, then of all images so far. In a small cohort chance is large, so
    the best of several deals is taken: the one whose counts of labels, images and groups are nearest to the
    due shares (chi-squared).

    Args:
        groups: (N,) group of each image.
        targets: (N, L) labels in {0, 1, NaN}; L may be 0.
        parts: Relative sizes of the parts, whole numbers.
        seed: Fixes the random order.

    Returns:
        (N,) part of each image, in 0 .. len(parts) - 1.
    """
    numbers = _renumber(groups)
    sizes = np.bincount(numbers)
    strata = _strata(numbers, targets)
    # The last two columns, images and groups, also stand for the strata "none" and "unknown".
    counts = np.column_stack([_positives(numbers, targets), sizes, np.ones_like(sizes)])
    due = np.array(parts, np.int64)
    expected = due[:, None] * counts.sum(axis=0) / due.sum()
    rarity = np.argsort(np.argsort((counts > 0).sum(axis=0), kind="stable"))[strata]
    rng = np.random.default_rng([seed, len(sizes)])
    deals = int(np.clip(_DEALT_GROUPS // max(len(sizes), 1), 1, _DEALS))
    best, least = np.zeros(len(sizes), np.int64), np.inf
    for deal in range(deals):
        most_first = -counts[np.arange(len(sizes)), strata] * (deal % 2 == 0)
        order = np.lexsort((rng.permutation(len(sizes)), most_first, rarity))
        part, missed = _deal(order, strata, counts, due)
        distance = float((missed**2 / np.maximum(expected, 1)).sum())
        if distance < least:
            best, least = part, distance
    return best[numbers]


def _deal(
    order: NDArray[np.int64], strata: NDArray[np.int64], counts: NDArray[np.int64], due: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(G,) part of each group, and (parts, L + 2) how many counts each part is short of its due share."""
    behind = np.zeros((len(due), counts.shape[1]), np.int64)  # times due.sum(): no rounding decides
    part = np.empty(len(counts), np.int64)
    open_parts = [p for p in range(len(due)) if due[p]]
    for group in order:
        behind += due[:, None] * counts[group]
        of_label, of_all = behind[:, strata[group]].tolist(), behind[:, -2].tolist()
        _, _, chosen = max((of_label[p], of_all[p], p) for p in open_parts)  # a tie goes to the last, smaller ones
        behind[chosen] -= due.sum() * counts[group]
        part[group] = chosen
    return part, behind / due.sum()


def assign(
    official: Sequence[str | None],
    groups: NDArray[np.int64],
    targets: NDArray[np.float32],
    seed: int,
) -> tuple[list[str], list[str]]:
    """Settle the split of every image.

    The split of the data set is used where there is one, and its test part is never touched. A validation
    part that is missing, or smaller than 100 images and 5 % of the training images, gets about 10 % of the
    training patients. Without any split: 70 / 10 / 20 % of the patients.

    Args:
        official: (N,) "train", "val", "test", or None where the data set says nothing (all or none).
        groups: (N,) group of each image.
        targets: (N, L) labels in {0, 1, NaN}.
        seed: Fixes what is drawn.

    Returns:
        (N,) splits, and notes on what was done and what is wrong with the official split.

    Raises:
        BadInput: No training images, or too few patients to split.
    """
    split = np.array([name or "" for name in official])
    if not (split != "").any():
        return _own_split(groups, targets, seed)
    if not (split == "train").any():
        found = f"only {' and '.join(sorted(set(split.tolist())))} images"
        raise BadInput("training images", found, where=_OFFICIAL, do=f"put some into train, or {_ANOTHER}")

    notes = []
    train, val, test = (split == name for name in SPLITS)
    if targets.shape[1] and not test.any():
        moved = train & _drawn(groups, targets, train, (2, 8), seed, "test")
        split[moved] = "test"
        train &= ~moved
        notes.append(
            f"the data set has no test part: {moved.sum()} images of {_count(groups, moved)} training "
            "patients became test"
        )
    if val.sum() < max(100, 0.05 * train.sum()):
        shared = train & np.isin(groups, groups[val])
        split[shared] = "val"
        train &= ~shared
        if not train.any():
            raise BadInput(
                "training patients who are not in validation too",
                f"none: all {_count(groups, shared)} lie in both parts",
                where=_OFFICIAL,
                do=f"put each patient into one part, or {_ANOTHER}",
            )
        moved = train & _drawn(groups, targets, train, (1, 9), seed, "validation")
        split[moved] = "val"
        moved |= shared
        notes.append(
            f"the official validation part has {val.sum()} images, too few to choose a model by: "
            f"{moved.sum()} images of {_count(groups, moved)} training patients were added to it"
            if val.any()
            else f"the data set has no validation part: {moved.sum()} images of {_count(groups, moved)} "
            "training patients became validation"
        )
    return split.tolist(), notes + _leaks(split, groups)


def shared_groups(split: NDArray[Any], groups: NDArray[np.int64]) -> dict[tuple[str, str], int]:
    """How many groups lie in two parts at once.

    Args:
        split: (N,) "train", "val" or "test".
        groups: (N,) group of each image.

    Returns:
        Two parts -> number of groups in both, for those that share any.
    """
    members = {name: np.unique(groups[split == name]) for name in SPLITS}
    pairs = itertools.combinations(SPLITS, 2)
    both = {(one, other): len(np.intersect1d(members[one], members[other])) for one, other in pairs}
    return {pair: count for pair, count in both.items() if count}


def redraw(
    groups: NDArray[np.int64], targets: NDArray[np.float32], *, by: str, test_share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Split anew whatever the data set brings, with one part in eight of the rest for validation.

    Args:
        groups: (N,) group of each image.
        targets: (N, L) labels in {0, 1, NaN}.
        by: "patients", or "images" as papers do that report on a random split: images of one patient then lie
            on both sides, and figures come out better than they are.
        test_share: Share of the images for testing, in (0, 1).
        seed: Fixes what is drawn.

    Returns:
        (N,) splits, and notes on what was done.

    Raises:
        BadInput: A share or a way that cannot be, or too few patients.
    """
    require_known("way to split", by, ("patients", "images"))
    require(0 < test_share < 1, "a share of test images above 0 and below 1", test_share, "--test_share")
    rest = 1 - test_share
    parts = [max(1, round(1000 * share)) for share in (rest * 7 / 8, rest / 8, test_share)]
    drawn = groups if by == "patients" else np.arange(len(groups))
    split = np.array(SPLITS)[stratified(drawn, targets, parts, seed)]
    if not all((split == name).any() for name in SPLITS):
        raise BadInput("enough patients for train, val and test", f"{len(np.unique(drawn))}")
    counts = ", ".join(f"{(split == name).sum()} {name}" for name in SPLITS)
    return split.tolist(), [f"split anew by {by} ({counts} images)", *_leaks(split, groups, "this")]


def kfold(cohort: "Cohort", folds: int, *, seed: int = 0) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cross-validation over the training and validation images; test stays out.

    Args:
        cohort: The cohort.
        folds: Number of folds, at least 2.
        seed: Fixes the folds.

    Returns:
        For each fold (train rows, val rows), sorted; the val rows of all folds are every train or val image.

    Raises:
        BadInput: Fewer than 2 folds, or fewer patients than folds.

    Examples:
        >>> from cxr_data import kfold, open_cohort
        >>> cohort = open_cohort("phantom:60", pixel_size=32, show=False)
        >>> folds = kfold(cohort, 5)
        >>> sum(len(val) for train, val in folds) == len(cohort.rows("train")) + len(cohort.rows("val"))
        True
    """
    rows = np.sort(np.concatenate([cohort.rows("train"), cohort.rows("val")]))
    groups = cohort.groups[rows]
    if not 2 <= folds <= len(np.unique(groups)):
        raise BadInput(f"2 to {len(np.unique(groups))} folds (one patient each)", str(folds))
    part = stratified(groups, cohort.targets[rows], [1] * folds, seed)
    return [(rows[part != fold], rows[part == fold]) for fold in range(folds)]


def label_fraction(cohort: "Cohort", fraction: float, *, seed: int = 0) -> NDArray[np.int64]:
    """A share of the labelled training images, by whole patients; smaller shares lie within larger ones.

    Patients are put in one order in which every beginning has about the label mix of the whole. With
    exclusive classes every class keeps at least one patient, however small the share.

    Args:
        cohort: The cohort.
        fraction: Share of the labelled training images, in (0, 1].
        seed: Fixes the order.

    Returns:
        Rows, sorted.

    Raises:
        BadInput: A share outside (0, 1], or a cohort without labelled training images.

    Examples:
        >>> from cxr_data import label_fraction, open_cohort
        >>> cohort = open_cohort("phantom:60", pixel_size=32, show=False)
        >>> few = label_fraction(cohort, 0.25)
        >>> set(few) <= set(label_fraction(cohort, 0.5)) <= set(cohort.rows("train"))
        True
    """
    if not 0 < fraction <= 1:
        raise BadInput("a share of the labels above 0 and up to 1", str(fraction), do="0.01 means 1 %")
    rows = cohort.rows("train")
    if cohort.labels:
        rows = rows[~np.isnan(cohort.targets[rows]).all(axis=1)]
    if not cohort.labels or not len(rows):
        raise BadInput("labelled training images", "none", where=cohort.source)
    numbers = _renumber(cohort.groups[rows])
    sizes = np.bincount(numbers)
    strata = _strata(numbers, cohort.targets[rows])
    rng = np.random.default_rng([seed, len(sizes)])
    order = np.lexsort((rng.permutation(len(sizes)), strata))
    starts = np.flatnonzero(np.diff(strata[order], prepend=-1))
    before = np.cumsum(sizes[order]) - sizes[order]
    before -= np.repeat(before[starts], np.diff(starts, append=len(order)))
    totals = np.bincount(strata, weights=sizes)[strata[order]]
    # One offset a stratum: over seeds, a small stratum enters a beginning as often as its share says.
    offset = rng.uniform(size=int(strata.max()) + 1)[strata[order]]
    place = (before + offset * sizes[order]) / totals
    if cohort.task == "multiclass":
        place[starts] = -1.0
    order = order[np.argsort(place, kind="stable")]
    reached = np.cumsum(sizes[order])
    wanted = fraction * len(rows)
    # The beginning whose size is nearest to what was asked for.
    count = int(np.argmin(np.abs(reached - wanted))) + 1
    if cohort.task == "multiclass":
        count = max(count, len(starts))
    return rows[np.isin(numbers, order[:count])]


def _own_split(groups: NDArray[np.int64], targets: NDArray[np.float32], seed: int) -> tuple[list[str], list[str]]:
    parts = _OWN if targets.shape[1] else _OWN_UNLABELLED
    split = np.array(SPLITS)[stratified(groups, targets, parts, seed)]
    if targets.shape[1] and not all((split == name).any() for name in SPLITS):
        raise BadInput(
            "enough patients of each class or finding for train, val and test, such as ten",
            f"{len(groups)} images of {len(np.unique(groups))} in all (identical images count as one patient)",
            do="add images, or bring train, val and test folders; if a placeholder such as ANONYMOUS is the number of "
            "many, list patients in manifest.csv (columns file, patient)",
        )
    shares = " / ".join(f"{10 * size}" for size in parts)
    counts = ", ".join(f"{_count(groups, split == name)} {name}" for name in SPLITS)
    return split.tolist(), [f"the data set has no split: patients were split {shares} % ({counts})"]


def _drawn(
    groups: NDArray[np.int64],
    targets: NDArray[np.float32],
    among: NDArray[np.bool_],
    parts: tuple[int, int],
    seed: int,
    what: str,
) -> NDArray[np.bool_]:
    """Mask of the images whose groups are drawn: ``parts[0]`` of ``sum(parts)`` of those ``among``."""
    drawn = np.zeros(len(groups), bool)
    drawn[among] = stratified(groups[among], targets[among], parts[::-1], seed) == 1
    if not drawn.any() or drawn[among].all():
        raise BadInput(
            f"enough training patients to take some for {what}",
            f"{_count(groups, among)} (identical images count as one patient)",
            where=_OFFICIAL,
            do=f"add training images or a {what} part, or {_ANOTHER}",
        )
    return drawn


def _leaks(split: NDArray[np.str_], groups: NDArray[np.int64], whose: str = "the official") -> list[str]:
    return [
        f"{both} patients (or patients with an identical image) lie in both {one} and {other} of {whose} split, which "
        "was left as it is"
        for (one, other), both in shared_groups(split, groups).items()
    ]


def _strata(numbers: NDArray[np.int64], targets: NDArray[np.float32]) -> NDArray[np.int64]:
    """(G,) stratum of each group: its rarest positive label, L for none, L + 1 for unknown."""
    positive = _positives(numbers, targets) > 0
    groups, labels = positive.shape
    if labels == 0:
        return np.zeros(groups, np.int64)
    known = np.zeros(groups, bool)
    known[numbers[~np.isnan(targets).all(axis=1)]] = True
    rarest_first = np.argsort(positive.sum(axis=0), kind="stable")
    rarest = rarest_first[positive[:, rarest_first].argmax(axis=1)]
    return np.where(~known, labels + 1, np.where(positive.any(axis=1), rarest, labels))


def _positives(numbers: NDArray[np.int64], targets: NDArray[np.float32]) -> NDArray[np.int64]:
    """(G, L) positive images of each group and label."""
    counts = np.zeros((int(numbers.max(initial=-1)) + 1, targets.shape[1]), np.int64)
    rows, columns = np.nonzero(targets == 1)
    np.add.at(counts, (numbers[rows], columns), 1)
    return counts


def _renumber(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers from 0 in order of first appearance."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _count(groups: NDArray[np.int64], mask: NDArray[np.bool_]) -> int:
    return len(np.unique(groups[mask]))
