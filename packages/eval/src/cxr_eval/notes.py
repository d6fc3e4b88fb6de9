"""Notes on the figures that their reader must know."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_common.checkpoint import training_images
from cxr_data import pixel_size_for
from cxr_data.cohorts.cohort import Cohort
from cxr_data.cohorts.digests import image_keys
from cxr_data.cohorts.likeness import alike, likeness_keys
from cxr_data.models.decisions import unfitted
from cxr_data.models.header import Header
from cxr_data.models.licences import is_loud, trail
from cxr_eval.models import Match, relation


def counted_images(images: int, split: str) -> str:
    """A number of images of a split, in words: "624 test images", "all 570 images"."""
    return f"all {images} images" if split == "all" else f"{images} {split} images"


def notes(split: str, headers: Mapping[str, Header], cohorts: Mapping[int, Cohort], match: Match) -> list[str]:
    """What must be said about models on this cohort.

    Args:
        split: Which images are evaluated.
        headers: Headers by model name.
        cohorts: The cohort by stored pixel size.
        match: Task and labels.

    Returns:
        Sentences: held-out or not, internal or external, other pixel mapping, thresholds that were not fitted.
    """
    sentences = []
    relations = {name: relation(header, _cohort(header, cohorts)) for name, header in headers.items()}
    if split in ("train", "val"):
        sentences.append(f"These are {split} images, not test images: the figures may flatter the models.")
    known = [name for name in headers if relations[name] != "external"]
    if split == "all" and known:
        sentences.append(
            f"These are all images of the cohort, training images of {', '.join(known)} among them: the figures "
            f"flatter {'that model' if len(known) == 1 else 'these models'}."
        )
    if known and (shared := next(iter(cohorts.values())).shared_groups.get(("train", split))):
        sentences.append(
            f"{shared} patients (or patients with an identical image) lie in both train and {split}: the figures "
            f"flatter models trained on this cohort ({', '.join(known)})."
        )
    trained = {name: (header.cohort or {}).get("name") for name, header in headers.items()}
    for kind, sentence in _RELATIONS.items():
        for origin in dict.fromkeys(trained[name] for name in headers if relations[name] == kind):
            names = [name for name in headers if relations[name] == kind and trained[name] == origin]
            first = _cohort(headers[names[0]], cohorts)
            verb = "was" if len(names) == 1 else "were"
            sentences.append(sentence.format(models=", ".join(names), verb=verb, origin=origin, cohort=first.name))
    for name, header in headers.items():
        sentences += [f"{name}: {line}." for line in trail(header.licence, header.ancestors) if is_loud(line)]
    foreign: dict[str, list[str]] = {}
    for name, header in headers.items():
        for ancestor in header.ancestors:
            if not ancestor["source"].startswith("cxr "):
                foreign.setdefault(ancestor["name"], []).append(name)
    for origin, names in foreign.items():
        sentences.append(
            f"Nothing says which images {origin} was trained on, which {', '.join(names)} "
            f"{'comes' if len(names) == 1 else 'come'} from: some of these may be among them."
        )
    for name, header in headers.items():
        cohort = _cohort(header, cohorts)
        if header.input.pixels and header.input.pixels != cohort.pixel_mapping:
            sentences.append(
                f"{name} was trained on pixels mapped as {_plain(header.input.pixels)}, the cohort's are "
                f"{_plain(cohort.pixel_mapping)}."
            )
        own = unfitted(header.thresholds, header.labels, match.task)
        if without := [label for label in match.labels if label in own]:
            of = "" if len(without) == len(match.labels) else f" for {', '.join(without)}"
            sentences.append(f"{name}: no threshold was fitted{of}; 0.5 decides.")
    return sentences


def met_in_training(
    files: Mapping[str, Path], headers: Mapping[str, Header], cohorts: Mapping[int, Cohort], rows: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Count the evaluated images that are among the training or validation images of a model, its teacher or its start.

    Args:
        files: Weights files by model name.
        headers: Their headers.
        cohorts: The cohort by stored pixel size.
        rows: Evaluated rows.

    Returns:
        For each model ``evaluated`` images, ``identical`` ones (None where none were stored at the same edge),
        ``copies`` that look the same (None where the file does not say what its images look like), and why something
        could not be compared: ``not_compared``, else None.
    """
    stored = {cohort.pixel_size: cohort for cohort in cohorts.values()}
    keys: dict[int, NDArray[np.int64]] = {}
    looks = None
    overlaps = {}
    for name, header in headers.items():
        trained = training_images(files[name])
        comparable = trained.identical.keys() & stored.keys()
        seen, copies = np.zeros(len(rows), bool), None
        for size in comparable:
            if size not in keys:
                keys[size] = image_keys(stored[size].pixels, rows)
            seen |= np.isin(keys[size], trained.identical[size])
        if len(trained.likeness):
            if looks is None:
                looks = likeness_keys(next(iter(stored.values())).pixels, rows)
            copies = int((alike(looks, trained.likeness) & ~seen).sum())
        reasons = []
        if not trained.identical:
            reasons.append(_NO_KEYS)
        elif copies is None:
            reasons.append("its file does not say what its training images look like: copies of them are not found")
        if copies is None and (other := sorted(trained.identical.keys() - comparable)):
            sizes = ", ".join(map(str, other))
            count = sum(len(trained.identical[size]) for size in other)
            reasons.append(
                f"{count:,} training images were stored at {sizes} pixels, these at {', '.join(map(str, stored))}"
            )
        elif (
            trained.identical and header.input.pixels and header.input.pixels != _cohort(header, cohorts).pixel_mapping
        ):
            reasons.append("its training images were mapped to pixels otherwise")
        overlaps[name] = {
            "evaluated": len(rows),
            "identical": int(seen.sum()) if comparable else None,
            "copies": copies,
            "not_compared": "; ".join(reasons) or None,
        }
    return overlaps


_NO_KEYS = "its file does not say which images it was trained on"


def seen_in_training(met: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences on what `met_in_training` found: images met again, and images that could not be compared."""
    seen: dict[str, list[str]] = {}
    untold: dict[str, list[str]] = {}
    for name, one in met.items():
        counts = [
            f"{count} {what}"
            for count, what in (
                (one["identical"], "are identical to"),
                (one["copies"], "look like copies, saved anew, rescaled, toned or turned, of"),
            )
            if count
        ]
        if counts:
            seen.setdefault(" and ".join(counts), []).append(name)
        if one["not_compared"] and not one["not_compared"].startswith(_NO_KEYS):  # said where the origin is unknown
            untold.setdefault(one["not_compared"], []).append(name)
    total = next((one["evaluated"] for one in met.values()), 0)
    return [
        f"Of {total} evaluated images {counts} training or validation images of {', '.join(names)}, or of its teacher "
        "or start: the figures flatter it."
        for counts, names in seen.items()
    ] + [
        f"{', '.join(names)}: not all images that it, its teacher or its start were trained on can be compared with "
        f"these: {reason}."
        for reason, names in untold.items()
    ]


_RELATIONS = {
    "external": (
        "External cohort: {models} {verb} trained on {origin}, not on {cohort}. Thresholds and temperatures come from "
        "there. Whether a patient, or an image saved anew, is in both cannot be checked here."
    ),
    "overlapping": (
        "Overlapping cohorts: {models} {verb} trained on {origin}, which has a data set in common with {cohort}. The "
        "shared data set is split alike in both; taken together the figures are neither internal nor external."
    ),
    "other state": (
        "{models} {verb} trained on another state of {origin}: images, labels or splits differ, so some of these "
        "images may have been among the training images."
    ),
    "unknown": (
        "The file does not say what {models} {verb} trained on: these images may have been among the training images."
    ),
}


def _cohort(header: Header, cohorts: Mapping[int, Cohort]) -> Cohort:
    return cohorts[pixel_size_for(header.input.size)]


def _plain(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(mapping.items()))
