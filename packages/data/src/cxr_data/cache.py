"""Where prepared cohorts are kept between runs, and by which key."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cxr_data.folders import scan

FORMAT = 3
"""Part of every key: raised when the same files would become other cohorts."""


def cache_folder() -> Path:
    """``$CXR_CACHE``, or ``~/.cache/cxr``."""
    named = os.environ.get("CXR_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "cxr"


def content_key(root: Path, options: dict[str, Any]) -> str:
    """Key of a folder's content under given options.

    Args:
        root: Resolved folder.
        options: Whatever else decides the result, as JSON types.

    Returns:
        SHA-256 (64 hexadecimal digits) over the relative paths, sizes and times of change of its files.
    """
    return _key([[*file] for file in scan(root)], options)


def option_key(options: dict[str, Any]) -> str:
    """Key of what is generated, not read: the options alone."""
    return _key([], options)


def _key(files: list[list[Any]], options: dict[str, Any]) -> str:
    total = hashlib.sha256(json.dumps([FORMAT, options], sort_keys=True).encode())
    for file in files:
        total.update(json.dumps(file).encode())
    return total.hexdigest()
