import sys
from dataclasses import fields

import pytest
import yaml

from cxr_data.command_line.command import config_dict, parse
from cxr_data.errors import BadInput
from cxr_ssl.cli import main
from cxr_ssl.config import PRESETS, Crops, PretrainConfig, preset
from cxr_ssl.methods.dino import DINOConfig
from cxr_ssl.methods.swav import SwAVConfig


def parsed(*arguments: str) -> PretrainConfig:
    return parse(PretrainConfig, prog="ssl-pretrain", argv=arguments, presets=PRESETS)


def test_a_command_line_becomes_a_config():
    config = parsed(
        "--size", "224", "--crops.local_size", "96", "--crops.global_scale", "[0.2, 1.0]", "--swav.queue", "0"
    )
    crops = Crops(local_size=96, global_scale=(0.2, 1.0))
    assert config == PretrainConfig(size=224, crops=crops, swav=SwAVConfig(queue=0))
    assert config.local_size == 96
    assert parsed("--swav.queue", "null").swav.queue is None
    assert parsed("--method", "dino", "--dino.momentum", "0.9").method_options == DINOConfig(momentum=0.9)


@pytest.mark.parametrize("method", PretrainConfig().methods)
def test_every_method_has_documented_options(method, capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for option in fields(PretrainConfig(method=method).method_options):  # type: ignore[arg-type] - a dataclass
        help_text = shown.rpartition(f"--{method}.{option.name} ")[2].partition("--")[0]
        assert len(help_text.partition("(type:")[0].split()) > 4, option.name


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_defaults_and_flags_win(name, tmp_path):
    assert parsed("--preset", name) == preset(name)
    assert parsed(f"--preset={name}", "--epochs", "7").epochs == 7
    assert parsed("--epochs", "7", "--preset", name) == preset(name, epochs=7)
    (tmp_path / "config.yaml").write_text(f"preset: {name}\nlr: 0.25\n")
    assert parsed("--config", str(tmp_path / "config.yaml")) == preset(name, lr=0.25)
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(config_dict(preset(name, epochs=3))))
    assert parsed("--config", str(tmp_path / "whole.yaml")) == preset(name, epochs=3)


def test_the_preset_of_the_paper_is_its_recipe():
    paper = preset("paper-256")
    assert paper.crops == Crops(2, 6, 96, (0.14, 1.0), (0.05, 0.14))
    assert (paper.size, paper.local_size, paper.batch_size, paper.epochs) == (224, 96, 256, 200)
    assert (paper.optimizer, paper.lr, paper.weight_decay, paper.weight_decay_end) == ("larc", 0.6, 1e-6, None)
    assert paper.swav == SwAVConfig(3000, 128, False, 15, 15.0, 5005, 0.1, 0.05)
    assert paper.warmup == 0.0
    assert parsed("--preset", "paper-256", "--swav.queue_start", "3").swav.queue_start == 3.0


def test_presets_know_their_names():
    with pytest.raises(BadInput, match="did you mean cxr"):
        preset("cxrr")
    with pytest.raises(BadInput, match="did you mean epochs"):
        preset("cxr", epoch=3)


def test_a_local_crop_is_half_a_global_one_unless_parsed():
    assert parsed("--size", "96").local_size == 48
    assert parsed("--size", "32").local_size == 24


def test_a_config_survives_yaml(tmp_path):
    config = PretrainConfig(swav=SwAVConfig(freeze=150), crops=Crops(local_count=4), start="random")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_dict(config)))
    assert parsed("--config", str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["--swav.epsilon", "0"], "--swav.epsilon"),
        (["--swav.prototypes", "1"], "--swav.prototypes"),
        (["--dino.momentum", "1"], "--dino.momentum"),
        (["--byol.hidden", "0"], "--byol.hidden"),
        (["--batch_size", "1"], "--batch_size"),
        (["--crops.global_count", "1"], "--crops.global_count"),
        (["--crops.local_scale", "[0.5, 0.2]"], "--crops.local_scale"),
        (["--run", "../elsewhere"], "--run"),
        (["--name", ""], "--name"),
        (["--lr", "-1"], "--lr"),
        (["--weight_decay_end", "-1"], "--weight_decay_end"),
        (["--accumulate", "0"], "--accumulate"),
        (["--accumulate", "20"], "--accumulate"),
        (["--warmup", "-1"], "--warmup"),
        (["--epochs", "0"], "--epochs"),
    ],
)
def test_bad_values_name_their_option(arguments, where):
    with pytest.raises(BadInput) as caught:
        parsed(*arguments)
    assert caught.value.where == where


def test_misspelt_names_get_a_suggestion():
    with pytest.raises(BadInput, match="adamw"):
        parsed("--optimizer", "adam")
    with pytest.raises(BadInput, match="paper-256"):
        parsed("--preset", "paper256")
    with pytest.raises(BadInput, match="did you mean dino"):
        parsed("--method", "dinno")
    with pytest.raises(BadInput, match="stop"):
        parsed("--on_collapse", "stopp")


def test_bad_input_is_exit_code_2_without_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ssl-pretrain", "--epochs", "-3"])
    assert main() == 2
    error = capsys.readouterr().err
    assert "error: expected 1 or more epochs, or null, found -3" in error
    assert "Traceback" not in error
