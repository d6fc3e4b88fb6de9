import subprocess
import sys

import pytest

from cxr_eval.cli import main


def test_help_names_every_option_without_heavy_imports():
    code = (
        "import sys\n"
        "from cxr_eval.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'timm', 'matplotlib', 'polars'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    actual = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert actual.returncode == 0, actual.stderr
    for option in ("MODELS", "--data", "--run", "--resamples", "--threads"):
        assert option in actual.stdout


def test_a_wrong_split_is_bad_input(capsys):
    assert main(["--split", "tests"]) == 2
    assert "did you mean test" in capsys.readouterr().err


def test_config_can_be_printed(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["a.safetensors", "--seed", "3", "--print_config"])
    assert caught.value.code == 0
    assert "seed: 3" in capsys.readouterr().out
