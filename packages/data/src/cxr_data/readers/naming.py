"""Match the names in a table to the files on the disk where they differ; excerpts of its cells for messages."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

import polars as pl

from cxr_data.readers import values

_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
"""Of a file name; what follows the last dot of a DICOM identifier is none."""


def as_on_disk(named: Iterable[str], images: list[str]) -> dict[str, str]:
    """Where images lie that a table names otherwise: with other accents, without their folder, or without ending too.

    A name is understood only where it is that of exactly one image.

    Args:
        named: Paths as the table has them, relative to its folder.
        images: Paths of all images in the folder.

    Returns:
        Name -> path on disk of those that the table names otherwise.
    """
    there = set(images)
    lost = [name for name in dict.fromkeys(named) if name not in there]
    found: dict[str, str] = {}
    for part in (_composed, _name, _stem):
        places = defaultdict(list)
        for image in images if lost else ():
            places[part(image)].append(image)
        for name in lost:
            alone = part is _composed or "/" not in name
            if name not in found and alone and len(places.get(_composed(name), ())) == 1:
                found[name] = places[_composed(name)][0]
    return found


def _composed(path: str) -> str:
    """Accents and umlauts composed; macOS decomposes them."""
    return unicodedata.normalize("NFC", path)


def _name(path: str) -> str:
    return _composed(PurePosixPath(path).name)


def _stem(path: str) -> str:
    return _ENDING.sub("", _name(path))


def cells(table: pl.DataFrame) -> str:
    """The columns of a table that are no labels, each with its first cells: "Erguss (ja, nein)"."""
    shown = []
    for name in table.columns:
        column = values.binary(table[name]).drop_nulls()
        strange = column.filter(~column.cast(pl.Float32, strict=False).is_in([0.0, 1.0, -1.0]).fill_null(False))
        first = strange.unique(maintain_order=True).head(2).to_list()
        shown.append(f"{name} ({', '.join(f'{cell:.20}' for cell in first)})" if first else name)
    return ", ".join(shown)
