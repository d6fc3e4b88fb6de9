import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cxr_common.checkpoint import Header, Input, describe, load, save
from cxr_common.models.pretrained import Pretrained
from cxr_common.models.zoo import build
from cxr_common.training.accelerator import start as start_engine
from cxr_data.cohorts.cohort import save as save_cohort
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_data.models.header import TRAINING_IMAGES
from cxr_distill import stages
from cxr_distill.config import DistillConfig, FinetuneConfig
from cxr_distill.losses import FitNets, Interface, build_adapters, build_losses
from cxr_distill.plan import automatic_epochs, automatic_lr
from cxr_distill.teacher import classifier_weight, load_teacher
from cxr_distill.teachers import Distillation
from cxr_distill.train import train

SCRIPT = str(Path(__file__).parent / "whole_run.py")
KILLED = pytest.param(signal.SIGKILL, marks=pytest.mark.slow)
STOPPED = (signal.SIGTERM, signal.SIGINT)  # in this process too: test_resume.py
SMALL = {"size": 32, "batch_size": 16, "epochs": 3, "precision": "fp32", "lr": 3e-3}


def finetuned(folder: Path, cohort, **changes) -> Path:
    config = FinetuneConfig(**{**SMALL, "architecture": "test_resnet", **changes})
    return train(config, config.architecture, folder, cohort, start_engine("fp32"))


def distillation(path: Path, losses: Mapping[str, Any], **changes) -> Distillation:
    stages = ("level4",) if "fitnets" in losses else ()
    teacher = load_teacher(path, ("NORMAL", "PNEUMONIA"), "multiclass", stages)
    return Distillation((teacher,), build_losses(losses), **{"task_weight": 0.1, **changes})


def test_it_learns_and_says_what_it_is(tmp_path, toy_cohort) -> None:
    path = finetuned(tmp_path / "teacher", toy_cohort, epochs=12)
    header = describe(path)
    lines = [json.loads(line) for line in (tmp_path / "teacher" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    best = max(lines, key=lambda line: (round(line["val_auroc"], 6), -line["val_loss"]))
    assert header.metrics["epoch"] == best["epoch"]
    assert header.metrics["val_auroc"] == best["val_auroc"] > 0.9
    assert header.labels == ("NORMAL", "PNEUMONIA")
    assert header.cohort is not None
    assert header.cohort["fingerprint"] == toy_cohort.fingerprint
    assert header.input.pixels == {"aspect": "squash", "window": "full"}
    assert sum(filter(None, header.thresholds or ())) == pytest.approx(1)
    assert not (tmp_path / "teacher" / "state.pt").exists()
    page = (tmp_path / "teacher" / "curves.html").read_text()
    assert all(f"<figcaption>{title}" in page for title in ("Validation AUROC", "Loss", "Learning rate"))
    assert "undefined in this run" not in page
    # The test split is never looked at: with other test pixels the very same file comes out.
    pixels = toy_cohort.pixels.copy()
    pixels[toy_cohort.rows("test")] = 0
    again = finetuned(tmp_path / "again", replace(toy_cohort, pixels=pixels), epochs=12)
    assert sha256(again) == sha256(path)


def test_student_learns_from_the_teacher_alone_and_saves_no_adapter(tmp_path, toy_cohort) -> None:
    teacher = finetuned(tmp_path / "teacher", toy_cohort, epochs=12)
    before = sha256(teacher)
    config = DistillConfig(**{**SMALL, "epochs": 12}, student="test_resnet", loss={"kd": 1.0, "fitnets": 1.0})
    guide = distillation(teacher, dict(config.loss), task_weight=0.0)
    path = train(config, "test_resnet", tmp_path / "student", toy_cohort, start_engine("fp32"), distillation=guide)
    lines = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["kd"] < 0.5 * lines[0]["kd"]
    assert lines[-1]["fitnets"] < lines[0]["fitnets"]
    assert lines[-1]["agreement"] > 0.8
    written = {name for name in load_file(path) if not name.startswith(TRAINING_IMAGES)}
    assert written == load(teacher)[0].network.state_dict().keys()
    assert sha256(teacher) == before
    assert not guide.teachers[0].network.training
    assert all(p.grad is None for p in guide.teachers[0].network.parameters())


def test_images_without_labels_are_taught_by_the_teacher(tmp_path, toy_cohort) -> None:
    teacher = finetuned(tmp_path / "teacher", toy_cohort)
    config = DistillConfig(**SMALL, student="test_resnet", label_fraction=0.3)
    guide = distillation(teacher, {"kd": 1.0})
    train(config, "test_resnet", tmp_path / "s", toy_cohort, start_engine("fp32"), distillation=guide)
    alone = finetuned(tmp_path / "alone", toy_cohort, label_fraction=0.3)
    used = [json.loads(Path(p, "done.json").read_text())["train_images"] for p in (tmp_path / "s", alone.parent)]
    assert used[0] == len(toy_cohort.rows("train"))
    assert used[1] < 0.5 * used[0]


def test_a_teacher_with_labels_in_another_order_teaches_the_same(tmp_path, toy_cohort) -> None:
    path = finetuned(tmp_path / "teacher", toy_cohort)
    images = torch.from_numpy(toy_cohort.pixels[:4, :32, :32].copy()).unsqueeze(1)
    straight = load_teacher(path, ("NORMAL", "PNEUMONIA"), "multiclass")(images).logits
    turned = load_teacher(path, ("PNEUMONIA", "NORMAL"), "multiclass")(images).logits
    assert torch.equal(straight.flip(1), turned)
    with pytest.raises(BadInput, match="COVID"):
        load_teacher(path, ("NORMAL", "COVID"), "multiclass")
    with pytest.raises(BadInput, match="multilabel"):
        load_teacher(path, ("NORMAL", "PNEUMONIA"), "multilabel")


def test_starts_with_given_weights_and_a_new_head(tmp_path, toy_cohort) -> None:
    from cxr_distill.student import new_network

    path = finetuned(tmp_path / "teacher", toy_cohort)
    network = new_network("test_resnet", 5, 32, 0.5, 0.2, (Pretrained(path),))
    weights = load(path)[0].network.state_dict()
    assert all(
        torch.equal(v, weights[k]) for k, v in network.network.state_dict().items() if v.shape == weights[k].shape
    )
    weight = classifier_weight(network)
    assert weight is not None
    assert weight.shape[0] == 5
    with pytest.raises(BadInput, match="change the architecture to test_resnet"):
        new_network("resnet18", 2, 32, 0.5, 0.2, (Pretrained(path),))


def test_automatic_epochs() -> None:
    assert [automatic_epochs(s) for s in (1, 21, 75, 2000)] == [30, 29, 8, 8]


def test_automatic_lr(tmp_path, toy_cohort) -> None:
    network = build("test_resnet", 0, size=32)
    save(tmp_path / "backbone.safetensors", network, Header("backbone", "test_resnet", Input(32, 0.5, 0.2)))
    save_file(network.state_dict(), tmp_path / "foreign.safetensors")
    classifier = finetuned(tmp_path / "classifier", toy_cohort, epochs=1)
    others = [Pretrained(path) for path in (tmp_path / "foreign.safetensors", Path("imagenet.pth"), classifier)]
    backbone = Pretrained(tmp_path / "backbone.safetensors")
    assert [automatic_lr(start) for start in ((), (backbone,), (None, backbone))] == [1e-3, 1e-3, 1e-3]
    assert [automatic_lr((start,)) for start in others] == [3e-4, 3e-4, 3e-4]


@pytest.mark.parametrize(
    ("architecture", "least", "most"),
    [
        ("mobilenetv2_100", 4e-3, 5e-3),
        ("tf_efficientnet_lite0", 3e-3, 4.5e-3),
        ("eeea_net_c2", 1.5e-3, 2.5e-3),
        ("resnet18", 1e-3, 1e-3),
        ("resnet34", 1e-3, 1e-3),
        ("convnext_tiny", 1e-3, 1e-3),  # no BatchNorm
        ("vit_tiny_patch16_224", 1e-3, 1e-3),
    ],
)
def test_networks_whose_weights_begin_large_learn_in_larger_steps(architecture, least, most) -> None:
    network = build(architecture, 0)
    assert least <= automatic_lr((), network) <= most
    assert automatic_lr((None,), network) == automatic_lr((), network)
    assert automatic_lr((Pretrained(Path("imagenet.pth")),), network) == 3e-4


def test_done_before_is_not_done_again(tmp_path, toy_cohort, capsys) -> None:
    path = finetuned(tmp_path / "t", toy_cohort)
    stamp = path.stat().st_mtime_ns
    finetuned(tmp_path / "t", toy_cohort)
    assert path.stat().st_mtime_ns == stamp
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(BadInput, match=r"config\.lr was 0\.003, now 0\.1"):
        finetuned(tmp_path / "t", toy_cohort, lr=0.1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, make_toy, typed) -> tuple[Path, list[str]]:
    """A finished distillation, and the words that start it again in another folder: add ``--runs_dir``."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    cohort = make_toy()
    save_cohort(cohort, folder / "cohort")
    teacher = finetuned(folder / "teacher", cohort)
    words = f"--size 32 --batch_size 8 --epochs 6 --precision fp32 --student test_resnet --data {folder / 'cohort'}"
    words += f" --teacher {teacher} --loss kd=0.9 --loss fitnets=1"
    done = typed("distill", *words.split(), "--runs_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder / "quickstart" / "test_resnet", words.split()


@pytest.mark.parametrize("how", [KILLED, *(pytest.param(s, marks=pytest.mark.nightly) for s in STOPPED)])
def test_killed_at_any_moment_it_resumes_to_the_same_bits(uninterrupted, tmp_path, typed, how) -> None:
    whole, start = uninterrupted
    cut = tmp_path / "quickstart" / "test_resnet"
    command = [str(Path(sys.executable).with_name("distill")), *start, "--runs_dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(lines(cut)) >= 2, process)
    os.kill(process.pid, how)
    assert process.wait() in (-how, 128 + how)
    assert (cut / "state.pt").exists()
    assert not (cut / "model.safetensors").exists()
    resumed = typed("distill", *start, "--runs_dir", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert load_file(cut / "model.safetensors").keys() == load_file(whole / "model.safetensors").keys()
    for name, tensor in load_file(whole / "model.safetensors").items():
        assert torch.equal(tensor, load_file(cut / "model.safetensors")[name]), name
    assert lines(cut) == lines(whole)


def lines(folder: Path) -> list[str]:
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition, process: subprocess.Popen, seconds: float = 250) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    "taught", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.nightly)]
)
def test_two_processes_take_the_steps_of_one(tmp_path, toy_cohort, toy_folder, in_two_processes, typed, taught) -> None:
    """Without BatchNorm two processes must give the weights of one (same global batches, averaged gradients)."""
    flags = f"--size 32 --batch_size 8 --epochs 1 --precision fp32 --data {toy_folder}".split()
    flags += ["--start", "random", "--runs_dir", str(tmp_path), "--name", "model"]
    if taught:
        teacher = finetuned(tmp_path / "t", toy_cohort)
        flags += ["--teacher", str(teacher), "--student", "test_vit", "--cached_views", "2", "--optim.ema", "0.5"]
        flags += ["--loss", "kd=0.9", "--loss", "fitnets=1", "--loss", "fitnets.feature=pooled", "--optim.clip", "1"]
    else:
        flags += ["--architecture", "test_vit"]
    command = "distill" if taught else "finetune"
    done = typed(command, *flags, "--run", "one")
    assert done.returncode == 0, done.stderr
    for code, said in in_two_processes(SCRIPT, "0", command, *flags, "--run", "two"):
        assert code == 0, said
    assert json.loads((tmp_path / "two" / "model" / "done.json").read_text())["processes"] == 2
    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-4), name


def test_adapters_fit_student_to_teacher() -> None:
    adapters = build_adapters({FitNets(): 1.0}, Interface({"level4": 8}), Interface({"level4": 16}))
    assert sum(p.numel() for p in adapters.parameters()) == 8 * 16 + 16


def test_the_same_experiment_in_another_folder_is_the_same_file(tmp_path, toy_folder) -> None:
    files = []
    for place in ("here", "there/deeper"):
        config = FinetuneConfig(
            data=str(toy_folder),
            runs_dir=str(tmp_path / place),
            size=32,
            epochs=1,
            architecture="test_resnet",
            workers=1,
        )
        files.append(stages.finetune(config))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert str(tmp_path).encode() not in files[0].read_bytes()
