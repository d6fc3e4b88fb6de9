"""PadChest of the Hospital San Juan, Alicante (Bustos et al., Medical Image Analysis 2020): 174 findings.

``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`` (or .gz), whose Labels column holds a list as Python
writes it; 16-bit PNG images in numbered folders or flat. There is no official split.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from cxr_data.errors import BadInput
from cxr_data.readers.listing import Listing
from cxr_data.readers.tables import find_table, find_tables, match_images, read_columns

LABELS = (
    "pneumonia",
    "atypical pneumonia",
    "tuberculosis",
    "tuberculosis sequelae",
    "lung metastasis",
    "lymphangitis carcinomatosa",
    "lepidic adenocarcinoma",
    "pulmonary fibrosis",
    "post radiotherapy changes",
    "asbestosis signs",
    "emphysema",
    "COPD signs",
    "heart insufficiency",
    "respiratory distress",
    "pulmonary hypertension",
    "pulmonary artery hypertension",
    "pulmonary venous hypertension",
    "pulmonary edema",
    "bone metastasis",
)
"""The 19 differential diagnoses: the tree of that name in ``manual_review/trees_code.txt`` of the authors' repository
(auriml/Rx-thorax-automatic-captioning), without what its later edition adds (viral pneumonia, COVID 19)."""
LEAST = 50
"""Images a finding must be on to be offered beside the diagnoses."""
_COLUMNS = ("ImageID", "PatientID", "Projection", "Labels")
_WORN = ("PatientSex_DICOM", "PatientBirth", "StudyDate_DICOM", "MethodLabel")
_ITEM = r"(?:'([^']*)'|\"([^\"]*)\")"
_LIST = re.compile(rf"\[\s*(?:{_ITEM}\s*(?:,\s*{_ITEM}\s*)*)?\]")
_ITEMS = re.compile(_ITEM)
_SILENT = {"", "unchanged", "suboptimal study"}
"""Entries that say nothing of what is on the image; "unchanged" refers to a study before."""


def looks_like(path: Path) -> bool:
    """Whether a table with the official columns lies in the folder."""
    return bool(find_tables(path, _COLUMNS))


def read(path: Path) -> Listing:
    """List the data set.

    Args:
        path: Folder with the table; the images may lie anywhere below.

    Returns:
        The 19 differential diagnoses; every finding on at least LEAST images is offered too. An image is labelled
        with what its report names (a pneumonia called atypical is not also listed as pneumonia); reports
        without a finding or "normal" leave all labels unknown. Patients by PatientID, no split, ``projection``
        (Projection), ``sex``, ``age``, and ``labelled_by`` (Physician or RNN_model). Images marked "exclude" are left
        out; frontal ones unless the user chooses.

    Raises:
        BadInput: No table, a Labels entry that is no list, or a table that matches no image.
    """
    table_path = find_table(path, _COLUMNS, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv")
    entries = read_columns(table_path, [*_COLUMNS, *_WORN])
    entries = entries.with_columns(pl.col("ImageID").alias("key"))
    matched, notes = match_images(path, entries, table_path)
    findings = [_findings(text, table_path) for text in matched["Labels"]]
    excluded = np.array(["exclude" in names for names in findings])
    if excluded.any():
        notes.append(f"{excluded.sum()} images are marked exclude and were left out")
        matched = matched.filter(pl.Series(~excluded))
        findings = [names for names, out in zip(findings, excluded, strict=True) if not out]
    labels, values = _matrix(findings)
    if unread := int(np.isnan(values[:, 0]).sum()):
        notes.append(f"{unread} reports name neither a finding nor normal: their labels are unknown")
    table = matched.select(
        "path",
        pl.col("PatientID").alias("patient"),
        pl.lit(None, pl.String).alias("split"),
        *(pl.Series(f"label:{label}", values[:, i]) for i, label in enumerate(labels)),
        pl.col("Projection").alias("projection"),
        *_extras(matched),
    )
    return Listing("padchest", table, LABELS, "multilabel", tuple(notes), projection="frontal")


def parse_list(text: str) -> list[str] | None:
    """Read a list of quoted words, and nothing else, as Python writes it.

    Args:
        text: As in ``['cardiomegaly', 'aortic elongation']``.

    Returns:
        The words, stripped; None when the text is anything else.
    """
    if not _LIST.fullmatch(text):
        return None
    return [(single or double).strip() for single, double in _ITEMS.findall(text)]


def _findings(text: str | None, table_path: Path) -> set[str]:
    if text is None or text == "nan":
        return set()
    names = parse_list(text)
    if names is None:
        raise BadInput("a list such as ['cardiomegaly', 'nodule'] in Labels", repr(text[:80]), where=table_path)
    return set(names)


def _matrix(findings: list[set[str]]) -> tuple[list[str], np.ndarray]:
    """Labels offered, the diagnoses first, and (N, L) float32 of 0 and 1, rows of NaN where nothing is said."""
    counts = Counter(name for names in findings for name in names - _SILENT - {"normal", "exclude"})
    others = sorted(name for name, count in counts.items() if count >= LEAST and name not in LABELS)
    labels = [*LABELS, *others]
    column = {label: i for i, label in enumerate(labels)}
    values = np.zeros((len(findings), len(labels)), np.float32)
    for row, names in enumerate(findings):
        if not names - _SILENT:
            values[row] = np.nan
        for name in names & column.keys():
            values[row, column[name]] = 1
    return labels, values


def _extras(matched: pl.DataFrame) -> list[pl.Expr]:
    """``sex``, ``age`` in whole years and ``labelled_by``, as far as the table says them."""
    columns = []
    if "PatientSex_DICOM" in matched.columns:
        sex = pl.col("PatientSex_DICOM")
        columns.append(pl.when(sex.is_in(["F", "M"])).then(sex).alias("sex"))
    if {"PatientBirth", "StudyDate_DICOM"} <= set(matched.columns):
        born = pl.col("PatientBirth").cast(pl.Float32, strict=False)
        seen = pl.col("StudyDate_DICOM").str.slice(0, 4).cast(pl.Float32, strict=False)
        age = seen - born
        columns.append(pl.when(age.is_between(0, 120)).then(age).alias("age"))
    if "MethodLabel" in matched.columns:
        columns.append(pl.col("MethodLabel").alias("labelled_by"))
    return columns
