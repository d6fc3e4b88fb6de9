"""Notes on a cohort that is being prepared: identical images, placeholders for patients, labels missing in a split."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.preparation.splits import SPLITS
from cxr_data.readers import Listing


def duplicate_notes(identical: list[bytes | None], targets: NDArray[np.float32]) -> list[str]:
    """A note on images that are identical pixel by pixel, and on those among them whose labels differ."""
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(identical):
        if digest is not None:
            groups.setdefault(digest, []).append(row)
    repeated = [rows for rows in groups.values() if len(rows) > 1]
    if not repeated:
        return []
    images = sum(map(len, repeated))
    note = f"{images} images in {len(repeated)} groups are identical: each group stays together when splitting"
    at_odds = sum(
        bool((np.nan_to_num(targets[rows], nan=-1) != np.nan_to_num(targets[rows[0]], nan=-1)).any())
        for rows in repeated
    )
    return [note, f"the labels differ within {at_odds} of these groups"] if at_odds else [note]


def placeholder_notes(patients: pl.Series) -> list[str]:
    """A note where one patient has far more images than any other."""
    most, second = [*patients.value_counts(sort=True)["count"].head(2), 0][:2]
    if most < max(20, 0.05 * len(patients), 4 * second):
        return []
    return [
        f"{most} of {len(patients)} images are of one patient: if that is no person but a placeholder such as "
        "ANONYMOUS, list the patients in manifest.csv (columns file, patient)"
    ]


def missing_classes(listing: Listing, split: list[str], targets: NDArray[np.float32]) -> list[str]:
    """Notes on labels that no image says anything of, and on splits that lack images of a label, or its values."""
    notes = []
    labels, known = np.array(listing.labels), ~np.isnan(targets)
    told = known.any(axis=0)
    if not told.all():
        names = ", ".join(labels[~told])
        notes.append(f"no image says anything of {names} (blank or uncertain in every row): nothing is learnt of it")
    for name in SPLITS:
        inside = np.array(split) == name
        some, shown = known[inside].any(axis=0), (targets[inside] == 1).any(axis=0)
        for lacking, said in ((told & ~some, "says nothing of"), (some & ~shown, "has no image of")):
            if inside.any() and lacking.any():
                notes.append(f"{name} {said} {', '.join(labels[lacking])}")
    return notes
