import subprocess
import sys

import pytest

from cxr_data.errors import BadInput
from cxr_deploy import extras

WITHOUT = """
import importlib.abc, importlib.util, sys
class Fence(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Fence())
known = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {missing} else known(name, package)
"""


def without(missing: set[str], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code where some modules are not installed."""
    text = WITHOUT.replace("{missing}", repr(missing)) + code
    return subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, check=False)


def test_an_extra_that_is_installed_is_no_matter():
    extras.require("export", "this")
    assert extras.installed("export")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "export", ("no_such_module", "numpy"))
    with pytest.raises(BadInput, match=r"no no_such_module\n.*pip install 'cxr-deploy\[export\]'"):
        extras.require("export", "this")


@pytest.mark.parametrize(
    ("command", "arguments"), [("export_model", ["model.safetensors"]), ("predict", ["torch", "image.png"])]
)
def test_commands_name_the_extra_they_lack(command, arguments, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "model.safetensors").touch()
    (tmp_path / "image.png").touch()
    arguments = [str(tmp_path / argument) for argument in arguments]
    code = f"from cxr_deploy.cli import {command}\nsys.exit({command}(sys.argv[1:]))"
    done = without({"torch", "onnx", "cxr_common"}, code, *arguments)
    assert done.returncode == 2, done.stderr
    assert "cxr-deploy[export]" in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_a_part_names_the_extra():
    done = without({"torch"}, "import cxr_deploy.export.convert")
    assert "BadInput" in done.stderr
    assert "pip install 'cxr-deploy[export]'" in done.stderr
