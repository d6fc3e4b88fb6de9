"""Every command of the README and of the manual runs, in small; every Python example too."""

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import pytest

from cxr_data.synthetic.phantom import phantom

ROOT = Path(__file__).parent.parent
RECORDS = {ROOT / "docs" / "results.md", ROOT / "docs" / "performance.md"}
"""Written by commands whose own tests run them in small."""
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - RECORDS)]
SMALL = {
    "ssl-pretrain": "--size 32 --epochs 1 --architecture resnet18",
    "finetune": "--size 32 --epochs 1",
    "distill": "--size 32 --epochs 1",
    "evaluate": "--resamples 20 --speed false",
    "export-model": "--int8 false",
    "benchmark-model": "--seconds 0.02 --memory false",
    "reproduce": "--dry_run",
}
"""What makes a documented command small; later options win."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.S)


def commands(page: Path) -> list[list[str]]:
    """The page's shell commands, without comments; what installs or tests ourselves is left out."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if "#subdirectory" not in line]
    typed = [part.strip() for line in lines for part in line.split("#")[0].split("&&")]
    words = [shlex.split(command) for command in typed if command.startswith("uv run ")]
    return [w[2:] for w in words if w[2] != "pytest"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of two classes, as a user has it."""
    folder = tmp_path_factory.mktemp("images") / "MY_IMAGES"
    made = phantom(60, size=48, task="multiclass")
    for number, (pixels, target) in enumerate(zip(made["pixels"], made["targets"], strict=True)):
        file = folder / ("NORMAL" if target[0] else "ILL") / f"{made['patient'][number]}_{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), pixels)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
@pytest.mark.timeout(900)
def test_every_command_runs(page, images, tmp_path, typed) -> None:
    for name in ("MY_IMAGES", "NEW_IMAGES"):
        (tmp_path / name).symlink_to(images)
    for name, *words in commands(page):
        small = shlex.split(SMALL.get(name, ""))
        if name in ("ssl-pretrain", "finetune", "distill") and "--data" not in words:
            small += ["--data", "phantom:100"]
        done = typed(name, *words, *small, cwd=tmp_path)
        assert done.returncode == 0, (name, words, done.stdout[-2000:], done.stderr[-2000:])


def test_the_readme_shows_every_command() -> None:
    scripts = [tomllib.loads(file.read_text()) for file in ROOT.glob("packages/*/pyproject.toml")]
    ours = {name for script in scripts for name in script["project"].get("scripts", {})}
    assert {words[0] for words in commands(ROOT / "README.md")} == ours


def test_every_number_among_the_readmes_results_is_on_a_results_page() -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("## Results")[1].split("\n## ")[0]
    numbers = re.findall(r"[+-]\d+\.\d+", section)
    pages = [ROOT / "docs" / "results.md", *(ROOT / "docs" / "results").glob("*.md")]
    written = {number for page in pages for number in re.findall(r"[+-]\d+\.\d+", page.read_text("utf-8"))}
    assert len(numbers) > 9
    assert set(numbers) <= written


def test_every_row_of_a_table_is_in_a_table() -> None:
    for page in [*PAGES, *sorted(ROOT.glob("docs/results/*.md")), *RECORDS]:
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
        for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.M):
            assert re.match(r"\|.*\n\|[-:| ]+\|$", table, flags=re.M), f"{page.name}: {table[:80]}"


@pytest.mark.slow
def test_the_manual_builds_without_a_warning(tmp_path) -> None:
    mkdocs = Path(sys.executable).with_name("mkdocs")
    if not mkdocs.exists():
        pytest.skip("mkdocs is not installed: uv sync --group docs")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = [str(mkdocs), "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(built, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "own-images" / "index.html").exists()
    # The pages of the packages show their public names, wherever these are defined.
    for package, name in (
        ("data", "open_cohort"),
        ("ssl", "sinkhorn"),
        ("distill", "MultilabelKD"),
        ("eval", "delong"),
    ):
        page = (tmp_path / "api" / package / "index.html").read_text("utf-8")
        assert f"{name}</span>" in page, name


@pytest.mark.parametrize(
    ("page", "says"),
    [
        pytest.param("docs/python.md", "(2, 3, 32, 32)", id="python"),
        pytest.param("README.md", "", id="readme", marks=pytest.mark.slow),
    ],
)
def test_every_example_runs(page, says, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    shown_elsewhere = {program.read_text("utf-8") for program in (ROOT / "examples").glob("*.py")}
    shown = [block for block in blocks(ROOT / page, "python") if block not in shown_elsewhere]
    (tmp_path / "page.py").write_text("\n".join(shown))
    runpy.run_path("page.py", run_name="__main__")
    assert says in capsys.readouterr().out
