"""Fixtures for every package's tests."""

import os

# One thread a process, before torch is imported: the networks of the tests are tiny, and threads that wait for
# each other on a busy machine are many times slower than none. Commands started by tests inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("UV", "uv")  # as if `uv run pytest` was typed: commands suggest others as they were typed

import contextlib
import importlib.metadata
import importlib.util
import io
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Where Python may keep no bytecode, each process that a test starts would compile torch anew, for ten seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = ["chromium"]  # tests/support: a browser to look at pages with


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take minutes: at the end one worker would wait for the other."""
    items.sort(key=lambda item: not (item.get_closest_marker("e2e") or "whole_road" in item.name))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real radiographs (``CXR_SHARED_DATA``, or ``../shared/data`` beside the repository)."""
    default = Path(__file__).parent.parent / "shared" / "data"
    folder = Path(os.environ.get("CXR_SHARED_DATA", default))
    if not (folder / "kermany_pneumonia").is_dir():
        pytest.skip(f"no real radiographs at {folder}")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share a cache of prepared cohorts among themselves, never the user's."""
    monkeypatch.setenv("CXR_CACHE", str(tmp_path_factory.getbasetemp() / "cxr-cache"))


@pytest.fixture(autouse=True)
def _own_engine() -> Iterator[None]:
    """Accelerate keeps one precision a process; the next test may want another."""
    yield
    _forget_engine()


def _forget_engine() -> None:
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def typed() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command as typed, by its installed name, but in this process: (name, *arguments, cwd=None).

    A process of its own imports torch for four seconds. ``tests/test_commands.py`` keeps the installed scripts honest.
    """

    def run(name: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        (script,) = importlib.metadata.entry_points(group="console_scripts", name=name)
        words = [name, *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", words)
            if cwd is not None:
                patch.chdir(cwd)
            try:
                code = script.load()()
            except SystemExit as ended:
                code = ended.code
            finally:
                _forget_engine()
        if isinstance(code, str):
            err.write(code)
        status = int(isinstance(code, str) or code or 0)
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def in_two_processes() -> Callable[..., list[tuple[int, str]]]:
    """Runs a Python script twice, as processes that know of each other (gloo): (script, *arguments) -> exits, words."""

    def run(*command: str) -> list[tuple[int, str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1}
        running = []
        for rank in range(2):
            own = {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            running.append(
                subprocess.Popen(
                    [sys.executable, "-W", "error::FutureWarning", *command],
                    env={**os.environ, **own},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        try:
            said = [process.communicate(timeout=250)[0] for process in running]
        finally:
            for process in running:
                process.kill()
        return [(process.returncode, words) for process, words in zip(running, said, strict=True)]

    return run


@pytest.fixture(scope="session")
def loopback_hub() -> Any:
    """The module with a server that answers as the Hugging Face Hub: ``loopback_hub.serving(repositories)``."""
    place = Path(__file__).parent / "tests" / "support" / "loopback_hub.py"
    spec = importlib.util.spec_from_file_location("loopback_hub", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
