import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cxr_data.command_line import completion, umbrella
from cxr_data.errors import BadInput

ROOT = Path(__file__).parents[3]


def test_every_command_of_every_package_is_one_of_cxr():
    scripts = set()
    for file in ROOT.glob("packages/*/pyproject.toml"):
        scripts |= set(tomllib.loads(file.read_text())["project"].get("scripts", {}).values())
    assert scripts - {"cxr_data.command_line.umbrella:main"} <= {command.main for command in umbrella.COMMANDS.values()}


def test_what_the_table_names_is_there():
    for name, command in umbrella.COMMANDS.items():
        assert callable(umbrella.load(command.main, name))
        assert umbrella.load(command.config, name)


def test_the_overview_names_every_command(capsys):
    for arguments in ([], ["--help"], ["help"]):
        assert umbrella.main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in [*umbrella.COMMANDS, "completion"])


def test_a_command_gets_its_arguments(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cxr"])
    for words in (["predict"], ["pretrain"], ["data", "prepare"], ["data"]):
        assert umbrella.main([*words, "--help"]) == 0
        assert f"usage: cxr {' '.join(words)} " in capsys.readouterr().out
    assert umbrella.main(["data", "shwo"]) == 2
    assert "did you mean show" in capsys.readouterr().err


def test_bad_input(capsys, monkeypatch):
    assert umbrella.main(["prdict"]) == 2
    assert "did you mean predict?" in capsys.readouterr().err
    assert umbrella.main(["prepare", "images"]) == 2
    assert "cxr data prepare" in capsys.readouterr().err
    assert umbrella.main(["completion", "fihs"]) == 2
    assert "did you mean fish?" in capsys.readouterr().err
    absent = umbrella.Command("no_such_package.cli:main", "no_such_package.config:C", "none", "cxr-none")
    monkeypatch.setitem(umbrella.COMMANDS, "none", absent)
    assert umbrella.main(["none"]) == 2
    assert "pip install 'cxr-none'" in capsys.readouterr().err
    assert "none" not in completion.words()


def test_a_fault_within_a_package_is_no_missing_package(monkeypatch, tmp_path):
    (tmp_path / "half_there.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        umbrella.load("half_there:main", "predict")


def test_completion_knows_commands_and_options():
    words = completion.words()
    assert {"data", "predict", "completion"} <= set(words[""])
    assert {"--help", "--out", "--heatmaps"} <= set(words["predict"])
    assert {"prepare", "audit"} <= set(words["data"])
    assert "--size" in words["data prepare"]
    with pytest.raises(BadInput, match="completion bash"):
        completion.completion([])


def complete(script: Path, *typed: str) -> set[str]:
    """What bash offers after these words."""
    words = " ".join(f"'{word}'" for word in typed)
    code = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _cxr; "
    code += "printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=script.parent)
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(tmp_path):
    script = tmp_path / "cxr.bash"
    script.write_text(completion.completion(["bash"]))
    (tmp_path / "picture.png").touch()
    assert complete(script, "cxr", "pre") == {"pretrain", "predict"}
    assert complete(script, "cxr", "predict", "--heat") == {"--heatmaps", "--heatmaps_of"}
    assert complete(script, "cxr", "data", "pr") == {"prepare", "preview"}
    assert complete(script, "cxr", "data", "prepare", "--reade") == {"--reader"}
    assert complete(script, "cxr", "predict", "pict") == {"picture.png"}
    assert "picture.png" in complete(script, "cxr", "predict", "--out", "x.csv", "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell, tmp_path):
    script = completion.completion([shell])
    assert "heatmaps" in script
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"no {shell}")
    (tmp_path / "script").write_text(script)
    subprocess.run([program, "-n", str(tmp_path / "script")], check=True)
