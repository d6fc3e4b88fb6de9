"""The ``next:`` line at the end of a command: the next command to run; and others as they are typed."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_data.sources import default_size

_DEFAULTS = {"runs_dir": "runs", "data": "phantom"}


def suggest(command: str, *words: str | Path, **options: Any) -> str:
    """``next:  uv run COMMAND WORDS --option value``, which can be pasted as it is.

    Args:
        command: Name of the command.
        *words: Its positional arguments.
        **options: Values by option, True for a switch. None, and what the next command would take by itself, is left
            out: "runs", the phantom, and the size that follows from ``data``.

    >>> suggest("distill", run="mine", runs_dir="runs", data="phantom:60", size=32)
    'next:  uv run distill --run mine --data phantom:60 --size 32'
    """
    return f"next:  {typed(command, *words, **options)}"


def typed(command: str, *words: str | Path, **options: Any) -> str:
    """A command as it is typed, with the arguments of `suggest`: for lines that hold a word to replace, as IMAGES.

    Where this command was not started by ``uv run``, which sets UV, the line does not begin with it either.

    >>> typed("predict", "my runs/model.onnx", "IMAGES")
    "uv run predict 'my runs/model.onnx' IMAGES"
    """
    line = [command, *map(str, words)]
    for name, value in options.items():
        if value is None or value == _DEFAULTS.get(name):
            continue
        if name == "size" and "data" in options and value == default_size(options["data"]):
            continue
        if value is True:
            line.append(f"--{name}")
            continue
        several = isinstance(value, Sequence) and not isinstance(value, str)
        line += [f"--{name}", *(map(str, value) if several else [str(value)])]
    return ("uv run " if "UV" in os.environ else "") + shlex.join(line)
