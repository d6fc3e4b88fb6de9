import json

import pytest

from cxr_data.command_line.runs import main, stages
from cxr_data.errors import BadInput


def write(folder, identity, done=None, log=()):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(identity))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    if done is not None:
        (folder / "done.json").write_text(json.dumps(done))


@pytest.fixture
def runs(tmp_path):
    ssl = {"stage": "ssl-pretrain", "epochs": 4, "config": {"architecture": "resnet50", "size": 64}}
    own = {"stage": "finetune", "epochs": 9, "architecture": "resnet18", "config": {"size": 96}}
    folder = tmp_path / "runs"
    probed = [{"epoch": 0, "probe_auroc": 0.6}, {"epoch": 1, "probe_auroc": None}]
    write(folder / "a" / "ssl", ssl, log=probed)
    write(folder / "a" / "teacher", own, {"val_auroc": 0.81}, [{"epoch": n, "val_auroc": 0.5} for n in range(1, 10)])
    write(folder / "a" / "teacher.aside-1", own, {"val_auroc": None})
    write(folder / "b" / "deep" / "own", own, log=[{"epoch": 1, "val_auroc": 0.7}, {"epoch": 2, "val_auroc": 0.6}])
    return folder


def test_every_training_is_listed_with_what_it_reached(runs):
    actual = {f"{stage.run}/{stage.name}": stage for stage in stages(runs)}
    assert [(name, stage.state, stage.auroc) for name, stage in actual.items()] == [
        ("a/ssl", "unfinished", 0.6),
        ("a/teacher", "finished", 0.81),
        ("a/teacher.aside-1", "set aside", None),
        ("b/deep/own", "unfinished", 0.7),
    ]
    assert actual["a/ssl"].epochs == (1, 4)
    assert (actual["b/deep/own"].size, actual["b/deep/own"].network) == (96, "resnet18")
    assert actual["a/teacher"].bytes > 100


def test_the_best_come_first_on_request(runs, capsys):
    assert main(["--runs_dir", str(runs), "--sort", "auroc"]) == 0
    said = capsys.readouterr().out
    assert said.index("0.8100") < said.index("0.7000") < said.index("0.6000 (probe)")
    assert main(["b*", "--runs_dir", str(runs)]) == 0
    assert "teacher" not in capsys.readouterr().out


def test_a_damaged_record_costs_no_other_training_its_line(runs):
    (runs / "a" / "teacher" / "done.json").write_text("{")
    (runs / "a" / "ssl" / "run.json").write_text("")
    assert len(stages(runs)) == 4


@pytest.mark.parametrize(
    ("arguments", "says"), [(["c"], "one of these runs: a, b"), (["--sort", "x"], "name or auroc")]
)
def test_bad_input_is_one_message(runs, arguments, says, capsys):
    assert main([*arguments, "--runs_dir", str(runs)]) == 2
    assert says in capsys.readouterr().err


def test_no_runs_is_said(tmp_path):
    with pytest.raises(BadInput, match="nothing there"):
        stages(tmp_path / "none")
    with pytest.raises(BadInput, match="found none"):
        stages(tmp_path)
