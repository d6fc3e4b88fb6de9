"""Tables and plain text in Markdown."""

import re
from collections.abc import Iterable, Sequence


def table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table, line by line.

    >>> table(["model", "AUROC"], [["teacher", 0.9]])
    ['| model | AUROC |', '|---|---|', '| teacher | 0.9 |']
    """
    return [row(heads), "|---" * len(heads) + "|", *map(row, rows)]


def row(cells: Iterable[object]) -> str:
    """A line of a table."""
    return "|" + "|".join(f" {cell} " if str(cell) else " " for cell in cells) + "|"


def plain(value: object) -> str:
    """Text from files on one line, so that it is neither Markdown nor HTML.

    >>> plain("<i> left")
    '&lt;i&gt; left'
    """
    escaped = re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(str(value).split()))
    return escaped.replace("\\<", "&lt;").replace("\\>", "&gt;")
