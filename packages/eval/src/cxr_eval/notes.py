"""Sentences a reader of the figures must know."""

from collections.abc import Mapping
from typing import Any

from cxr_common.checkpoint import Header
from cxr_common.cohorts import pixel_size_for
from cxr_common.cohorts.cohort import Cohort
from cxr_eval.models import Match, relation


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
    found = []
    relations = {
        name: relation(header, _cohort(header, cohorts).name, _cohort(header, cohorts).fingerprint)
        for name, header in headers.items()
    }
    if split in ("train", "val"):
        found.append(f"These are {split} images, not test images: the figures may flatter the models.")
    if split == "all" and "external" not in relations.values():
        found.append("These are all images of the cohort, training images among them: the figures flatter the models.")
    for name, header in headers.items():
        cohort = _cohort(header, cohorts)
        trained = (header.cohort or {}).get("name")
        if relations[name] == "unknown":
            found.append(f"{name}: its file does not say what it was trained on.")
        if relations[name] == "other state":
            found.append(
                f"{name} was trained on another state of {trained}: images, labels or splits differ, so some of these "
                "images may have been among its training images."
            )
        if relations[name] == "external":
            found.append(
                f"External cohort: {name} was trained on {trained}, not on {cohort.name}. Its thresholds and "
                "temperature come from there; that no patient is in both is for you to know."
            )
        if header.input.pixels and header.input.pixels != cohort.pixel_mapping:
            found.append(
                f"{name} was trained on pixels mapped as {_plain(header.input.pixels)}, the cohort's are "
                f"{_plain(cohort.pixel_mapping)}."
            )
        if not header.thresholds and not (match.task == "multiclass" and len(match.labels) > 2):
            found.append(f"{name}: no threshold was fitted; 0.5 decides.")
    return found


def _cohort(header: Header, cohorts: Mapping[int, Cohort]) -> Cohort:
    return cohorts[pixel_size_for(header.input.size)]


def _plain(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(mapping.items()))
