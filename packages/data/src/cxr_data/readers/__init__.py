"""Readers: one file per data set. A reader has ``looks_like(path) -> bool`` and ``read(path) -> Listing``.

``READERS`` is the only list of them; :func:`recognise` asks in its order, the most particular first.
"""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from cxr_data.errors import unknown_name
from cxr_data.folders import scan_with_links
from cxr_data.image_files import links_note
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

__all__ = ["READERS", "Listing", "Reader", "read", "recognise"]


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


def recognise(path: Path) -> str:
    """Name of the reader for a folder; "folder" when no particular data set is recognised.

    Args:
        path: Existing folder.

    Returns:
        A key of READERS.
    """
    return next((name for name, reader in READERS.items() if reader.looks_like(path)), "folder")


def read(path: Path, reader: str) -> Listing:
    """List a folder with a reader by name.

    Args:
        path: Existing, resolved folder.
        reader: A key of READERS.

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
