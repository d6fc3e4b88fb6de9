"""What a user types: every command's help, its configuration, and the README's own commands."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = (
    *("cxr-data", "ssl-pretrain", "finetune", "distill"),
    *("evaluate", "export-model", "predict", "benchmark-model", "reproduce"),
)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name(arguments[0])
    return subprocess.run([str(script), *arguments[1:]], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_says_what_it_is(command) -> None:
    began = time.perf_counter()
    done = run(command, "--help")
    assert done.returncode == 0
    assert command in done.stdout
    assert time.perf_counter() - began < 10  # importing torch on a busy machine alone takes longer


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_print_config_can_be_given_back(command, tmp_path) -> None:
    printed = run(command, "--print_config")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "config.yaml").write_text(printed.stdout)
    assert run(command, "--config", str(tmp_path / "config.yaml"), "--print_config").stdout == printed.stdout


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("ssl-pretrain --data no/such/folder", "no/such/folder"),
        ("ssl-pretrain --architecture resnet81 --data phantom:40", "did you mean"),
        ("finetune --sise 3", "did you mean size"),
        ("evaluate missing.safetensors", "missing.safetensors"),
        ("evaluate --run nobody", "nobody"),
        ("export-model --run nobody", "nobody"),
        ("predict missing.onnx image.png", "missing.onnx"),
        ("benchmark-model missing.onnx", "missing.onnx"),
        ("reproduce quickstrat", "did you mean quickstart"),
        ("cxr-data prepare no/such/folder --out x", "no/such/folder"),
        ("cxr-data prepair x", "did you mean prepare"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(command, says, tmp_path) -> None:
    done = run(*command.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def readme_commands() -> list[str]:
    """Every command of the README, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    typed = [line for block in blocks for line in block.splitlines() if "#subdirectory" not in line]
    lines = [line.split("#")[0].strip() for line in typed]
    return [part.strip() for line in lines if line for part in line.split("&&")]


def test_every_command_of_the_readme_is_known() -> None:
    """Those that train are run in small by the tests of their packages; here each must at least parse."""
    ours = [shlex.split(c)[2:] for c in readme_commands() if c.startswith("uv run ") and "pytest" not in c]
    assert {words[0] for words in ours} >= set(COMMANDS)
    for words in ours:
        if words[0] in ("cxr-data", "reproduce"):
            done = run(*words, "--dry_run") if words[0] == "reproduce" else run(words[0], words[1], "--help")
        else:
            done = run(*words, "--print_config")
        assert done.returncode == 0, (words, done.stderr)


def test_the_three_commands_bare_one_after_the_other(tmp_path) -> None:
    """Bare but for sizes that a test can wait for."""
    small = ["--data", "phantom:120", "--size", "32"]
    first = run("ssl-pretrain", *small, "--epochs", "1", "--architecture", "resnet18", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "next:  uv run distill" in first.stdout
    second = run("distill", *small, "--epochs", "1", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "fitting a resnet18" in second.stdout
    assert "next:  uv run evaluate" in second.stdout
    third = run("evaluate", cwd=tmp_path)
    assert third.returncode == 0, third.stderr
    report = tmp_path / "runs" / "quickstart" / "report" / "index.html"
    assert str(report.relative_to(tmp_path)) in third.stdout
    assert "teacher" in report.read_text()
