"""Model files of a run: where they are, how they are named, and their headers."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxr_data.errors import BadInput
from cxr_data.files import read_yaml
from cxr_data.models import hub
from cxr_data.models.header import Header, describe
from cxr_data.models.hub import hub_source

FILE = "model.safetensors"


def find(paths: Sequence[str], runs_dir: str | Path, run: str) -> list[Path]:
    """The weight files to compare, the reference first.

    Args:
        paths: Files, folders with a model.safetensors, Hub repositories ("hf:OWNER/NAME"), or folders of such folders;
            empty for the run's folder. Of a folder of models every one is taken, the teacher first.
        runs_dir: Folder of all runs.
        run: Name of the run.

    Returns:
        Existing files, each once.

    Raises:
        BadInput: A path is not there, or has no model.
    """
    if not paths:
        folder = Path(runs_dir) / run
        if not (files := _within(folder)):
            raise BadInput(
                "a run with trained models",
                f"no */{FILE} in it" if folder.is_dir() else "no such folder",
                where=folder,
                do="run finetune or distill first, or name the files",
            )
        return files
    files = []
    for path in map(hub.local, paths):
        here = [path / FILE if path.is_dir() else path]
        if not here[0].is_file() and not (here := _within(path)):
            raise BadInput(f"a {FILE}, its folder, or a folder of such folders", "nothing there", where=path)
        files += here
    return list(dict.fromkeys(files))


def _within(folder: Path) -> list[Path]:
    """Every model in a folder of models, the teacher first."""
    files = [file for file in folder.glob(f"*/{FILE}") if not set_aside(file.parent)]
    return sorted(files, key=lambda file: (file.parent.name != "teacher", file.parent.name))


def names(files: Sequence[Path]) -> list[str]:
    """A short name for each file: its folder; with the run's name before it where two folders agree."""
    short = [_hub_name(file) or file.resolve().parent.name for file in files]
    twice = {name for name, count in Counter(short).items() if count > 1}
    longer = [
        f"{file.resolve().parent.parent.name}/{name}" if name in twice else name
        for file, name in zip(files, short, strict=True)
    ]
    if len(set(longer)) == len(longer):
        return longer
    return [str(file) for file in files]


def _hub_name(file: Path) -> str:
    """Name of the Hub repository whose cached file this is; "" of any other."""
    return hub_source(file).partition("@")[0].rpartition("/")[2]


def read_headers(files: Mapping[str, Path]) -> dict[str, Header]:
    """Headers of the files by model name.

    Raises:
        BadInput: A file is not ours, damaged, or a backbone.
    """
    headers = {name: describe(path) for name, path in files.items()}
    for name, header in headers.items():
        if header.kind != "model" or header.task is None:
            raise BadInput(
                "a classifier (kind model)",
                f"kind {header.kind} ({header.architecture}), which has no labels to evaluate",
                where=files[name],
                do="fit a classifier on it first: finetune --start FILE, or distill",
            )
    return headers


def cohort_of(header: Header, data: str | Sequence[str], where: Path, *, wanted: str) -> str | Sequence[str]:
    """What to open for a model: the cohort the user names, else the one in the model's file.

    Args:
        header: The model's header.
        data: What the user named; empty for nothing.
        where: The model's file, for the message.
        wanted: What the cohort is for, for the message.

    Raises:
        BadInput: Neither names one.
    """
    # In a run its folder says it: the file itself does not carry paths of the machine.
    named = (
        data
        or read_yaml(where.with_name("config.yaml")).get("data")
        or header.config.get("data")
        or (header.cohort or {}).get("source")
    )
    if not named:
        raise BadInput(wanted, "none named in the model's file", where=where, do="give --data")
    return named


def set_aside(folder: Path) -> bool:
    """Whether ``--restart`` has put this folder out of the way; it is no part of its run any more."""
    return re.search(r"\.aside-\d+$", folder.name) is not None
