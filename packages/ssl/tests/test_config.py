import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from cxr_data.command import config_dict, parse
from cxr_data.errors import BadInput
from cxr_ssl.cli import main
from cxr_ssl.config import PRESETS, Crops, PretrainConfig, Schedule, preset


def told(*arguments: str) -> PretrainConfig:
    return parse(PretrainConfig, prog="ssl-pretrain", description="d", argv=arguments, presets=PRESETS)


def test_a_command_line_becomes_a_config():
    config = told("--size", "224", "--crops.local_size", "96", "--crops.global_scale", "[0.2, 1.0]", "--queue", "0")
    assert config == PretrainConfig(size=224, crops=Crops(local_size=96, global_scale=(0.2, 1.0)), queue=0)
    assert config.local_size == 96
    assert told("--queue", "null").queue is None
    assert len(fields(PretrainConfig)) <= 30


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_defaults_and_flags_win(name, tmp_path):
    assert told("--preset", name) == preset(name)
    assert told(f"--preset={name}", "--epochs", "7").epochs == 7
    assert told("--epochs", "7", "--preset", name) == preset(name, epochs=7)
    (tmp_path / "config.yaml").write_text(f"preset: {name}\nlr: 0.25\n")
    assert told("--config", str(tmp_path / "config.yaml")) == preset(name, lr=0.25)
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(config_dict(preset(name, epochs=3))))
    assert told("--config", str(tmp_path / "whole.yaml")) == preset(name, epochs=3)


def test_the_preset_of_the_paper_is_its_recipe():
    paper = preset("paper-256")
    assert paper.crops == Crops(2, 6, 96, (0.14, 1.0), (0.05, 0.14))
    assert (paper.size, paper.local_size, paper.batch_size, paper.epochs) == (224, 96, 256, 200)
    assert (paper.optimizer, paper.lr, paper.weight_decay, paper.weight_decay_end) == ("larc", 0.6, 1e-6, None)
    assert (paper.prototypes, paper.embedding, paper.queue, paper.freeze) == (3000, 128, 15, 5005)
    assert (paper.temperature, paper.epsilon, paper.standardise) == (0.1, 0.05, False)
    assert paper.schedule == Schedule(warmup=0.0, queue_start=15.0)
    assert told("--preset", "paper-256", "--schedule.queue_start", "3").schedule == Schedule(0.0, 3.0)


def test_presets_know_their_names():
    with pytest.raises(BadInput, match="did you mean cxr"):
        preset("cxrr")
    with pytest.raises(BadInput, match="did you mean epochs"):
        preset("cxr", epoch=3)


def test_a_local_view_is_half_a_global_one_unless_told():
    assert told("--size", "96").local_size == 48
    assert told("--size", "32").local_size == 24


def test_a_config_survives_yaml(tmp_path):
    config = PretrainConfig(freeze=150, crops=Crops(local_count=4), start="random")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_dict(config)))
    assert told("--config", str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["--epsilon", "0"], "--epsilon"),
        (["--prototypes", "1"], "--prototypes"),
        (["--batch_size", "1"], "--batch_size"),
        (["--crops.global_count", "1"], "--crops.global_count"),
        (["--crops.local_scale", "[0.5, 0.2]"], "--crops.local_scale"),
        (["--run", "../elsewhere"], "--run"),
        (["--name", ""], "--name"),
        (["--lr", "-1"], "--lr"),
        (["--weight_decay_end", "-1"], "--weight_decay_end"),
        (["--accumulate", "0"], "--accumulate"),
        (["--accumulate", "20"], "--accumulate"),
        (["--schedule.warmup", "-1"], "--schedule.warmup"),
    ],
)
def test_bad_values_name_their_option(arguments, where):
    with pytest.raises(BadInput) as caught:
        told(*arguments)
    assert caught.value.where == where


def test_misspelt_names_get_a_suggestion():
    with pytest.raises(BadInput, match="adamw"):
        told("--optimizer", "adam")
    with pytest.raises(BadInput, match="paper-256"):
        told("--preset", "paper256")
    with pytest.raises(BadInput, match="stop"):
        told("--on_collapse", "stopp")


def test_bad_input_is_exit_code_2_without_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ssl-pretrain", "--epochs", "-3"])
    assert main() == 2
    error = capsys.readouterr().err
    assert "error: expected 0 (automatic) or more epochs, found -3" in error
    assert "Traceback" not in error


def test_help_imports_no_heavy_library():
    code = (
        "import sys\nfrom cxr_ssl.cli import main\nsys.argv = ['ssl-pretrain', '--help']\n"
        "try:\n    main()\nfinally:\n"
        "    print([m for m in ('torch', 'torchvision', 'sklearn', 'timm', 'lightly', 'matplotlib')"
        " if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--prototypes" in done.stdout
    assert done.stdout.strip().endswith("[]")
