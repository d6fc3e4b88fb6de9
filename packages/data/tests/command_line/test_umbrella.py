import os
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


OFFERS = {
    "bash": "source ./script; COMP_WORDS=({words}); COMP_CWORD={last}; _cxr; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
    "zsh": "compadd() {{ print -l -- ${{@[2,-1]}} }}; _files() {{ print -l -- * }}; words=({words}); CURRENT={last}+1;"
    " source ./script",
    "fish": 'source script; complete -C"{line}"',
}
"""How to ask a shell what it offers; zsh's own functions, which need a terminal, print instead."""


@pytest.mark.parametrize("shell", OFFERS)
def test_shells_complete(shell, tmp_path):
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"no {shell}")
    (tmp_path / "script").write_text(completion.completion([shell]))
    (tmp_path / "picture.png").touch()

    def offered(*typed: str) -> set[str]:
        words, line = " ".join(f"'{word}'" for word in typed), " ".join(typed)
        code = OFFERS[shell].format(words=words, line=line, last=len(typed) - 1)
        environment = {**os.environ, "HOME": str(tmp_path), "TERM": "dumb"}
        done = subprocess.run([program, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert not done.stderr
        return {word for word in done.stdout.split() if word.startswith(typed[-1])}

    assert offered("cxr", "pre") == {"pretrain", "predict"}
    assert offered("cxr", "completion", "") == {"bash", "zsh", "fish"}
    assert offered("cxr", "predict", "--heat") == {"--heatmaps", "--heatmaps_of"}
    assert offered("cxr", "data", "p") == {"prepare", "preview"}
    assert offered("cxr", "data", "prepare", "--reade") == {"--reader"}
    assert not offered("cxr", "data", "audit", "prepare", "--reade")  # "prepare" is a folder's name here
    assert offered("cxr", "evaluate", "data", "p") == {"picture.png"}
    assert "picture.png" in offered("cxr", "predict", "--out", "x.csv", "")
