"""The cohort that a model is checked and calibrated on: its training cohort, or one given by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_data import open_cohort, pixel_size_for
from cxr_data.augment import whole
from cxr_data.cohorts.cohort import Cohort
from cxr_data.errors import BadInput
from cxr_data.models.header import Header
from cxr_data.models.model_files import cohort_of

SEED = 0


def open_for(header: Header, data: str | Sequence[str], where: Path) -> Cohort:
    """The cohort of a model.

    Args:
        header: The model's header.
        data: Cohort to use instead of the one the model was trained on.
        where: The model's file, for messages.

    Raises:
        BadInput: No cohort is named, it is not there, or it has not the model's labels.
    """
    named = cohort_of(header, data, where, wanted="a cohort with radiographs")
    cohort = open_cohort(named, pixel_size=pixel_size_for(header.input.size))
    if cohort.labels and (cohort.task != header.task or not set(header.labels) <= set(cohort.labels)):
        raise BadInput(
            f"a {header.task} cohort with the labels {', '.join(header.labels)}",
            f"{cohort.task} labels {', '.join(cohort.labels)}",
            where=str(named),
            do="give --data the cohort the model was trained on",
        )
    return cohort


def sample(cohort: Cohort, split: str, most: int) -> NDArray[np.int64]:
    """At most so many rows of a split, drawn without replacement by a fixed seed, ascending."""
    rows = cohort.rows(split)
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(SEED).choice(rows, most, replace=False))


def pixels(cohort: Cohort, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Whole images as a network takes them, (N, 1, size, size), the same view that evaluation uses."""
    return whole(cohort.pixels[rows], size)[:, None]


def targets(cohort: Cohort, rows: NDArray[np.int64], header: Header) -> NDArray[np.float32]:
    """(N, L) labels in {0, 1, NaN} in the order of the model's logits."""
    columns = [cohort.labels.index(label) for label in header.labels]
    return cohort.targets[rows][:, columns]
