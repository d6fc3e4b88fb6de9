"""The folder of a run: its identity, its log, and whether it is finished."""

import dataclasses
import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_data.command_line.command import config_dict
from cxr_data.errors import BadInput
from cxr_data.files import not_writable, write_json, write_text

if TYPE_CHECKING:
    from cxr_common.training.tracking import Tracker

EXTENDED = "extended_after_epochs"
"""Key under which run.json and done.json list the epochs that a run had before it was extended."""


@dataclass
class RunFolder:
    """The folder of a run, held by this process until it ends.

    Attributes:
        path: The folder.
        finished: The run has ended here before.
        extended: Epochs the run was to have before it was extended, oldest first.
        main: Whether this process writes (rank 0).
        lock: Descriptor of the held lock file.
        tracker: Told what is logged; None for none.
    """

    path: Path
    finished: bool
    extended: tuple[int, ...] = ()
    main: bool = True
    lock: int | None = field(default=None, repr=False)
    tracker: "Tracker | None" = field(default=None, repr=False)

    @property
    def state(self) -> Path:
        """Where the training state is saved."""
        return self.path / "state.pt"

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl; undefined numbers must be None."""
        if self.main:
            try:
                with open(self.path / "metrics.jsonl", "a", encoding="utf-8", newline="\n") as file:
                    file.write(json.dumps(line, allow_nan=False) + "\n")
            except OSError as error:
                raise not_writable(self.path, error) from error
        if self.tracker is not None:
            self.tracker.log(line)

    def lines(self) -> list[dict[str, Any]]:
        """The lines logged so far."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    def truncate_log(self, lines: int) -> None:
        """Drop what a killed run logged after its last saved state: keep the first ``lines`` lines."""
        path = self.path / "metrics.jsonl"
        if self.main and path.exists():
            kept = path.read_text("utf-8").splitlines(keepends=True)[:lines]
            write_text(path, "".join(kept))

    def finish(self, summary: dict[str, Any], *, keep_state: bool = False) -> None:
        """Mark the run as finished.

        Args:
            summary: For ``done.json``.
            keep_state: Keep the state, so that the run can be extended; without it the state is deleted.
        """
        if self.main:
            extended = {EXTENDED: list(self.extended)} if self.extended else {}
            write_json(self.path / "done.json", {**summary, **extended})
            if not keep_state:
                self.state.unlink(missing_ok=True)
        if self.tracker is not None:
            self.tracker.finish(summary)
        self.close()

    def close(self) -> None:
        """Release the lock on the folder; the end of the process does so too."""
        if self.tracker is not None:
            self.tracker.close()
            self.tracker = None
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def open_run(
    folder: str | Path,
    identity: dict[str, Any],
    config: dict[str, Any],
    *,
    restart: bool = False,
    extend: bool = False,
    main: bool = True,
) -> RunFolder:
    """Open the folder of a run: a new one, or the one an earlier start of the same run left.

    Args:
        folder: The folder.
        identity: What the result depends on: experiment, hashes of inputs, and "epochs". The folder of another
            identity is never touched.
        config: The whole config, written to ``config.yaml``.
        restart: Set a run of another identity aside (as ``FOLDER.aside-1``, ``FOLDER.aside-2``, ...) and start anew.
        extend: Accept a run that had fewer epochs, and continue it.
        main: Whether this process is the one that writes.

    Returns:
        The folder, with ``finished`` telling whether there is nothing left to do.

    Raises:
        BadInput: The folder belongs to another run, is in use or damaged, or cannot be written to; or a finished
            run is to be extended that did not keep its state.
    """
    folder = Path(folder)
    if not main:
        return RunFolder(folder, (folder / "done.json").exists(), _extended(folder / "run.json"), main=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT)
    except OSError as error:
        raise not_writable(folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BadInput("a run folder not in use", "one in use by another process", where=folder) from error
    for left in folder.glob(".*.part"):  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)
    record = folder / "run.json"
    wanted = json.loads(json.dumps(identity, sort_keys=True))
    try:
        differing = _differences(_read(record), wanted) if record.exists() else []
        if differing and not any((folder / name).exists() for name in ("done.json", "state.pt", "metrics.jsonl")):
            record.unlink()  # a start that ended before it had anything to lose
            differing = []
        if differing and extend and all(line.startswith("epochs was ") for line in differing):
            _extend(folder, wanted)
            differing = []
        if differing and not restart:
            raise BadInput(
                "the folder of this very run",
                "one of another: " + "; ".join(differing[:6]),
                where=folder,
                do=_advice(differing),
            )
    except BadInput:
        os.close(lock)
        raise
    if differing:
        os.close(lock)
        number = next(i for i in range(1, 10_000) if not Path(f"{folder}.aside-{i}").exists())
        folder.rename(f"{folder}.aside-{number}")
        return open_run(folder, identity, config)
    if not record.exists() or extend:
        import yaml

        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    if not record.exists():
        write_json(record, wanted)
    return RunFolder(folder, (folder / "done.json").exists(), _extended(record), lock=lock)


def _advice(differing: list[str]) -> str:
    anew = "choose another --run or --name, or --restart to set the old one aside"
    return f"--extend to continue it with more epochs; or {anew}" if differing[0].startswith("epochs was ") else anew


def _extend(folder: Path, wanted: dict[str, Any]) -> None:
    """Make the folder that of a run with more epochs.

    Raises:
        BadInput: Fewer epochs, or the state of the finished run is gone.
    """
    record, done = folder / "run.json", folder / "done.json"
    old = _read(record)
    before, now = old["epochs"], wanted["epochs"]
    if now < before:
        raise BadInput(f"more than {before} epochs", f"{now}", where=folder, do=f"--epochs {before + 1} or more")
    if done.exists() and not (folder / "state.pt").exists():
        raise BadInput(
            "a finished run that kept its training state",
            "one without state.pt",
            where=folder,
            do="run with --keep_state what is to be extended later; or begin a new run with --start and this model",
        )
    write_json(record, {**wanted, EXTENDED: [*old.get(EXTENDED, []), before]})
    done.unlink(missing_ok=True)


def _extended(record: Path) -> tuple[int, ...]:
    return tuple(_read(record).get(EXTENDED, [])) if record.exists() else ()


def experiment(config: Any, *kinds: type) -> dict[str, Any]:
    """What defines an experiment: the fields of a config that these dataclasses declare, as plain JSON types."""
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    return {name: value for name, value in config_dict(config).items() if name in names}


def _read(record: Path) -> dict[str, Any]:
    try:
        read = json.loads(record.read_text("utf-8"))
        if not isinstance(read, dict):
            raise ValueError("no table")
    except ValueError as error:
        do = "restore it, or choose another --run or --name"
        raise BadInput("the record of a run", "a damaged file", where=record, do=do) from error
    return read


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lines = []
    for key in sorted((old.keys() | new.keys()) - {EXTENDED}):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            lines += [f"{key}.{line}" for line in _differences(before, now)]
        elif before != now:
            lines.append(f"{key} was {before!r}, now {now!r}")
    return lines
