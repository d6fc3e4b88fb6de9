"""Kermany / Mooney: paediatric radiographs, NORMAL against PNEUMONIA (doi:10.17632/rscbjbr9sj, CC BY 4.0).

``{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg``; the Kaggle edition's val has 16 images, the Mendeley
edition has none. Everything else known of an image is in its file name:

    person1000_bacteria_2931.jpeg   IM-0115-0001.jpeg   NORMAL2-IM-1427-0001.jpeg       (Kaggle)
    BACTERIA-1008087-0001.jpeg      NORMAL-1003233-0001.jpeg                            (Mendeley)

The classes are NORMAL and PNEUMONIA, or NORMAL, BACTERIAL and VIRAL where these are asked for
(``--labels NORMAL,BACTERIAL,VIRAL``).

Bacteria and virus are numbered separately, or they are not: the names cannot tell. So one bare person
number is one patient here, which at worst keeps two patients together.
"""

import os
import re
from itertools import islice
from pathlib import Path

import polars as pl

from cxr_data.folders import existing_folder
from cxr_data.readers.listing import Listing, image_files, one_hot

LABELS = ("NORMAL", "PNEUMONIA")
SUBTYPES = {"BACTERIAL": "bacteria", "VIRAL": "virus"}
"""Classes that may be asked for in place of PNEUMONIA, and what file names call them."""
PATIENT_CAUTION = (
    "whether bacteria and virus are numbered separately cannot be decided from the names: by the bare number, the "
    "careful reading, they are one patient; by number and word none lies in two parts of the official split"
)
"""Why patients may be fewer than there are, for an audit."""
_PNEUMONIA = re.compile(r"(?:person(\d+)_(bacteria|virus)_\d+|(BACTERIA|VIRUS)-(\d+)-\d+)", re.IGNORECASE)
_NORMAL = re.compile(r"((?:NORMAL\d*-)?(?:IM-)?\d+)-\d+", re.IGNORECASE)


def looks_like(path: Path) -> bool:
    """Whether there are train/NORMAL and train/PNEUMONIA with this data set's file names."""
    train = _base(path) / "train"
    if not all((train / label).is_dir() for label in LABELS):
        return False
    with os.scandir(train / "PNEUMONIA") as entries:
        names = [entry.name for entry in islice(entries, 50)]
    return sum(bool(_PNEUMONIA.match(name)) for name in names) > len(names) / 2


def read(path: Path) -> Listing:
    """List the data set.

    Args:
        path: Folder with train, test and perhaps val, or the one above it.

    Returns:
        Two classes, the official split, patients by bare number, and a ``subtype`` column ("normal",
        "bacteria", "virus"). The table offers the classes BACTERIAL and VIRAL besides.

    Raises:
        BadInput: No train folder with the two classes, or a class folder without images.
    """
    base = _base(path)
    for label in LABELS:
        existing_folder(base / "train" / label)
    rows = []
    prefix = "" if base == path else base.name + "/"
    for split in ("train", "val", "test"):
        for label in LABELS:
            if not (base / split / label).is_dir():
                continue
            for name in image_files(base / split / label):
                patient, subtype = _from_name(name, label)
                rows.append((f"{prefix}{split}/{label}/{name}", patient, split, label, subtype))
    table = pl.DataFrame(
        rows, dict.fromkeys(("path", "patient", "split", "class", "subtype"), pl.String), orient="row"
    ).sort("path")
    unnamed = table["patient"].str.contains("/").sum()
    notes = [f"{unnamed} file names do not say the patient: each counts as one of its own"] if unnamed else []
    return Listing(
        name="kermany",
        table=table.with_columns(
            *one_hot(table["class"].to_list(), LABELS),
            *((pl.col("subtype") == word).cast(pl.Float32).alias(f"label:{name}") for name, word in SUBTYPES.items()),
        ).drop("class"),
        labels=LABELS,
        task="multiclass",
        notes=tuple(notes),
    )


def _base(path: Path) -> Path:
    """The folder that holds train: the archive unpacks to ``chest_xray``."""
    inner = path / "chest_xray"
    return inner if not (path / "train").is_dir() and (inner / "train").is_dir() else path


def _from_name(name: str, label: str) -> tuple[str, str]:
    """(patient, subtype) from a file name; an unknown name is its own patient and of unknown subtype."""
    pneumonia, normal = _PNEUMONIA.match(name), _NORMAL.match(name)
    if label == "PNEUMONIA" and pneumonia:
        number = pneumonia[1] or pneumonia[4]
        return f"person{number}", (pneumonia[2] or pneumonia[3]).lower()
    if label == "NORMAL" and normal:
        return normal[1], "normal"
    return f"{label}/{name}", "normal" if label == "NORMAL" else "unknown"
