"""A run that was stopped resumes to the same bits, with all the state a run can have."""

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cxr_common.checkpoint import Header, Input, describe, save
from cxr_common.models.zoo import build
from cxr_common.training.accelerator import start as start_engine
from cxr_common.training.state import TrainState
from cxr_data.files import sha256
from cxr_distill import train as loop
from cxr_distill.config import DistillConfig, FinetuneConfig, Optim
from cxr_distill.losses import build_losses
from cxr_distill.teacher import load_teacher
from cxr_distill.teachers import Distillation

CONFIG = DistillConfig(size=32, batch_size=16, epochs=3, precision="fp32", lr=3e-3, student="test_resnet")
KINDS = {
    "average, mixup, drop path, balanced": (
        {"optim": Optim(ema=0.9, clip=1.0, mixup=0.4, drop_path=0.3, label_smoothing=0.1), "imbalance": "balanced"},
        {"kd": 0.9, "fitnets": 1.0},
    ),
    "recorded, reused classifier, layerwise": (
        {"optim": Optim(ema=0.9), "mode": "layerwise", "cached_views": 2, "imbalance": "logit_adjust"},
        {"simkd": 1.0, "kd": 0.5},
    ),
}


@pytest.mark.parametrize(("kind", "number"), list(zip(KINDS, (signal.SIGTERM, signal.SIGINT), strict=True)))
def test_stopped_between_two_steps_it_resumes_to_the_same_bits(tmp_path, toy_cohort, monkeypatch, kind, number) -> None:
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    changes, losses = KINDS[kind]
    torch.manual_seed(1)
    given = Header("model", "test_resnet", Input(32, 0.5, 0.2), task="multiclass", labels=("NORMAL", "PNEUMONIA"))
    save(tmp_path / "t.safetensors", build("test_resnet", 2, size=32), given)
    names = ["level4"] if "fitnets" in losses else ["pooled"]
    config = replace(CONFIG, **changes)

    def run(folder: str) -> Path:
        teacher = load_teacher(tmp_path / "t.safetensors", given.labels, "multiclass", names)
        guide = Distillation((teacher,), build_losses(losses), 0.1, cached_views=config.cached_views)
        where = tmp_path / folder
        loop.train(config, "test_resnet", where, toy_cohort, start_engine("fp32"), distillation=guide)
        return where

    whole = run("whole")
    taken, train_step = [], loop.train_step

    def interrupted_in_the_fifth(state, batch):
        taken.append(None)
        if len(taken) == 5:
            signal.raise_signal(number)
        return train_step(state, batch)

    monkeypatch.setattr(loop, "train_step", interrupted_in_the_fifth)
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
        run("cut")
    assert len(taken) == 5
    assert (tmp_path / "cut" / "state.pt").exists()
    torch.manual_seed(99)  # a new process has another state
    cut = run("cut")
    assert sha256(cut / "model.safetensors") == sha256(whole / "model.safetensors")
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    line = json.loads((cut / "metrics.jsonl").read_text().splitlines()[0])
    assert line["task_share"] + sum(line[f"{name}_share"] for name in losses) == pytest.approx(1)


def test_a_loss_that_dominates_the_others_is_named_once(capsys) -> None:
    state: Any = SimpleNamespace(warned=[])
    session: Any = SimpleNamespace(say=print)
    for share in (0.5, 0.97, 0.99):
        loop._warn_of_dominating_loss({"kd_share": share, "task_share": 1 - share}, state, session)
    said = capsys.readouterr().out
    assert said.count("warning") == 1
    assert "kd makes up 97.0 % of the gradient; lower --loss kd=..." in said
    assert state.warned == ["kd"]


def test_the_scale_of_half_precision_comes_back() -> None:
    def new_state() -> Any:
        module = nn.Linear(2, 2)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        accelerator: Any = SimpleNamespace(
            scaler=scaler, num_processes=1, process_index=0, gather=lambda tensor: tensor
        )
        accelerator.device = torch.device("cpu")
        return TrainState(module, module, torch.optim.AdamW(module.parameters(), lr=0.1), accelerator)

    first, second = new_state(), new_state()
    for _ in range(3):
        loss = first.model(torch.ones(1, 2)).sum()
        first.accelerator.scaler.scale(loss).backward()
        first.accelerator.scaler.step(first.optimizer)
        first.accelerator.scaler.update()
    second.load_state_dict(first.state_dict())
    assert second.accelerator.scaler.state_dict() == first.accelerator.scaler.state_dict()
    assert second.accelerator.scaler.get_scale() == 16.0


def test_a_finished_run_is_extended_from_its_last_epoch(tmp_path, toy_cohort, capsys) -> None:
    config = FinetuneConfig(size=32, batch_size=16, epochs=2, precision="fp32", keep_state=True)
    folder = tmp_path / "s"
    for changes in ({}, {"epochs": 4, "extend": True}):
        loop.train(replace(config, **changes), "test_resnet", folder, toy_cohort, start_engine("fp32"))
    assert "resumes in epoch 3" in capsys.readouterr().out
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    chart = (folder / "curves.html").read_text()
    drawn = re.findall(r'<path class="line s\d" d="M[^H"]*"', chart)  # lines of legends have an H
    assert len(drawn) == 5  # AUROC, two losses, the loss on labels, the learning rate
    assert lines[1]["lr"] < lines[2]["lr"]  # the schedule is that of the longer run
    assert describe(folder / "model.safetensors").metrics["extended_after_epochs"] == [2]
