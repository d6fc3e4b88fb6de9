import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cxr_common.checkpoint import Header, Input, save
from cxr_common.models.zoo import build

SCRIPT = str(Path(__file__).parent / "whole_run.py")

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_a_sigterm_to_one_of_two_processes_stops_both_and_both_go_on_exactly(tmp_path, toy_folder, in_two_processes):
    """With batch statistics, and averages of them, of each process's own."""
    flags = f"--data {toy_folder} --runs_dir {tmp_path} --name model --size 32 --batch_size 4 --epochs 2".split()
    flags += ["--architecture", "test_resnet", "--start", "random", "--precision", "fp32", "--optim.ema", "0.9"]
    for code, said in in_two_processes(SCRIPT, "0", "finetune", *flags, "--run", "whole"):
        assert code == 0, said
    for code, said in in_two_processes(SCRIPT, "15", "finetune", *flags, "--run", "cut"):
        assert code == 143, said
    assert (tmp_path / "cut" / "model" / "state.pt").exists()
    for code, said in in_two_processes(SCRIPT, "0", "finetune", *flags, "--run", "cut"):
        assert code == 0, said
    whole, cut = (tmp_path / run / "model" for run in ("whole", "cut"))
    assert all(json.loads((folder / "done.json").read_text())["processes"] == 2 for folder in (whole, cut))
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_what_two_processes_began_one_finishes(tmp_path, toy_folder, in_two_processes):
    labels = ("NORMAL", "PNEUMONIA")
    given = Header("model", "test_resnet", Input(32, 0.5, 0.2), task="multiclass", labels=labels)
    save(tmp_path / "t.safetensors", build("test_resnet", 2, size=32), given)
    flags = f"--data {toy_folder} --runs_dir {tmp_path} --run two --name student --size 32 --batch_size 4".split()
    flags += f"--teacher {tmp_path}/t.safetensors --student test_resnet --start random --epochs 2".split()
    flags += ["--precision", "fp32", "--optim.ema", "0.9"]
    for code, said in in_two_processes(SCRIPT, "15", "distill", *flags):
        assert code == 143, said
    folder = tmp_path / "two" / "student"
    assert (folder / "state.pt").exists()
    done = subprocess.run([sys.executable, SCRIPT, "0", "distill", *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "begun with 2 processes, resumed with 1" in done.stdout
    assert json.loads((folder / "done.json").read_text())["processes"] == 1
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "loss" in line] == [1, 2]
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "model.safetensors").values())


def test_two_processes_end_with_one_gain_and_one_summary_of_the_seeds(tmp_path, toy_folder, in_two_processes):
    """With weights of 0, which leave an adapter and the classifier without a gradient to wait for."""
    labels = ("NORMAL", "PNEUMONIA")
    given = Header("model", "test_resnet", Input(32, 0.5, 0.2), task="multiclass", labels=labels)
    save(tmp_path / "t.safetensors", build("test_resnet", 2, size=32), given)
    flags = f"--data {toy_folder} --runs_dir {tmp_path} --run two --name student --size 32 --batch_size 8".split()
    flags += f"--teacher {tmp_path}/t.safetensors --student test_vit --start random --epochs 1".split()
    flags += [
        "--loss",
        "pkt=1",
        "--loss",
        "fitnets=0",
        "--task_weight",
        "0",
        "--control",
        "--seeds",
        "0,1",
        "--precision",
        "fp32",
    ]
    said = []
    for code, words in in_two_processes(SCRIPT, "0", "distill", *flags):
        assert code == 0, words
        said.append(words)
    assert sorted("2 seeds: gain" in words for words in said) == [False, True]
    assert json.loads((tmp_path / "two" / "student-seeds.json").read_text())["seeds"] == [0, 1]
    assert json.loads((tmp_path / "two" / "student-seed0" / "done.json").read_text())["processes"] == 2


def test_a_signal_stops_two_processes_also_where_an_epoch_has_few_steps(tmp_path, toy_folder, in_two_processes):
    """Of 14 steps an epoch at batch 4, but only of 3 at batch 20: fewer than the steps after which they ask."""
    flags = f"--data {toy_folder} --runs_dir {tmp_path} --name model --size 32 --batch_size 20 --epochs 6".split()
    flags += ["--architecture", "test_vit", "--start", "random", "--precision", "fp32", "--run", "few"]
    for code, said in in_two_processes(SCRIPT, "2", "finetune", *flags):
        assert code == 143, said
    lines = (tmp_path / "few" / "model" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1


def test_a_loss_that_is_nan_in_one_process_stops_both_and_the_log_is_the_mean_of_both(
    tmp_path, toy_folder, in_two_processes
):
    flags = f"--data {toy_folder} --runs_dir {tmp_path} --name model --size 32 --batch_size 20 --epochs 1".split()
    flags += ["--architecture", "test_vit", "--start", "random", "--precision", "fp32"]
    for code, said in in_two_processes(SCRIPT, "0", "finetune", *flags, "--run", "sound"):
        assert code == 0, said
    subprocess.run([str(Path(sys.executable).with_name("finetune")), *flags, "--run", "one"], check=True)
    losses = [
        json.loads((tmp_path / run / "model" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for run in ("sound", "one")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for code, said in in_two_processes(SCRIPT, "nan", "finetune", *flags, "--run", "diverged"):
        assert code == 2, said
        assert "expected a finite loss" in said
