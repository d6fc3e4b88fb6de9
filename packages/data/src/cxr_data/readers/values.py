"""Tables as people write them: separators, encodings, blank rows, null words, yes and no, spellings of one class."""

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from cxr_data.errors import BadInput
from cxr_data.images.dicom import age_in_years
from cxr_data.readers.listing import SPLIT_FOLDERS
from cxr_data.spelling import POWER_OF_TEN, patient_key, spelling_key

SEPARATORS = (",", ";", "\t", "|")
NULL_WORDS = ("", "nan", "na", "n/a", "#n/a", "null", "-", "--", "—", "?", ".")
"""Cells, in any case, that mean that nothing is known."""
_BINARY = {
    **dict.fromkeys(("true", "t", "yes", "y", "positive", "pos", "present"), "1"),
    **dict.fromkeys(("false", "f", "no", "n", "negative", "neg", "absent"), "0"),
    **dict.fromkeys(("uncertain", "unsure", "equivocal"), "-1"),
    "none": None,
}
COLUMNS = {
    "patient": (
        *("patient", "patientid", "patientno", "patientnumber", "patientkey", "patienthash", "subject", "subjectid"),
        *("participant", "participantid", "personid", "pid", "mrn", "case", "caseid"),
    ),
    "split": ("split", "subset", "partition"),
    "projection": ("view", "viewposition", "projection"),
    "sex": ("sex", "gender", "patientsex", "patientgender"),
    "age": ("age", "patientage"),
}
"""Our name of a column -> its usual spellings, without case, spaces and punctuation; the first one found is taken."""
FILE_COLUMNS = ("file", "path", "image", "filename", "filepath", "imagepath", "imagename", "imagefile", "img")
"""Names of the column of files, spelt likewise; the first of them that is there."""
STUDY_COLUMNS = (
    *("study", "studyid", "studyuid", "studyinstanceuid", "exam", "examid", "examination", "examinationid"),
    *("accession", "accessionid", "accessionnumber"),
)
"""Columns, spelt likewise, of what is at least of one patient."""
CLASS_COLUMNS = (
    *("class", "classes", "classname", "category", "diagnosis", "finding", "findings", "findinglabels"),
    *("label", "labels"),
)
_BOOKKEEPING = ("fold", "folds", "istest", "istrain", "istraining", "isval", "isvalid", "train", "test", "val", "index")
"""Columns, spelt likewise, of zeros and ones that say what an image is used for."""
_DESCRIPTION = (
    *("male", "ismale", "female", "isfemale", "frontal", "isfrontal", "lateral", "islateral", "ap", "isap", "pa"),
    *("ispa", "portable", "isportable", "bedside", "supine", "erect", "month", "year", "day"),
)
"""Likewise, that say how and of whom an image is."""
MAX_COLUMNS = 2_000
_THOUSANDS = re.compile(r"[1-9]\d{0,2}([,.'\u2019 \u00a0\u202f])\d{3}(\1\d{3})*")
"""Whole numbers with separators of thousands."""
_LOOKS_LIKE_PATIENT = re.compile(r"patient|subject|participant|person|mrn|^(pat|fall)[-_. ]?(id|nr|no|num|nummer)$")
_NOT_A_PATIENT = re.compile(r"age|sex|gender|weight|height|size|position|orientation|birth|race|ethnic|count|comment")


def header(path: Path, separators: Sequence[str] = SEPARATORS) -> list[str]:
    """Column names of a CSV file, plain or gzipped; empty when it cannot be read as text."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(2**16)
    except (OSError, EOFError, zlib.error):
        return []
    text = decoded(start)
    if not text:
        return []
    line = _without_preamble(text).split("\n", 1)[0]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=_separator(line, separators)), [])]


def read_csv(path: Path) -> pl.DataFrame:
    """A CSV table as text: any of SEPARATORS, UTF-8, UTF-16 or Windows-1252, rows without any content left out.

    Raises:
        BadInput: Bytes that are no text, too many columns, or rows of differing length.
    """
    try:
        data = path.read_bytes()
        text = decoded(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput("a readable table", str(error), where=path) from error
    if text is None:
        raise BadInput("a table of text", "bytes that are no text", where=path, do="save it as CSV, UTF-8")
    text = _without_preamble(text)
    head = text.split("\n", 1)[0]
    separator = _separator(head)
    if (columns := _unquoted(head).count(separator) + 1) > MAX_COLUMNS:
        found, do = f"{columns:,}", "keep those of files, patients and labels; one row per image"
        raise BadInput(f"up to {MAX_COLUMNS:,} columns", found, where=path, do=do)
    try:
        return pl.read_csv(io.BytesIO(text.encode()), infer_schema=False, separator=separator)
    except pl.exceptions.PolarsError:
        return _by_rows(text, separator, path)


def _by_rows(text: str, separator: str, path: Path) -> pl.DataFrame:
    """A table that polars does not read, such as one with quotes within cells that are not quoted themselves.

    Raises:
        BadInput: A row of more cells than the header, or quotes without end.
    """
    try:
        head, *rows = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    except csv.Error as error:
        found = "quotes that do not end"
        raise BadInput("a readable table", found, where=path, do="double the quotes within quoted cells") from error
    for number, row in enumerate(rows, 2):
        if any(row[len(head) :]):
            found, do = f"{len(row)} in row {number}", "put quotes around cells that hold a separator"
            raise BadInput(f"{len(head)} cells in every row, as in the header", found, where=path, do=do)
    if twice := [name for name, count in Counter(head).items() if count > 1]:
        raise BadInput("each column once", f"{twice[0]} twice", where=path, do="rename or remove one of them")
    columns = zip(*(row[: len(head)] + [""] * (len(head) - len(row)) for row in rows), strict=True)
    return pl.DataFrame(list(columns) or [[] for _ in head], dict.fromkeys(head, pl.String), orient="col")


def _without_preamble(text: str) -> str:
    """A table's text without blank lines before the header and without the line ``sep=;`` that Excel writes."""
    text = text.lstrip("\r\n")
    return text.split("\n", 1)[-1].lstrip("\r\n") if text[:4].lower() == "sep=" else text


def decoded(data: bytes) -> str | None:
    """Bytes as text, lines ending in line feeds: UTF-8, marked UTF-16 or else Windows-1252; None where they are not."""
    text = _decoded(data)
    return None if text is None else text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes) -> str | None:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data[: len(data) // 2 * 2].decode("utf-16", "replace")
    if b"\0" in data:
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start >= len(data) - 4:  # a file's first part ends within a character
            return data[: error.start].decode("utf-8-sig")
        text = data.decode("cp1252", "replace")
        if "�" in text:
            return None
    control = sum(ord(character) < 32 and character not in "\t\r\n\f" for character in text[:4096])
    return None if control else text


def _unquoted(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _separator(line: str, separators: Sequence[str] = SEPARATORS) -> str:
    """The separator that a header line has most of, outside quotes; a comma where it has none."""
    return max(separators, key=_unquoted(line).count)


def cleaned(table: pl.DataFrame) -> pl.DataFrame:
    """Text cells stripped, null words as null, rows of nulls and blank columns of patients left out."""
    text = pl.all().str.strip_chars()
    table = table.select(text)
    table = table.select(pl.when(~pl.all().str.to_lowercase().is_in(NULL_WORDS)).then(pl.all()))
    blank = [c for c in table.columns if key(c) in COLUMNS["patient"] and table[c].null_count() == table.height]
    return table.drop(blank).filter(~pl.all_horizontal(pl.all().is_null()))


def binary(column: pl.Series) -> pl.Series:
    """Yes, no, true, false and decimal commas of a text column as the numbers they mean; the rest as it is."""
    values = [None if cell is None else _BINARY.get(cell.lower(), cell) for cell in column]
    values = [v.replace(",", ".") if v and re.fullmatch(r"-?\d+,\d+", v) else v for v in values]
    return pl.Series(column.name, values, pl.String)


def nearly_labels(table: pl.DataFrame) -> list[str]:
    """Notes on columns of text that would be labels but for a few cells, such as a code for unknown."""
    notes = []
    for name in table.columns:
        cells = binary(table[name]).drop_nulls()
        strange = cells.filter(~cells.cast(pl.Float32, strict=False).is_in([0.0, 1.0, -1.0]).fill_null(False))
        if len(strange) and 5 * len(strange) <= len(cells) and not is_no_finding(name) and cells.n_unique() <= 6:
            such = f"{len(strange)} of {len(cells)} cells is neither 0, 1, -1 nor blank, such as {strange[0]!r:.40}"
            notes.append(f"{name} is no label: {such}")
    return notes


def ages(column: pl.Series) -> tuple[pl.Series, list[str]]:
    """Ages in years, null where unknown, and a note on those that cannot be read."""
    years = [age_in_years(text) for text in column]
    unread = [text for text, one in zip(column, years, strict=True) if text is not None and one is None]
    note = f"ages of {len(unread)} images cannot be read, such as {unread[0]!r:.40}" if unread else ""
    return pl.Series("age", years, pl.Float32), [note] if note else []


def key(name: str) -> str:
    """A column's name without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name.lower())


def file_column(columns: Sequence[str]) -> str | None:
    """The column of files, or None."""
    names = {key(name): name for name in reversed(columns)}
    return next((names[name] for name in FILE_COLUMNS if name in names), None)


def known_columns(names: Sequence[str]) -> dict[str, str]:
    """Column of the table -> our name of it, for every name in COLUMNS that it has in some spelling."""
    renamed: dict[str, str] = {}
    for ours, spellings in COLUMNS.items():
        if ours in names:
            continue
        for spelling in spellings:
            if match := [name for name in names if key(name) == spelling and name not in renamed]:
                renamed[match[0]] = ours
                break
    return renamed


def split_column(table: pl.DataFrame) -> str | None:
    """The one column, whatever its name, whose every cell says train, val or test; None without one or with several."""

    def named(column: str) -> set[str | None]:
        return {SPLIT_FOLDERS.get((cell or "").lower()) for cell in table[column].unique()}

    columns = [name for name in table.columns if {"train"} < named(name) <= {"train", "val", "test"}]
    return columns[0] if len(columns) == 1 else None


def is_no_finding(name: str) -> bool:
    """Whether a column that may hold zeros and ones is no finding: a fold, sex or projection."""
    said = {spelling for ours, spellings in COLUMNS.items() if ours != "patient" for spelling in spellings}
    return key(name) in {*said, *_BOOKKEEPING, *_DESCRIPTION} or bool(re.fullmatch(r"(unnamed)?\d*", key(name)))


def refuse_hidden_patients(names: Iterable[str], where: Path) -> None:
    """Refuse a table without patients that has a column which may hold them: a split by image would leak.

    Raises:
        BadInput: There is such a column.
    """
    for name in names:
        lower = name.lower()
        if _LOOKS_LIKE_PATIENT.search(lower) and not _NOT_A_PATIENT.search(lower) and not lower.startswith("label:"):
            raise BadInput(
                "a column patient, so that no patient is in two splits",
                f"the column {name}, which may be one",
                where=where,
                do="rename it to patient, or remove it if it is something else",
            )


def merged_patients(column: pl.Series) -> tuple[pl.Series, list[str]]:
    """Patients that programs spell in several ways (7, 7.0, 0007; p7, P7) as one, so that none is in two splits.

    Args:
        column: Text; null where unknown.

    Returns:
        The column, and notes: where patients were merged, and where a spreadsheet has cut their numbers.
    """
    alike: dict[str, list[str]] = {}
    names: list[str] = column.drop_nulls().unique(maintain_order=True).to_list()
    plain = _without_thousands(names)
    for name in names:
        alike.setdefault(patient_key(plain.get(name, name)), []).append(name)
    first: dict[str, str | None] = dict.fromkeys(alike.pop("", ()))  # nothing that can be seen
    several = [names for names in alike.values() if len(names) > 1]
    first |= {name: names[0] for names in several for name in names}
    notes = []
    if several:
        such = " and ".join(several[0])
        notes.append(f"{len(several)} patients are spelled in several ways, such as {such}: each counts as one")
    if cut := [name for names in alike.values() for name in names if POWER_OF_TEN.fullmatch(name)]:
        notes.append(
            f"{len(cut)} patients have numbers such as {cut[0]}, as a spreadsheet shortens them: different patients "
            "may have become one"
        )
    return column.replace(first) if first else column, notes


def _without_thousands(names: Sequence[str]) -> dict[str, str]:
    """Numbers with separators of thousands (1,100) -> without, where a column holds these and whole numbers alone.

    Where every separator is followed by zeros, they may be decimals.
    """
    grouped = {name: re.sub(r"\D", "", name) for name in names if _THOUSANDS.fullmatch(name)}
    if all(name in grouped or patient_key(name).isdecimal() for name in names) and any(
        re.search(r"\D(?!000)", name) for name in grouped
    ):
        return grouped
    return {}


def merged_spellings(names: Iterable[str | None]) -> tuple[dict[str, str], list[str]]:
    """Spellings of one class that differ in case and spaces only, as the commonest of them.

    Args:
        names: The class of every image, None where unknown.

    Returns:
        Every spelling -> the one taken; and a note for each class that had several.
    """
    counts = Counter(name for name in names if name is not None)
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(spelling_key(name), []).append(name)
    taken, notes = {}, []
    for spellings in alike.values():
        best = min(spellings, key=lambda name: (-counts[name], name))
        taken |= dict.fromkeys(spellings, best)
        if len(spellings) > 1:
            notes.append(f"classes that differ only in spelling were merged: {', '.join(sorted(spellings))}")
    return taken, notes


_LISTED = re.compile(r"[\[({](.*)[\])}]", re.DOTALL)


def without_brackets(column: pl.Series) -> pl.Series | None:
    """Cells that all are lists ("['Effusion', 'Mass']") as findings with bars between; None where they are not."""
    if column.null_count() == len(column) or not all(_LISTED.fullmatch(cell) for cell in column.drop_nulls()):
        return None
    parts = [None if cell is None else re.split("[,;]", cell[1:-1]) for cell in column]
    cells = [None if cell is None else "|".join(part.strip(" '\"") for part in cell) for cell in parts]
    return pl.Series(column.name, cells, pl.String)


def several_findings(values: Iterable[str | None]) -> str | None:
    """The separator of a class column that names several findings of one image ("Effusion|Mass"), or None.

    A bar, a semicolon or a line break always separates; a comma, slash, plus, ampersand or "and" only where every part
    also stands alone somewhere.
    """
    known = {value for value in values if value is not None}
    for separator in ("|", ";", "\n"):
        if any(separator in value for value in known):
            return separator
    for separator in (",", "/", "+", "&", " and "):
        listed = [value for value in known if separator in value]
        alone = {spelling_key(value) for value in known if separator not in value}
        if listed and all(spelling_key(part) in alone for value in listed for part in value.split(separator)):
            return separator
    return None
