"""``cxr runs``: list the trainings below a folder and compare them."""

import fnmatch
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_data.command_line.command import run_command
from cxr_data.command_line.terminal import wide_console
from cxr_data.errors import BadInput
from cxr_data.files import read_json

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class RunsConfig:
    """List trainings: what of, how far they are, their validation AUROC, and the disk space they take.

    Attributes:
        names: Runs, as listed or with * and ?; none means all.
        runs_dir: Folder of all runs.
        sort: "name", or "auroc" for the best validation AUROC first.
    """

    names: list[str] = field(default_factory=list)
    runs_dir: str = "runs"
    sort: str = "name"

    def __post_init__(self) -> None:
        if self.sort not in ("name", "auroc"):
            raise BadInput("name or auroc", repr(self.sort), where="--sort")


@dataclass(frozen=True)
class Stage:
    """A training of a run.

    Attributes:
        run: Name of the run.
        name: Its folder within the run.
        command: "ssl-pretrain", "finetune" or "distill".
        network: Architecture.
        size: Edge of the network input, pixels.
        epochs: Epochs logged, and of the whole training; None for an unknown one.
        state: "finished", "unfinished", or "set aside" by ``--restart``.
        auroc: Best validation AUROC; of a pretraining that of its linear probe; None where undefined.
        bytes: Size of its files.
    """

    run: str
    name: str
    command: str
    network: str
    size: int | None
    epochs: tuple[int, int | None]
    state: str
    auroc: float | None
    bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cxr runs``; returns the exit code."""
    return run_command(_list, RunsConfig, prog="cxr runs", argv=argv, positional="names")


def stages(runs_dir: str | Path, names: Sequence[str] = ()) -> list[Stage]:
    """The trainings below a folder of runs, by run and name.

    Args:
        runs_dir: Folder of all runs.
        names: Runs to take, * and ? allowed; none means all.

    Raises:
        BadInput: No such folder, no training in it, or no run of these names.
    """
    folder = Path(runs_dir)
    if not folder.is_dir():
        raise BadInput(
            "a folder of runs", "nothing there", where=folder, do="train something first, or give --runs_dir"
        )
    known = [_stage(file.parent, folder) for file in sorted(folder.glob("*/**/run.json"))]
    if not known:
        raise BadInput("trainings", "none", where=folder, do="give --runs_dir")
    wanted = [stage for stage in known if not names or any(fnmatch.fnmatchcase(stage.run, name) for name in names)]
    if not wanted:
        there = ", ".join(dict.fromkeys(stage.run for stage in known))
        raise BadInput(f"one of these runs: {there}", " ".join(names), where=folder)
    return wanted


def _stage(folder: Path, runs_dir: Path) -> Stage:
    run, *below = folder.relative_to(runs_dir).parts
    identity, done = read_json(folder / "run.json"), read_json(folder / "done.json")
    config = identity.get("config") or {}
    log = _log(folder / "metrics.jsonl")
    curve = [line.get("val_auroc", line.get("probe_auroc")) for line in log]
    best = done.get("val_auroc", done.get("probe_auroc"))
    if not done:
        best = max((value for value in curve if value is not None), default=None)
    aside = any(".aside-" in part for part in folder.parts)
    return Stage(
        run=run,
        name="/".join(below),
        command=str(identity.get("stage", "?")),
        network=str(identity.get("architecture") or config.get("architecture") or "?"),
        size=config.get("size"),
        epochs=(max((int(line.get("epoch") or 0) for line in log), default=0), identity.get("epochs")),
        state="set aside" if aside else "finished" if done else "unfinished",
        auroc=best,
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    )


def _log(file: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        return []
    return [line for line in lines if isinstance(line, dict)]


def table(listed: Sequence[Stage]) -> "Table":
    """The trainings as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    shown = Table()
    for heading in ("run", "stage", "command", "network"):
        shown.add_column(heading)
    for heading in ("px", "epochs", "validation AUROC"):
        shown.add_column(heading, justify="right")
    shown.add_column("state")
    shown.add_column("MB", justify="right")
    for stage in listed:
        epochs = f"{stage.epochs[0]}/{stage.epochs[1]}" if stage.epochs[1] else str(stage.epochs[0])
        auroc = "-" if stage.auroc is None else f"{stage.auroc:.4f}" + (" (probe)" if "ssl" in stage.command else "")
        cells = (
            stage.run,
            stage.name,
            stage.command,
            stage.network,
            str(stage.size or "-"),
            epochs,
            auroc,
            stage.state,
        )
        shown.add_row(*map(Text, cells), f"{stage.bytes / 1e6:,.1f}")
    return shown


def _list(config: RunsConfig) -> None:
    listed = stages(config.runs_dir, config.names)
    if config.sort == "auroc":
        listed.sort(key=lambda stage: -1.0 if stage.auroc is None else stage.auroc, reverse=True)
    wide_console().print(table(listed))
    print("validation AUROC chose the epoch: `evaluate` compares models on test images, with intervals")


if __name__ == "__main__":
    sys.exit(main())
