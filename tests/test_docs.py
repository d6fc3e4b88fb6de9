"""Every command of the README and of the manual runs, in small; every Python example too."""

import datetime
import itertools
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
import yaml

import cxr_data.config
from cxr_data.command_line import umbrella
from cxr_data.command_line.completion import COMMON
from cxr_data.command_line.help import options
from cxr_data.synthetic.phantom import phantom
from cxr_recipes.gpu_check.config import GpuCheckConfig

ROOT = Path(__file__).parent.parent
RECORDS = {ROOT / "docs" / "results.md", ROOT / "docs" / "performance.md"}
"""Written by commands whose own tests run them in small."""
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - RECORDS)]
READMES = sorted(ROOT.glob("packages/*/README.md"))
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
    matches = re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.S)
    return [re.sub(r" *\\\n *", " ", block) for block in matches] if language == "sh" else matches


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


def test_what_documented_commands_read_and_write_is_ignored_by_git() -> None:
    """Patient images and answers are else one `git add .` away."""
    places = {
        "MY_IMAGES/a.png",
        "NEW_IMAGES/a.png",
        "EXPORT/a.dcm",
        "numbered/1.dcm",
        "numbers.txt",
        "runs/mine/report",
    }
    for page in PAGES:
        for words in commands(page):
            for option, place in itertools.pairwise(words):
                if option in ("--out", "--heatmaps"):
                    places.add(f"{place}/1.png" if not Path(place).suffix else place)
    asked = ["git", "check-ignore", "--no-index", *sorted(places)]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert set(done.stdout.split()) == places
    kept = subprocess.run(["git", "ls-files", "-ci", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False)
    assert kept.stdout == b""


def offered() -> dict[str, set[str]]:
    """Every command as it is typed -> its options, those of nested configs without what follows the dot."""
    actual = {f"cxr-data {name}": config for name, config in cxr_data.config.CONFIGS.items()}
    for name, command in umbrella.COMMANDS.items():
        if ":" in command.config:
            script = {"pretrain": "ssl-pretrain", "export": "export-model", "benchmark": "benchmark-model"}.get(
                name, name
            )
            actual[script] = actual[f"cxr {name}"] = umbrella.load(command.config, name)
    actual["reproduce gpu-check"] = GpuCheckConfig
    common = {option.removeprefix("--") for option in COMMON}
    return {name: common | {one.name.partition(".")[0] for one in options(config)} for name, config in actual.items()}


def test_every_option_named_in_a_document_exists() -> None:
    of_command, wrong = offered(), []
    known = set().union(*of_command.values())
    for page in [*PAGES, *READMES]:
        text = page.read_text("utf-8")
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        typed = [
            line.removeprefix("uv run ").split("#")[0] for block in blocks(page, "sh") for line in block.splitlines()
        ]
        for span in [*spans, *typed]:
            command = max((name for name in of_command if f"{span} ".startswith(f"{name} ")), key=len, default=None)
            if command is None and not span.startswith("--"):
                continue  # a program of others
            its = of_command[command] if command else known
            wrong += [f"{page}: {span}" for name in re.findall(r"(?<!\S)--(\w+)", span) if name not in its]
    assert not wrong, "\n".join(wrong)


def test_every_module_named_in_a_document_exists() -> None:
    named = {
        (page, name) for page in [*PAGES, *READMES] for name in re.findall(r"`(cxr_\w+/[\w/]+\.\w+)`", page.read_text())
    }
    assert named
    assert [one for one in named if not list(ROOT.glob(f"packages/*/src/{one[1]}"))] == []


def test_every_extra_named_in_a_document_exists() -> None:
    projects = [tomllib.loads(file.read_text())["project"] for file in ROOT.glob("packages/*/pyproject.toml")]
    extras = {f"{one['name']}[{extra}]" for one in projects for extra in one.get("optional-dependencies", {})}
    named = {name for page in [*PAGES, *READMES] for name in re.findall(r"\bcxr-\w+\[\w+\]", page.read_text("utf-8"))}
    assert named
    assert named <= extras


def anchors(page: Path) -> set[str]:
    """Addresses of a page's headings, as GitHub and the manual make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[ -]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def test_every_link_leads_to_a_file_and_a_heading_that_exist() -> None:
    broken = []
    others = [ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for page in [*PAGES, *READMES, *RECORDS, *others, *sorted(ROOT.glob("docs/results/*.md"))]:
        text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^()\s]+)\)", text):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken, "\n".join(broken)


def scripts(*packages: str) -> set[str]:
    """Commands of these packages; of all where none is named."""
    files = [file for file in ROOT.glob("packages/*/pyproject.toml") if not packages or file.parent.name in packages]
    return {name for file in files for name in tomllib.loads(file.read_text())["project"].get("scripts", {})}


def test_the_readme_shows_every_command() -> None:
    assert {words[0] for words in commands(ROOT / "README.md")} == scripts()


@pytest.mark.parametrize("image", sorted((ROOT / "docker").iterdir()), ids=lambda path: path.stem)
def test_an_image_copies_what_exists_and_starts_a_command_that_it_installs(image) -> None:
    text = image.read_text("utf-8")
    copied = [word for line in re.findall(r"^COPY (.*)$", text, flags=re.M) for word in line.split()[:-1]]
    assert copied
    assert [word for word in copied if not (ROOT / word).exists()] == []
    assert f"docker build -f {image.relative_to(ROOT)} -t" in text
    packages = [word.removeprefix("packages/") for word in copied if word.startswith("packages/")]
    started = [
        re.findall(r'^CMD \["([\w-]+)"', text, flags=re.M)[0],
        *re.findall(r"^# docker run.* cxr\S* (\S+)", text, re.M),
    ]
    assert len(started) == 2
    assert set(started) <= scripts(*packages)


def test_what_is_cited_is_this_version() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (said["version"], said["license"]) == (project["version"], project["license"])
    assert isinstance(said["date-released"], datetime.date)


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


@pytest.fixture(scope="module")
def manual(tmp_path_factory) -> Path:
    """The manual, built without a warning."""
    mkdocs, folder = Path(sys.executable).with_name("mkdocs"), tmp_path_factory.mktemp("manual")
    if not mkdocs.exists():
        pytest.skip("mkdocs is not installed: uv sync --group docs")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = [str(mkdocs), "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(built, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.slow
def test_the_manual_shows_the_public_names_of_the_packages(manual) -> None:
    """Wherever these are defined."""
    assert (manual / "own-images" / "index.html").exists()
    for package, name in (
        ("data", "open_cohort"),
        ("ssl", "sinkhorn"),
        ("distill", "MultilabelKD"),
        ("eval", "delong"),
    ):
        page = (manual / "api" / package / "index.html").read_text("utf-8")
        assert f"{name}</span>" in page, name


CUT = """[...document.querySelectorAll("article *")].filter(e => e.scrollWidth > e.clientWidth + 1
  && ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX) && e.clientWidth > 20)
  .map(e => `${e.scrollWidth} in ${e.clientWidth}: ${e.textContent.trim().slice(0, 60)}`)"""
"""What is wider than its place in a page of the manual."""
UNNAMED = '[...document.querySelectorAll("article img")].filter(i => !i.alt || !i.naturalWidth).map(i => i.src)'


@pytest.mark.slow
def test_nothing_in_the_manual_is_cut_off_on_a_desk_and_no_page_is_wider_than_a_phone(manual, browser) -> None:
    pages = sorted(manual.rglob("index.html"))
    assert len(pages) > 30
    for page in pages:
        browser.open(page, 1280)
        assert browser.run(CUT) == [], page
        assert browser.run(UNNAMED) == [], page
        assert browser.run('document.querySelectorAll("h1").length') == 1, page
        browser.open(page, 390, mobile=True)
        assert browser.run("document.documentElement.scrollWidth") <= 390, page


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
