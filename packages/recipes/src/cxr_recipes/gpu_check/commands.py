"""Run commands of the toolkit, on the device there is or on the CPU."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cxr_recipes.runner import script


class Failed(Exception):
    """A command ended with an error; the message says which, how, and its last words."""


def run(words: Sequence[str], log: Path, *, on_cpu: bool = False) -> float:
    """Run a command to its end.

    Returns:
        Seconds it took.

    Raises:
        Failed: It ended with another code than 0.
    """
    began = time.perf_counter()
    process = start(words, log, on_cpu=on_cpu)
    check(finish(process), words, log)
    return time.perf_counter() - began


def check(code: int | None, words: Sequence[str], log: Path, wanted: int = 0) -> None:
    """Raise `Failed` unless a command ended with the code that is wanted."""
    if code != wanted:
        said = log.read_text("utf-8", errors="replace").strip().splitlines()[-4:]
        raise Failed(f"{shlex.join(words)} ended with code {code}, not {wanted}: {' / '.join(said)}")


def start(words: Sequence[str], log: Path, *, on_cpu: bool = False) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, with its output appended to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **({"ACCELERATE_USE_CPU": "true"} if on_cpu else {})}
    with log.open("ab") as file:
        file.write(f"\n$ {shlex.join(words)}\n".encode())
        file.flush()
        return subprocess.Popen(
            [str(script(words[0])), *words[1:]],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], seconds: float | None = None) -> int | None:
    """Wait for a command; it is stopped when its time is over, and where this process is stopped meanwhile.

    Args:
        process: The command.
        seconds: Time it has; None for any.

    Returns:
        Its exit code; None where its time was over.
    """
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        stop(process)
        return None
    except BaseException:
        stop(process)
        raise


def stop(process: subprocess.Popen[bytes], patience: float = 30.0) -> int:
    """Ask a command and what it started to end, as SIGTERM does; kill them where they do not.

    Returns:
        Its exit code.
    """
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
