"""The folder a stage writes to: whose it is, what was logged, whether it is finished."""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cxr_data.errors import BadInput
from cxr_data.files import not_writable, write_json, write_text


@dataclass
class RunFolder:
    """A stage's folder, held by this process until it ends.

    Attributes:
        path: The folder.
        finished: The stage has run to its end here before.
        main: Whether this process writes (rank 0).
        lock: Descriptor of the held lock file.
    """

    path: Path
    finished: bool
    main: bool = True
    lock: int | None = field(default=None, repr=False)

    @property
    def state(self) -> Path:
        """Where resume state lies while the stage runs."""
        return self.path / "state.pt"

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl; undefined numbers must be None."""
        if self.main:
            try:
                with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(line, allow_nan=False) + "\n")
            except OSError as error:
                raise not_writable(self.path, error) from error

    def lines(self) -> list[dict[str, Any]]:
        """The lines logged so far."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    def truncate_log(self, lines: int) -> None:
        """Drop what a killed run logged after its last saved state."""
        path = self.path / "metrics.jsonl"
        if self.main and path.exists():
            kept = path.read_text("utf-8").splitlines(keepends=True)[:lines]
            write_text(path, "".join(kept))

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the stage as done and drop its resume state."""
        if self.main:
            write_json(self.path / "done.json", summary)
            self.state.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let other processes have the folder; the end of the process does so too."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def open_run(
    folder: str | Path,
    identity: dict[str, Any],
    config: dict[str, Any],
    *,
    restart: bool = False,
    main: bool = True,
    later: Mapping[str, Any] = MappingProxyType({}),
) -> RunFolder:
    """Open a stage's folder: a new one, or the one an earlier start of the same stage left.

    Args:
        folder: The folder.
        identity: What the result depends on: config fields, hashes of inputs. A folder of another
            identity is never touched.
        config: The config as a person reads it, written to ``config.yaml``.
        restart: Set a run of another identity aside (as ``FOLDER.aside-1``, ``FOLDER.aside-2``, ...) and start anew.
        main: Whether this process is the one that writes.
        later: Options of the identity's "config" that records of older versions lack, and what these stood for.

    Returns:
        The folder, with ``finished`` telling whether there is nothing left to do.

    Raises:
        BadInput: The folder belongs to another run, is in use or damaged, or cannot be written to.
    """
    folder = Path(folder)
    if not main:
        return RunFolder(folder, (folder / "done.json").exists(), main=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT)
    except OSError as error:
        raise not_writable(folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BadInput("a run folder nobody else uses", "one in use by another process", where=folder) from error
    for left in folder.glob(".*.part"):  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)
    record = folder / "run.json"
    wanted = json.loads(json.dumps(identity, sort_keys=True))
    try:
        differing = _differences(_completed(record, wanted, later), wanted) if record.exists() else []
    except BadInput:
        os.close(lock)
        raise
    if differing and not any((folder / name).exists() for name in ("done.json", "state.pt", "metrics.jsonl")):
        record.unlink()  # a start that ended before it had anything to lose
        differing = []
    if differing:
        os.close(lock)
    if differing and not restart:
        raise BadInput(
            "the run folder of this very command",
            "one of another: " + "; ".join(differing[:6]),
            where=folder,
            do="choose another --run or --name, or --restart to set the old one aside",
        )
    if differing:
        number = next(i for i in range(1, 10_000) if not Path(f"{folder}.aside-{i}").exists())
        folder.rename(f"{folder}.aside-{number}")
        return open_run(folder, identity, config, later=later)
    if not record.exists():
        import yaml

        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        write_json(record, wanted)
    return RunFolder(folder, (folder / "done.json").exists(), lock=lock)


def _completed(record: Path, wanted: dict[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no table")
    except ValueError as error:
        do = "restore it, or choose another --run or --name"
        raise BadInput("the record of a run", "a damaged file", where=record, do=do) from error
    if later:
        stood_for = {name: value for name, value in later.items() if name in wanted["config"]}
        found["config"] = {**stood_for, **found["config"]}
    return found


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            lines += [f"{key}.{line}" for line in _differences(before, now)]
        elif before != now:
            lines.append(f"{key} was {before!r}, now {now!r}")
    return lines
