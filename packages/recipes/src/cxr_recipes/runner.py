"""Run the commands of a recipe in order, resuming where an earlier run stopped."""

import contextlib
import importlib
import importlib.metadata
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cxr_data.errors import BadInput
from cxr_data.files import write_json, write_text
from cxr_recipes import results
from cxr_recipes.config import ReproduceConfig
from cxr_recipes.recipe import Recipe, names, read

HEAVY = ("torch._dynamo", "timm", "accelerate")
"""What every training imports, for seconds."""

GPUS = ("/dev/nvidiactl", "/dev/kfd")
"""Devices of drivers that a fork would break."""
STOPPED = frozenset({130, 143})
"""Exit codes of commands that a signal has stopped; those that it has killed have negative ones."""


def reproduce(config: ReproduceConfig) -> None:
    """Run the recipes of a config.

    Raises:
        BadInput: No such recipe or scale, or one that cannot run.
        SystemExit: A stage ended with another code than 0; it has said why. Or SIGTERM came, which is passed on.
    """
    if not config.recipes:
        raise BadInput("the name of a recipe", "none", do=f"one of: {', '.join(names())}")
    plans = []
    for recipe in map(read, config.recipes):  # all of them are read before the first runs for hours
        run = Path(config.runs_dir, config.run or recipe.name)
        scale = config.scale or next(iter(recipe.scales))
        plans.append((recipe, scale, run, recipe.commands(scale, run, config.data)))
    for recipe, scale, run, stages in plans:
        if config.dry_run:
            print("\n".join(shell(command) for stage in stages for command in stage))
        else:
            run_recipe(recipe, scale, run, stages, config.jobs, config.note)


def run_recipe(recipe: Recipe, scale: str, run: Path, stages: list[list[list[str]]], jobs: int, note: str) -> None:
    """Run every command, then write the results page.

    A finished command whose inputs have not changed returns at once; one whose inputs have changed sets its old
    folder aside and runs again.
    """
    commands = [command for stage in stages for command in stage]
    print(f"{recipe.title}  ({recipe.name}, scale {scale}, {len(commands)} commands)", flush=True)
    ledger = run / "recipe.json"
    record: dict[str, Any] = {"recipe": recipe.name, "scale": scale, "jobs": jobs, "note": note}
    record |= {"machine": results.machine(), "done": []}
    lock, stopped = threading.Lock(), threading.Event()
    running: set[subprocess.Popen[bytes]] = set()

    def do(command: list[str], side_by_side: int) -> int:
        if stopped.is_set():
            return 0
        typed = shell(command)
        with lock:
            print(f"\n[{commands.index(command) + 1}/{len(commands)}] $ {typed}", flush=True)
        code = _run(_arguments(command), _environment(side_by_side), running)
        if code == 0:
            with lock:
                record["done"].append(typed)
                write_json(ledger, record)
        elif code < 0 or code in STOPPED:  # what somebody stops, others of the stage shall not follow
            stopped.set()
        return code

    for stage in filter(None, stages):  # of a loop over no values nothing is left
        side_by_side = min(jobs, len(stage))
        with contextlib.ExitStack() as held:
            each = map if side_by_side == 1 else held.enter_context(ThreadPoolExecutor(side_by_side)).map
            try:
                codes = list(each(lambda command, n=side_by_side: do(command, n), stage))
            except SystemExit:  # SIGTERM, which our commands do not hear: they save their state and end
                for process in tuple(running):
                    process.terminate()
                raise
        failed = [(code, command) for code, command in zip(codes, stage, strict=True) if code]
        for code, command in failed:
            print(f"{shell(command)}\nended with code {code}", file=sys.stderr)
        if failed:
            print("start the same command again to resume there", file=sys.stderr)
            raise SystemExit(failed[0][0] if 0 < failed[0][0] < 256 else 1)
    page = run / "results.md"
    write_text(page, results.page(recipe, run, [shell(command) for command in commands], record))
    print(f"\nwrote {page}")
    for report in recipe.reports:
        if svg := results.chart(recipe, run / report / "metrics.json"):
            write_text(run / f"{report}.svg", svg)
            print(f"wrote {run / report}.svg")
    for report in recipe.reports:
        print(f"open  {run / report / 'index.html'}")


def _run(arguments: list[str], environment: dict[str, str], running: set[subprocess.Popen[bytes]]) -> int:
    """Run a command to its end and return its exit code; meanwhile it is in ``running``."""
    if threading.current_thread() is threading.main_thread() and may_fork():
        return _forked(arguments)
    with subprocess.Popen(arguments, env=environment) as process:
        running.add(process)
        code = process.wait()
        running.discard(process)
    return code


def may_fork() -> bool:
    """Whether commands are forked from this process, so that each need not import torch anew, for seconds.

    Not where there is a GPU: its driver must not have been asked for anything before.
    """
    return sys.platform == "linux" and not any(map(os.path.exists, GPUS))


def _forked(arguments: list[str]) -> int:
    """Run a command in a fork of this process, which holds what it would import; its exit code."""
    for name in HEAVY:
        importlib.import_module(name)
    process = multiprocessing.get_context("fork").Process(target=_command, args=(arguments,))
    process.start()
    try:
        process.join()
    except SystemExit:  # SIGTERM, which our commands do not hear, as they hear Ctrl-C: they save their state and end
        process.terminate()
        raise
    finally:
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _command(arguments: list[str]) -> None:
    """Be the command: as its script is."""
    sys.argv = arguments
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=Path(arguments[0]).name)
    sys.exit(entry.load()())


def shell(command: list[str]) -> str:
    """A command as a person would type it."""
    return "uv run " + shlex.join(command)


def _arguments(command: list[str]) -> list[str]:
    # Reports are rewritten and preparation resumes by itself; trainings with other inputs are set aside first.
    restart = [] if command[0] in ("evaluate", "cxr-data", "export-model") else ["--restart"]
    return [str(script(command[0])), *command[1:], *restart]


def _environment(side_by_side: int) -> dict[str, str]:
    """Each of several commands gets its share of the cores: oversubscribed threads are many times slower."""
    if side_by_side == 1:
        return dict(os.environ)
    return {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // side_by_side))}


def script(name: str) -> Path:
    """The command's own script, beside the Python that runs us; else (pip install --target) the one on the PATH.

    Raises:
        BadInput: It is installed nowhere.
    """
    beside = Path(sys.executable).with_name(name + (".exe" if os.name == "nt" else ""))
    path = beside if beside.exists() else shutil.which(name)
    if path is None:
        raise BadInput(f"the command {name} installed beside {sys.executable}, or on the PATH", "none", do="uv sync")
    return Path(path)
