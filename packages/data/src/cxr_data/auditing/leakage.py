"""Find patients and images that lie in two splits, and disagreements between folders and tables."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.auditing.shortcuts import LEAST
from cxr_data.cohorts.cohort import Cohort
from cxr_data.preparation.splits import SPLITS
from cxr_data.readers.listing import SPLIT_FOLDERS
from cxr_data.spelling import sounds_healthy

SHIFT, SIGMAS = 0.05, 3.0
"""A label's share in a split differs from that in train from 5 points, when 3 standard errors lie between them."""


def folder_split(images: Sequence[str]) -> list[str] | None:
    """The split that the folders of the images name.

    Args:
        images: (N,) paths.

    Returns:
        (N,) "train", "val", "test" or "" (in no such folder); None unless train and another are there.
    """
    named = []
    for image in images:
        parts = (SPLIT_FOLDERS.get(part.lower()) for part in image.split("/")[:-1])
        named.append(next((part for part in parts if part), ""))
    return named if "train" in named and {"val", "test"} & set(named) else None


def shared_patients(patients: Sequence[str], split: Sequence[str]) -> dict[str, Any]:
    """Patients with images in more than one split.

    Args:
        patients: (N,) patient of each image.
        split: (N,) split of each image; "" counts as none.

    Returns:
        ``patients`` (all there are), ``shared``, ``pairs`` (such as "train-test": patients in both), ``images`` (of
        the shared patients), and ``rows`` (of some of them, patient by patient).
    """
    parts: dict[str, set[str]] = {}
    rows: dict[str, list[int]] = {}
    for row, (patient, name) in enumerate(zip(patients, split, strict=True)):
        if name:
            parts.setdefault(patient, set()).add(name)
            rows.setdefault(patient, []).append(row)
    shared = [patient for patient, names in parts.items() if len(names) > 1]
    pairs = {
        f"{one}-{other}": count
        for one, other in combinations(SPLITS, 2)
        if (count := sum({one, other} <= parts[patient] for patient in shared))
    }
    of_shared = [row for patient in shared for row in rows[patient]]
    return {
        "patients": len(parts),
        "shared": len(shared),
        "pairs": pairs,
        "images": len(of_shared),
        "rows": [row for patient in shared for row in _one_a_split(rows[patient], split)],
    }


def _one_a_split(rows: list[int], split: Sequence[str]) -> list[int]:
    return list({split[row]: row for row in reversed(rows)}.values())[::-1]


def labels_differ(targets: NDArray[np.float32], rows: NDArray[np.int64]) -> bool:
    """Whether a label is 1 for one of some images and 0 for another."""
    some = targets[rows]
    return bool(((some == 1).any(axis=0) & (some == 0).any(axis=0)).any())


def folder_disagreements(cohort: Cohort) -> dict[str, Any] | None:
    """Images whose folder says another class than their labels.

    A folder counts as a class when it sounds healthy (``0_normal``, ``No_Finding``) or is called as a label is.

    Returns:
        ``folders`` (folder -> images and how many disagree) and ``rows``; None where folders name no class.
    """
    if not cohort.labels:
        return None
    names = {_letters(label): i for i, label in enumerate(cohort.labels)}
    healthy = [i for i, label in enumerate(cohort.labels) if sounds_healthy(label)]
    unknown = set(np.flatnonzero(np.isnan(cohort.targets).all(axis=1)).tolist())
    ill = set(np.nonzero(np.delete(cohort.targets, healthy, axis=1) == 1)[0].tolist())
    folders: dict[str, list[int]] = {}
    wrong: list[int] = []
    for row, image in enumerate(cohort.table["image"]):
        for part in reversed(image.split("/")[:-1]):
            column = names.get(_letters(part))
            if not sounds_healthy(part) and column is None:
                continue
            count = folders.setdefault(part, [0, 0])
            count[0] += 1
            value = cohort.targets[row, column] if column is not None else float(row not in ill)
            if row not in unknown and value == 0:
                count[1] += 1
                wrong.append(row)
            break
    if not folders:
        return None
    counted = {name: {"images": images, "disagree": disagree} for name, (images, disagree) in sorted(folders.items())}
    return {"folders": counted, "rows": wrong}


def balance(cohort: Cohort) -> dict[str, Any]:
    """Positives by split, and where their share is another than in train.

    Returns:
        ``splits`` (split -> images, patients, and label -> positive, known, share), ``shifts`` (label, split,
        share, in train), ``scarce`` (label and split with fewer than 10 positives, or negatives), and
        ``always`` (exclusive classes: split -> the commonest class and the accuracy of always answering it).
    """
    splits: dict[str, Any] = {}
    for name in SPLITS:
        rows = cohort.rows(name)
        some = cohort.targets[rows]
        counts = zip(cohort.labels, (some == 1).sum(axis=0), (~np.isnan(some)).sum(axis=0), strict=True)
        labels = {
            label: {"positive": int(yes), "known": int(all_), "share": float(yes / all_) if all_ else None}
            for label, yes, all_ in counts
        }
        patients = cohort.table["patient"].gather(rows).n_unique() if len(rows) else 0
        splits[name] = {"images": len(rows), "patients": patients, "labels": labels}
    shifts, scarce = [], []
    for label in cohort.labels:
        train = splits["train"]["labels"][label]
        for name in SPLITS:
            here = splits[name]["labels"][label]
            if splits[name]["images"] and min(here["positive"], here["known"] - here["positive"]) < LEAST:
                scarce.append({"label": label, "split": name, **here})
            if name != "train" and here["known"] and train["known"] and _shifted(here, train):
                shifts.append({"label": label, "split": name, "share": here["share"], "train": train["share"]})
    always = {}
    if cohort.task == "multiclass":
        for name, split in splits.items():
            of_labels = {label: counts["positive"] for label, counts in split["labels"].items()}
            if total := sum(of_labels.values()):
                commonest = max(of_labels, key=lambda label: of_labels[label])
                always[name] = {"class": commonest, "accuracy": of_labels[commonest] / total}
    return {"splits": splits, "shifts": shifts, "scarce": scarce, "always": always}


def _shifted(here: dict[str, Any], train: dict[str, Any]) -> bool:
    both = (here["positive"] + train["positive"]) / (here["known"] + train["known"])
    error = np.sqrt(both * (1 - both) * (1 / here["known"] + 1 / train["known"]))
    difference = abs(here["share"] - train["share"])
    return bool(difference >= SHIFT and difference > SIGMAS * error)


def folder_counts(cohort: Cohort, parts: Sequence[str]) -> dict[str, dict[str, int]]:
    """Split folder -> images of it and of each of its labels."""
    names = np.array(parts)
    return {
        part: {
            "images": int((names == part).sum()),
            **{label: int((cohort.targets[names == part, i] == 1).sum()) for i, label in enumerate(cohort.labels)},
        }
        for part in SPLITS
        if (names == part).any()
    }


def by_part(rows: Sequence[NDArray[np.int64]], parts: Sequence[str]) -> dict[str, int]:
    """How many groups of rows begin in each part."""
    return dict(sorted(Counter(parts[int(group[0])] for group in rows).items()))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
