"""The page of benchmarks says what the files say, and marks what misses its bound."""

import copy
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "benchmarks" / "page.py"


def row(what, value, unit, least=None, most=None, peer="a peer", detail="", met=True):
    return {
        "what": what,
        "peer": peer,
        "value": value,
        "unit": unit,
        "least": least,
        "most": most,
        "detail": detail,
        "met": met,
    }


@pytest.fixture
def document() -> dict:
    steps = [row("a step", 2.567, "x", least=2.5, detail="peer 10 ms, ours 4 ms"), row("one | two", 1234.4, "x")]
    late = [row("late", 0.5, "x", least=1, met=False)]
    memory = [row("memory", 71.25, "%", most=70.0, met=False), row("time", 3.0, "s", most=3, peer="")]
    return {
        "machine_info": {
            "cpu": "A Processor",
            "cores": 2,
            "gpu": None,
            "system": "Linux",
            "machine": "x86_64",
            "python": "3.12.1",
            "torch_threads": 1,
            "versions": {"torch": "9.8.7", "lightly": None},
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "datetime": "2031-02-03T04:05:06+00:00",
        "benchmarks": [
            {"name": "test_step", "extra_info": {"title": "Steps", "rows": steps}},
            {"name": "test_memory", "extra_info": {"title": "Memory", "rows": memory}},
            {
                "name": "test_late",
                "extra_info": {"title": "Steps", "rows": late},
            },
            {"name": "test_broken", "extra_info": {"title": "Steps", "rows": []}},
            {"name": "test_of_a_package", "extra_info": {}},
        ],
        "failed": [{"title": "Steps", "name": "test_late_again"}, {"title": "Others", "name": "test_other"}],
    }


@pytest.fixture
def page():
    return runpy.run_path(str(PAGE))["page"]


def test_a_figure_that_holds_one_that_misses_and_one_without_bound(page, document) -> None:
    lines = page({"a.json": document}).splitlines()
    assert "| a step | a peer | 2.57x | at least 2.5x | peer 10 ms, ours 4 ms |" in lines
    assert "| memory | a peer | 71.2 %, **missed** | at most 70 % |  |" in lines
    assert r"| one \| two | a peer | 1,234x |  |  |" in lines
    assert "| time |  | 3 s | at most 3 s |  |" in lines
    assert "5 figures; 2 of 4 bounds hold." in lines


def test_rows_of_one_file_are_one_table_and_a_failed_test_is_named(page, document) -> None:
    text = page({"a.json": document})
    assert [line for line in text.splitlines() if line.startswith("### ")] == ["### Steps", "### Memory", "### Others"]
    steps = text.split("### Steps")[1].split("### Memory")[0]
    assert "| late | a peer | 0.5x, **missed** | at least 1x |  |" in steps
    assert "Failed before a figure was measured: `test_broken`, `test_late_again`." in steps
    assert "### Others\n\nFailed before a figure was measured: `test_other`." in text
    assert "test_of_a_package" not in text


def test_every_machine_has_its_heading_and_the_commands_name_the_files(page, document) -> None:
    other = copy.deepcopy(document)
    other["machine_info"] |= {"cpu": "Another", "cores": 1, "gpu": "A Card"}
    other["commit_info"]["dirty"] = False
    text = page({"a.json": document, "b.json": other})
    assert "\n## A Processor, 2 cores\n" in text
    assert "\n## Another, 1 core, A Card\n" in text
    assert "Python 3.12.1, torch 9.8.7, 1 thread of torch; revision 0123456789ab with uncommitted changes, 2031" in text
    assert "revision 0123456789ab, 2031-02-03 (`benchmarks/results/b.json`)" in text
    assert "page.py benchmarks/results/a.json benchmarks/results/b.json \\\n    --out docs/performance.md" in text
    assert "uv run pytest benchmarks -m benchmark -n 0 --benchmark-json benchmarks/results/NAME.json" in text


def test_a_test_that_was_run_again_replaces_its_figures(page, document) -> None:
    document["machine_info"]["flags"] = ["avx2", "amx_bf16"]
    again = copy.deepcopy(document)
    again["commit_info"]["id"] = "fedcba9876543210"
    again["benchmarks"] = [{"name": "test_late", "extra_info": {"title": "Steps", "rows": [row("late", 2.0, "x", 1)]}}]
    again["failed"] = []
    text = page({"a.json": document, "again.json": again})
    assert text.count("\n## A Processor, amx_bf16, 2 cores\n") == 1
    assert "revision 0123456789ab with" in text
    assert "Linux x86_64, avx2, amx_bf16, Python 3.12.1, torch 9.8.7, 1 thread of torch; revision fedcba987654" in text
    assert "| late | a peer | 2x | at least 1x |  |" in text
    assert "0.5x" not in text
    assert "5 figures; 3 of 4 bounds hold." in text


def test_processors_of_one_name_that_can_do_other_things_are_two_machines(page, document) -> None:
    other = copy.deepcopy(document)
    document["machine_info"]["flags"] = ["avx2", "avx512f", "avx512_bf16"]
    other["machine_info"]["flags"] = ["avx2"]
    text = page({"a.json": document, "b.json": other})
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## A Processor, avx512_bf16, 2 cores", "## A Processor, avx2, 2 cores"]


def test_the_command_writes_a_file_or_standard_output(page, document, tmp_path) -> None:
    file, out = tmp_path / "a.json", tmp_path / "performance.md"
    file.write_text(json.dumps(document))
    command = [sys.executable, str(PAGE), str(file)]
    told = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    subprocess.run([*command, "--out", str(out)], check=True)
    assert told.replace("\r\n", "\n") == out.read_text("utf-8") == page({"a.json": document})


@pytest.mark.slow
def test_the_plot_has_a_dot_for_each_ratio_with_a_bound_and_the_page_shows_it(document, tmp_path) -> None:
    file, out, plot = tmp_path / "a.json", tmp_path / "performance.md", tmp_path / "images" / "plot.svg"
    file.write_text(json.dumps(document))
    plot.parent.mkdir()
    command = [sys.executable, str(PAGE), str(file), "--out", str(out), "--plot", str(plot)]
    subprocess.run(command, check=True)
    assert "](images/plot.svg)" in out.read_text("utf-8")
    drawn = plot.read_text("utf-8")
    for shown in ("a step", "late", "A Processor, 2 cores", "wanted at least"):
        assert f">{shown}</text>" in drawn
    assert "one | two" not in drawn
    subprocess.run(command, check=True)
    assert plot.read_text("utf-8") == drawn
    alone = subprocess.run([*command[:3], "--plot", str(plot)], capture_output=True, text=True, check=False)
    assert alone.returncode == 2
    assert "needs --out" in alone.stderr


def test_a_file_that_is_none_is_named(tmp_path) -> None:
    (tmp_path / "a.json").write_text("no JSON")
    for name in ("a.json", "missing.json"):
        done = subprocess.run([sys.executable, str(PAGE), str(tmp_path / name)], capture_output=True, text=True)
        assert done.returncode == 2
        assert name in done.stderr


BENCHMARK = """
import pytest

TITLE = "Sums"


@pytest.mark.benchmark
def test_sums(medians, record):
    seconds = medians({"long": lambda: sum(range(10000)), "short": lambda: sum(range(10))}, rounds=3)
    record("more than can be", seconds["long"] / seconds["short"], "x", peer="long", least=1e12)
    record("what can be", seconds["long"] / seconds["short"], "x", peer="long", least=1, detail="of three rounds")
    record("no number", float("nan"), "x", least=0)


@pytest.mark.benchmark
def test_too_long(medians, record):
    medians({"long": lambda: pytest.fail("a timeout ends a test like this")}, rounds=1)
"""


@pytest.mark.slow
def test_from_a_missed_bound_to_the_page(page, tmp_path) -> None:
    shutil.copy(PAGE.with_name("conftest.py"), tmp_path)
    (tmp_path / "test_sums.py").write_text(BENCHMARK)
    # A process of xdist says so in the environment, and pytest-benchmark would measure nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-n", "0", "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--benchmark-json", "found.json"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "missed: more than can be, against long" in done.stdout
    text = (tmp_path / "found.json").read_text()
    assert str(tmp_path) not in text
    assert "node" not in json.loads(text)["machine_info"]
    shown = page({"found.json": json.loads(text)})
    assert "3 figures; 1 of 3 bounds hold." in shown
    assert "Failed before a figure was measured: `test_too_long`." in shown
    assert shown.count("**missed** |") == 2
    assert "| nanx, **missed** |" in shown
    assert "| at least 1x | of three rounds |" in shown
