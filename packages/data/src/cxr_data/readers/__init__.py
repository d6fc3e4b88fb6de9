"""Readers: one file per data set. A reader has ``looks_like(path) -> bool`` and ``read(path) -> Listing``.

``READERS`` is the only list of them; :func:`recognise` asks in its order, those in ``GENERAL`` last.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import polars as pl

from cxr_data.errors import unknown_name
from cxr_data.folders import scan_with_links
from cxr_data.preparation.image_files import links_note
from cxr_data.readers import (
    chestxray14,
    chexpert,
    covid_radiography,
    covidx,
    folder,
    kermany,
    manifest,
    medmnist,
    mimic_cxr_jpg,
    padchest,
    rsna,
    unlabelled,
    vindr_cxr,
)
from cxr_data.readers.listing import Listing

__all__ = ["READERS", "Extras", "Listing", "Reader", "extras", "read", "recognise"]


class Reader(Protocol):
    """What every module in READERS offers."""

    @staticmethod
    def looks_like(path: Path) -> bool:
        """Whether the folder holds this data set; cheap, and never raises for another data set."""
        ...

    @staticmethod
    def read(path: Path) -> Listing:
        """List the images with labels, patients and official split; decodes none of them."""
        ...


class Extras(NamedTuple):
    """What a reader may declare beside ``looks_like`` and ``read``, by these names in capitals or as a function.

    Attributes:
        patient_caution: Why patients in two splits may not be what they seem (``PATIENT_CAUTION``); empty for none.
        boxes: From the release's folder to a table of boxes: image, label, x, y, width, height in pixels (``boxes``).
        box_frame: Width and height of the images the boxes are drawn on (``BOX_FRAME``); None for those of each file.
    """

    patient_caution: str
    boxes: Callable[[Path], pl.DataFrame] | None
    box_frame: tuple[int, int] | None


READERS: dict[str, Reader] = {
    "kermany": kermany,
    "chestxray14": chestxray14,
    "chexpert": chexpert,
    "padchest": padchest,
    "mimic_cxr_jpg": mimic_cxr_jpg,
    "vindr_cxr": vindr_cxr,
    "rsna": rsna,
    "covid_radiography": covid_radiography,
    "covidx": covidx,
    "medmnist": medmnist,
    "manifest": manifest,
    "unlabelled": unlabelled,
    "folder": folder,
}

GENERAL = ("manifest", "unlabelled", "folder")
"""Readers of any table or folder, which are asked after those of particular data sets."""


def extras(name: str) -> Extras:
    """What the reader of a data set declares; nothing where no reader has that name."""
    reader = READERS.get(name)
    return Extras(
        getattr(reader, "PATIENT_CAUTION", ""), getattr(reader, "boxes", None), getattr(reader, "BOX_FRAME", None)
    )


def recognise(path: Path) -> str:
    """Name of the reader for a folder; "folder" when no particular data set is recognised.

    Returns:
        A key of READERS.
    """
    particular = [name for name in READERS if name not in GENERAL]
    return next((name for name in (*particular, *GENERAL) if READERS[name].looks_like(path)), "folder")


def read(path: Path, reader: str) -> Listing:
    """List a folder with a reader by name.

    Returns:
        The images, sorted by path.

    Raises:
        BadInput: Unknown reader, or the folder is not what the reader expects.
    """
    if reader not in READERS:
        raise unknown_name("reader", reader, [*READERS, "auto"])
    listing = READERS[reader].read(path)
    if reader in ("folder", "unlabelled"):  # they have said so
        return listing
    links = scan_with_links(path)[1]
    return replace(listing, notes=(*listing.notes, links_note(links))) if links else listing
