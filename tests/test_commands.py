"""What a user types: every command's help, its configuration, and the three commands of the product."""

import importlib.metadata
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_data.models.header import describe

ROOT = Path(__file__).parent.parent
COMMANDS = (
    *("cxr", "cxr-data", "ssl-pretrain", "finetune", "distill"),
    *("evaluate", "export-model", "predict", "benchmark-model", "push", "reproduce"),
)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name(arguments[0])
    return subprocess.run([str(script), *arguments[1:]], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_says_what_it_is(command) -> None:
    """In the processor's time, which a busy machine changes less than the clock's: .15 s, twice that on a slow one."""

    def took() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run(command, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0
        assert f"usage: {command} " in done.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(took() < 0.3 for _ in range(5))


HELP = {
    "cxr": "evaluate",
    "ssl-pretrain": "--swav.prototypes --byol.momentum",
    "finetune": "--mode",
    "distill": "--teacher",
    "evaluate": "MODELS --data --run --resamples --threads",
    "export-model": "MODELS --out --data --int8 --max_drop --web",
    "predict": "PATHS --out --heatmaps --runtime --batch_size",
    "benchmark-model": "MODELS --data --threads --seconds --memory",
    "push": "--repo",
    "reproduce": "--scale",
    "cxr demo": "--port research",
    "cxr-data": "prepare audit",
    "cxr-data prepare": "--max_bad",
}
"""Some of the words that the help of a command names."""
HEAVY = (
    "numpy",
    "cv2",
    "polars",
    "torch",
    "rich",
    "yaml",
    "jsonargparse",
    "onnxruntime",
    "scipy",
    "importlib.metadata",
)
HEAVY += ("torchvision", "sklearn", "timm", "matplotlib", "lightly", "pydicom", "onnx", "openvino")
HELPING = """
import importlib, sys
for package in ("ssl", "distill", "eval", "deploy", "recipes"):
    importlib.import_module(f"cxr_{package}.cli"), importlib.import_module(f"cxr_{package}.config")
assert "argparse" not in sys.modules
for place, *words in CALLS:
    module, function = place.split(":")
    sys.argv = [*words, "--help"]
    print("####", *words)
    try:
        assert not getattr(importlib.import_module(module), function)()
    except SystemExit as ended:
        assert not ended.code
    print([name for name in HEAVY if name in sys.modules])
"""


def test_help_names_options_and_imports_nothing_slow() -> None:
    scripts = {script.name: script.value for script in importlib.metadata.entry_points(group="console_scripts")}
    calls = [(scripts[words.split()[0]], *words.split()) for words in HELP]
    code = f"CALLS, HEAVY = {calls}, {HEAVY}\n{HELPING}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for text, (command, words) in zip(done.stdout.split("#### ")[1:], HELP.items(), strict=True):
        assert text.startswith(f"{command}\n")
        assert text.endswith("\n[]\n"), command
        assert all(word in text for word in words.split()), command


@pytest.mark.parametrize("command", COMMANDS[2:])
def test_print_config_can_be_given_back(command, tmp_path, typed) -> None:
    printed = typed(command, "--print_config")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "config.yaml").write_text(printed.stdout)
    assert typed(command, "--config", str(tmp_path / "config.yaml"), "--print_config").stdout == printed.stdout


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
        ("push missing.safetensors", "missing.safetensors"),
        ("reproduce quickstrat", "did you mean quickstart"),
        ("cxr-data prepare no/such/folder --out x", "no/such/folder"),
        ("cxr-data prepair x", "did you mean prepare"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(command, says, tmp_path, typed) -> None:
    done = typed(*command.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_the_three_commands_bare_one_after_the_other(tmp_path, typed) -> None:
    """Bare but for what a test cannot wait for: sizes, and timing with a process for the memory of each model."""
    small = ["--data", "phantom:120", "--size", "32"]
    first = typed("ssl-pretrain", *small, "--epochs", "1", "--architecture", "resnet18", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "next:  uv run finetune" in first.stdout
    second = typed("distill", *small, "--epochs", "1", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "fitting a resnet18" in second.stdout
    assert "next:  uv run evaluate" in second.stdout
    third = typed("evaluate", "--speed", "false", cwd=tmp_path)
    assert third.returncode == 0, third.stderr
    report = tmp_path / "runs" / "quickstart" / "report" / "index.html"
    assert str(report.relative_to(tmp_path)) in third.stdout
    assert "teacher" in report.read_text()


@pytest.mark.slow
def test_training_without_a_size_takes_that_of_the_cohort(tmp_path, typed) -> None:
    def run(*words: str) -> None:
        done = typed(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    run("cxr-data", "prepare", "phantom:60", "--size", "40", "--out", "mine")
    trained = ["--data", "mine", "--epochs", "1", "--batch_size", "16"]
    run("ssl-pretrain", *trained, "--architecture", "test_resnet", "--on_collapse", "warn")
    run("finetune", *trained, "--architecture", "test_resnet")
    run("distill", *trained, "--student", "test_resnet")
    runs = tmp_path / "runs" / "quickstart"
    for file in ("ssl/backbone", "teacher/model", "test_resnet/model"):
        assert describe(runs / f"{file}.safetensors").input.size == 40, file
