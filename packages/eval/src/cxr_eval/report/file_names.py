"""Names of models, labels and columns as parts of file names."""

import re
from collections.abc import Iterable


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A file name for each name, no two alike (not even on file systems that ignore case).

    Args:
        names: Any names, each once.

    Returns:
        Name -> letters, digits, dash, dot and underscore, 60 at most.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        short = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._")[:50] or "unnamed"
        number, unique = 1, short
        while unique.lower() in taken:
            number += 1
            unique = f"{short}-{number}"
        taken.add(unique.lower())
        found[name] = unique
    return found
