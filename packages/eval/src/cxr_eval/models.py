"""Which models are compared, what they are called, and how their labels meet the cohort's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_data.cohorts.cohort import Cohort
from cxr_data.errors import BadInput
from cxr_data.models.header import Header


@dataclass(frozen=True)
class Match:
    """Labels that every model and the cohort have in common.

    Attributes:
        task: "multilabel" or "multiclass".
        labels: Names of the evaluated labels, in the first model's order.
        notes: What a reader must know, in sentences.
    """

    task: str
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def match_labels(headers: Mapping[str, Header], task: str, labels: Sequence[str]) -> Match:
    """Match the models' labels to the cohort's by name.

    Multi-label: what all have in common. Multi-class: all models must know the same classes and the cohort
    no other; classes the cohort lacks stay as answers that are never right.

    Args:
        headers: Headers by model name; the first gives the order.
        task: The cohort's task.
        labels: The cohort's labels.

    Raises:
        BadInput: Another task, or names that do not match; both lists are named.
    """
    ours = ", ".join(labels)
    for name, header in headers.items():
        theirs = ", ".join(header.labels)
        if header.task != task:
            raise BadInput(
                f"a {header.task} cohort for model {name} ({theirs})",
                f"a {task} cohort ({ours})",
                do="give --data a cohort of the same task, or other models",
            )
        shared = set(header.labels) & set(labels)
        if not shared or (task == "multiclass" and set(labels) - shared):
            raise BadInput(
                f"the {'classes' if task == 'multiclass' else 'labels'} of model {name}: {theirs}",
                f"those of the cohort: {ours}",
                do="names are matched exactly; rename the classes of one side, or choose another cohort",
            )
    first_name, first = next(iter(headers.items()))
    notes = []
    if task == "multiclass":
        for name, header in headers.items():
            if set(header.labels) != set(first.labels):
                raise BadInput(
                    f"models of the same classes, as {first_name}: {', '.join(first.labels)}",
                    f"{name}: {', '.join(header.labels)}",
                    do="compare them in separate reports",
                )
        absent = [label for label in first.labels if label not in labels]
        if absent:
            notes.append(f"The cohort has no image of class {', '.join(absent)}; the models may still answer it.")
        matched = first.labels
    else:
        matched = tuple(
            label for label in first.labels if label in labels and all(label in h.labels for h in headers.values())
        )
        if not matched:
            lists = "; ".join(f"{name}: {', '.join(header.labels)}" for name, header in headers.items())
            raise BadInput("labels that all models share with the cohort", f"none: {lists}; cohort: {ours}")
        for name, known in [*((n, h.labels) for n, h in headers.items()), ("the cohort", tuple(labels))]:
            extra = [label for label in known if label not in matched]
            if extra:
                notes.append(f"Not evaluated, known to {name} only in part of the comparison: {', '.join(extra)}.")
    orders = [header.labels for header in headers.values()] + [tuple(labels)]
    if any([label for label in order if label in matched] != [x for x in matched if x in order] for order in orders):
        notes.append("Labels come in different orders and were matched by name.")
    return Match(task, matched, tuple(notes))


def relation(header: Header, cohort: Cohort) -> str:
    """How an evaluated cohort relates to the one a model was trained on.

    Args:
        header: The model's header.
        cohort: The evaluated cohort at the model's input size, on which fingerprints depend.

    Returns:
        "internal" (the same cohort), "overlapping" (one is joined from several, and a part is the same), "other state"
        (a data set of the same name, but not the same images, labels or splits), "external" (another data set), or
        "unknown" (the file does not say).
    """
    trained = header.cohort or {}
    if not trained.get("fingerprint"):
        return "unknown"
    if trained["fingerprint"] == cohort.fingerprint:
        return "internal"
    theirs = _parts(trained.get("name") or "", trained["fingerprint"], trained.get("parts") or ())
    ours = _parts(cohort.name, cohort.fingerprint, cohort.parts)
    contents = [sorted(content for _, content in side) for side in (theirs, ours)]
    if contents[0] == contents[1]:  # joined in another order
        return "internal"
    same = {content for _, content in theirs} & {content for _, content in ours}
    changed = [{name for name, content in side if content not in same} for side in (theirs, ours)]
    if changed[0] & changed[1]:
        return "other state"
    return "overlapping" if same else "external"


def _parts(name: str, fingerprint: str, parts: Sequence[Mapping[str, str]]) -> set[tuple[str, str]]:
    """(name, fingerprint) of everything a cohort holds."""
    return {(part["name"], part["fingerprint"]) for part in parts} or {(name, fingerprint)}


def teachers(headers: Mapping[str, Header], hashes: Mapping[str, str]) -> dict[str, str]:
    """Which of the compared models another one was distilled from.

    Args:
        headers: Headers by model name.
        hashes: SHA-256 of each model's file.

    Returns:
        Student -> teacher, for the students whose (first) teacher is among the models.
    """
    teacher_of = {}
    by_hash = {value: name for name, value in hashes.items()}
    for name, header in headers.items():
        for parent in header.parents:
            if parent.get("role") == "teacher" and by_hash.get(parent.get("sha256", ""), name) != name:
                teacher_of.setdefault(name, by_hash[parent["sha256"]])
    return teacher_of


def controls(headers: Mapping[str, Header]) -> dict[str, str]:
    """Which of the compared models is another one's control: the same student and settings, without the teacher.

    Told from the files alone: equal architecture, config and seed, a teacher among the parents of the one and none
    among those of the other.

    Args:
        headers: Headers by model name.

    Returns:
        Student -> control.
    """
    control_of = {}
    for name, header in headers.items():
        if not header.config.get("control") or not _taught(header):
            continue
        record = (header.architecture, header.config, header.seed)
        for other, candidate in headers.items():
            if not _taught(candidate) and (candidate.architecture, candidate.config, candidate.seed) == record:
                control_of.setdefault(name, other)
    return control_of


def _taught(header: Header) -> bool:
    return any(parent.get("role", "").startswith("teacher") for parent in header.parents)


def aligned_targets(targets: NDArray[np.float32], labels: Sequence[str], match: Match) -> NDArray[np.float32]:
    """The cohort's targets in the order of the match.

    Args:
        targets: (N, len(labels)) in {0, 1, NaN}.
        labels: The cohort's labels.
        match: From ``match_labels``.

    Returns:
        (N, L); a class the cohort lacks is 0 where the image's class is known.
    """
    unknown = np.isnan(targets).any(axis=1)
    columns = [
        targets[:, labels.index(label)] if label in labels else np.where(unknown, np.nan, 0) for label in match.labels
    ]
    return np.stack(columns, axis=1).astype(np.float32)
