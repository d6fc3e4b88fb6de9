import pytest

from cxr_eval.cli import main


def test_a_wrong_split_is_bad_input(capsys):
    assert main(["--split", "tests"]) == 2
    assert "did you mean test" in capsys.readouterr().err


def test_config_can_be_printed(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["a.safetensors", "--seed", "3", "--print_config"])
    assert caught.value.code == 0
    assert "seed: 3" in capsys.readouterr().out
