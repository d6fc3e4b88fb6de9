"""COVIDx CXR (Wang et al., Scientific Reports 2020): lists of ``patientid filename class source``.

``train*.txt``, ``test*.txt`` and, since the third edition, ``val*.txt``; images in folders of the same names.
Classes are normal, pneumonia and COVID-19, or negative and positive.
"""

from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.readers.listing import Listing, one_hot, order_classes
from cxr_data.readers.tables import match_images, official_split

_CLASSES = {"normal", "pneumonia", "covid-19", "negative", "positive"}


def looks_like(path: Path) -> bool:
    """Whether there is a train list and a test list whose lines name a class."""
    return all(any(_entry(_first_line(file)) for file in _lists(path, split)) for split in ("train", "test"))


def read(path: Path) -> Listing:
    """List the data set.

    Args:
        path: Folder with the lists; images below it, in train, val and test or all together.

    Returns:
        Exclusive classes, the healthy one first; the official split, patients by patientid, and ``origin``, the
        collection an image came from.

    Raises:
        BadInput: No list or several for one split, a line that is no entry, or lists that match no image.
    """
    rows: list[tuple[str, str, str, str, str]] = []
    lists: list[Path] = []
    for split in ("train", "val", "test"):
        of_split = [file for file in _lists(path, split) if _entry(_first_line(file))]
        if len(of_split) > 1:
            names = ", ".join(file.name for file in of_split)
            raise BadInput(f"one {split} list", names, where=path, do="move the other editions' lists away")
        lists += of_split
        for file in of_split:
            rows += _entries(file, split)
    if not rows:
        raise BadInput("lists of patientid filename class source (train.txt, test.txt)", "none", where=path)
    in_folders = (path / "train").is_dir() and (path / "test").is_dir()
    names = ("patient", "name", "class", "origin", "split")
    entries = pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row")
    key = pl.concat_str("split", "name", separator="/") if in_folders else pl.col("name")
    matched, notes = match_images(path, entries.with_columns(key.alias("key")), lists[0], parts=1 + in_folders)
    matched, more = official_split(matched, " and ".join(file.name for file in lists))
    labels = order_classes(matched["class"].unique())
    table = matched.select("path", "patient", "split", *one_hot(matched["class"].to_list(), labels), "origin")
    return Listing("covidx", table, labels, "multiclass", (*notes, *more))


def _lists(path: Path, split: str) -> list[Path]:
    return sorted(file for file in path.glob("*.txt") if file.name.lower().startswith(split) and file.is_file())


def _first_line(file: Path) -> str:
    with open(file, encoding="utf-8", errors="replace") as lines:
        return lines.readline(4096)


def _entry(line: str) -> tuple[str, str, str, str] | None:
    """(patient, file name, class, source); names may hold spaces, so the class is what is looked for."""
    tokens = line.split()
    at = next((i for i in range(len(tokens) - 1, 1, -1) if tokens[i].lower() in _CLASSES), None)
    if at is None:
        return None
    return tokens[0], " ".join(tokens[1:at]), tokens[at], " ".join(tokens[at + 1 :])


def _entries(file: Path, split: str) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        entry = _entry(line)
        if entry is None:
            raise BadInput(
                "patientid filename class source, the class one of " + ", ".join(sorted(_CLASSES)),
                repr(line[:80]),
                where=f"{file}, line {number}",
            )
        rows.append((*entry, split))
    return rows
