"""The patient of each image, for data sets that do not have a reader of their own."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from cxr_data.cohorts.cache import cache_folder
from cxr_data.folders import inside, refuse_outside
from cxr_data.images.dicom import age_in_years, dicom_facts, patient_salt
from cxr_data.images.elements import SNIFFED, is_dicom
from cxr_data.images.header import BrokenImage, first_bytes
from cxr_data.readers import values

MANIFESTS = ("manifest.csv", "metadata.csv")
_EXTRAS = ("projection", "sex", "age")
_IN_NAMES = {
    "patient123, person_12, subject-3": re.compile(
        r"(?:^|[/_-])((?:patient|person|subject|sub|pat)[-_ ]?\d+)", re.IGNORECASE
    ),
    "00000231_013 (patient, image)": re.compile(r"(?:^|/)(\d{4,})[_-]\d+[^/]*$"),
}


def facts(root: Path, paths: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """Patient, projection, sex and age of each image.

    Patients come from a manifest.csv or metadata.csv with the columns ``file`` and ``patient``, else from
    DICOM headers (as salted hashes), else from a pattern that nearly all file names follow, else the study of a
    header stands for its patient; what is left counts as one patient per image.

    Args:
        root: Resolved folder.
        paths: Images below it.

    Returns:
        Table with ``patient`` and those of ``projection``, ``sex``, ``age`` that are known of any image, and notes.

    Raises:
        BadInput: A manifest that names a file outside the folder, or cannot be read.
    """
    notes: list[str] = []
    known: list[dict[str, Any]] = [{"patient": None} for _ in paths]
    _from_dicom(root, paths, known)
    _from_manifest(root, paths, known, notes)
    _from_names(paths, known, notes)
    _from_studies(known, notes)
    alone = [i for i, fact in enumerate(known) if not fact["patient"]]
    for i in alone:
        known[i]["patient"] = paths[i]
    if alone:
        who = "nothing says" if len(alone) == len(paths) else f"for {len(alone)} images nothing says"
        notes.append(
            f"{who} which images are of one patient: each counts as one of its own; if patients have several "
            "images, list them in manifest.csv (columns file, patient)"
        )
    columns = {"patient": pl.String, "projection": pl.String, "sex": pl.String, "age": pl.Float32}
    used = {
        name: kind
        for name, kind in columns.items()
        if name == "patient" or any(fact.get(name) is not None for fact in known)
    }
    return pl.DataFrame({n: pl.Series([f.get(n) for f in known], dtype=k) for n, k in used.items()}), notes


def of_table(root: Path, table: pl.DataFrame, name: str) -> tuple[pl.DataFrame, list[str]]:
    """Patients that a table of images names, and where it names none those of DICOM headers.

    Args:
        root: Resolved folder.
        table: With text columns ``path``, below the folder, and where it has them ``patient`` and ``study``, null where
            unknown.
        name: What the table is called.

    Returns:
        The table, ``patient`` without nulls: whom the table names for one image has that name on all, and where nothing
        says each image is of its own; and notes.
    """
    blank = pl.Series("patient", [None] * table.height, pl.String)
    column, notes = values.merged_patients(table["patient"] if "patient" in table.columns else blank)
    studies = values.merged_patients(table["study"] if "study" in table.columns else blank)[0].to_list()
    paths, named = table["path"].to_list(), column.to_list()
    known: list[dict[str, Any]] = [{"patient": None} for _ in paths]
    if None in named:
        _from_dicom(root, paths, known)
    called, seen = (
        {fact.get(key): who for fact, who in zip(known, named, strict=True) if who} for key in ("patient", "study")
    )
    headers = 0
    for fact, who in zip(known, named, strict=True):
        by_header = fact["patient"] and called.get(fact["patient"], fact["patient"])
        fact["patient"] = who or by_header or (fact.get("study") and seen.get(fact["study"]))
        headers += not who and fact["patient"] is not None
    if headers:
        notes.append(f"patients of {headers} images that {name} does not name are those of DICOM headers")
    for fact, study in zip(known, studies, strict=True):
        fact["study"] = study or fact.get("study")
    _from_studies(known, notes)
    if alone := [i for i, fact in enumerate(known) if not fact["patient"]]:
        for i in alone:
            known[i]["patient"] = paths[i]
        lacks = "patient" not in table.columns and len(alone) == len(paths)
        said = f"{name} has no column patient" if lacks else f"{len(alone)} images have no patient in {name}"
        notes.append(f"{said}: each {'image ' if lacks else ''}counts as one patient of its own")
    return table.with_columns(pl.Series("patient", [fact["patient"] for fact in known], pl.String)), notes


def _from_dicom(root: Path, paths: Sequence[str], known: list[dict[str, Any]]) -> None:
    dicom = [i for i, path in enumerate(paths) if _is_dicom(root, path)]
    if not dicom:
        return
    salt = patient_salt(cache_folder())
    for i in dicom:
        known[i] = dicom_facts(root / paths[i], salt)
    # Where some files of a number do not say who gave it, it is one patient throughout.
    alone = {known[i]["number"] for i in dicom if known[i]["patient"] == known[i]["number"]}
    for i in dicom:
        if known[i]["number"] in alone:
            known[i]["patient"] = known[i]["number"]


def _is_dicom(root: Path, path: str) -> bool:
    try:
        refuse_outside(root, path)
        return is_dicom(first_bytes(root / path)[:SNIFFED])
    except BrokenImage:
        return False  # decoding will say so


def _from_manifest(root: Path, paths: Sequence[str], known: list[dict[str, Any]], notes: list[str]) -> None:
    rows = {path: i for i, path in enumerate(paths)}
    by_name: dict[str, list[int]] = {}
    for i, path in enumerate(paths):
        by_name.setdefault(path.rsplit("/", 1)[-1], []).append(i)
    for name in MANIFESTS:
        file = root / name
        if not file.is_file():
            continue
        table = values.cleaned(values.read_csv(file))
        table = table.rename(values.known_columns(table.columns))
        if files := values.file_column(table.columns):
            table = table.rename({files: "file"})
        if not {"file", "patient"} <= set(table.columns):
            notes.append(f"{name} has no columns file and patient and was not used")
            continue
        column, said = values.merged_patients(table["patient"])
        table = table.with_columns(column)
        notes += said
        absent, seen = 0, set()
        called: dict[str, str] = {}
        for row in table.iter_rows(named=True):
            path = inside(root, row["file"] or "", file)
            position = rows.get(path)
            if position is None and "/" not in path and len(by_name.get(path, ())) == 1:
                position = by_name[path][0]
            if position is None:
                absent += 1
                continue
            seen.add(position)
            of_header, named = known[position]["patient"], (row["patient"] or "").strip()
            known[position] = {"patient": named or of_header, **_extras(row)}
            if of_header and named:
                called[of_header] = named
        for fact in known:  # images of the same patients whose rows are blank or missing
            fact["patient"] = called.get(fact["patient"], fact["patient"])
        if absent:
            notes.append(f"{absent} files of {name} are not among the images")
        if len(seen) < len(paths):
            notes.append(f"{len(paths) - len(seen)} images are not in {name}")
        return


def _extras(row: dict[str, str | None]) -> dict[str, Any]:
    extras: dict[str, Any] = {name: (row.get(name) or "").strip() or None for name in _EXTRAS}
    return {**extras, "age": age_in_years(extras["age"])}


def _from_names(paths: Sequence[str], known: list[dict[str, Any]], notes: list[str]) -> None:
    open_rows = [i for i, fact in enumerate(known) if not fact["patient"]]
    if len(open_rows) < len(paths):
        return  # a manifest or headers know best; names would mix two ways of naming patients
    for example, pattern in _IN_NAMES.items():
        by_name = {i: match[1] for i in open_rows if (match := pattern.search(paths[i]))}
        # A pattern that puts (nearly) all images with one patient has caught a prefix, not a patient.
        if len(by_name) >= 0.9 * len(paths) and len(set(by_name.values())) >= max(2, len(paths) // 100):
            for i, patient in by_name.items():
                known[i]["patient"] = patient.lower()
            notes.append(f"patients were read from the file names, which look like {example}")
            return


def _from_studies(known: list[dict[str, Any]], notes: list[str]) -> None:
    """The study for the patient, where a header names no other."""
    open_rows = [fact for fact in known if not fact["patient"] and fact.get("study")]
    if len({fact["study"] for fact in open_rows}) >= max(2, len(open_rows) // 100):  # else a placeholder
        for fact in open_rows:
            fact["patient"] = fact["study"]
        notes.append(
            f"for {len(open_rows)} images only the study is known: images of a study stay together, those of a "
            "patient may not"
        )
