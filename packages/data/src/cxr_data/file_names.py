"""Turn names of models, labels, columns and images into safe parts of file names."""

import re
from collections.abc import Iterable


def file_names(names: Iterable[str], longest: int = 50) -> dict[str, str]:
    """A file name for each name, no two alike (not even on file systems that ignore case).

    Args:
        names: Any names, each once.
        longest: Characters kept of a name, the last ones.

    Returns:
        Name -> letters, digits, dash, dot and underscore.
    """
    unique_names: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        short = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[-longest:].strip("._") or "unnamed"
        number, unique = 1, short
        while unique.lower() in taken:
            number += 1
            unique = f"{short}-{number}"
        taken.add(unique.lower())
        unique_names[name] = unique
    return unique_names
