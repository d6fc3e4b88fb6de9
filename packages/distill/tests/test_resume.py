"""A run that was stopped goes on to the same bits, with all the state a run can have."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cxr_common.checkpoint import Header, Input, save
from cxr_common.models.zoo import build
from cxr_common.training.accelerator import start as start_engine
from cxr_common.training.processes import anyone
from cxr_common.training.run_folder import open_run
from cxr_data.files import sha256
from cxr_data.progress import Progress
from cxr_distill import train as loop
from cxr_distill.config import DistillConfig, Optim
from cxr_distill.teacher import load_teacher
from cxr_distill.teachers import Guidance

CONFIG = DistillConfig(size=32, batch_size=16, epochs=3, precision="fp32", lr=3e-3, student="test_resnet")
KINDS = {
    "average, mixup, drop path, balanced": (
        {"optim": Optim(ema=0.9, clip=1.0, mixup=0.4, drop_path=0.3, label_smoothing=0.1), "imbalance": "balanced"},
        {"kd": 0.9, "fitnets": 1.0},
    ),
    "recorded, reused classifier, layerwise": (
        {"optim": Optim(ema=0.9), "mode": "layerwise", "teacher_views": 2, "imbalance": "logit_adjust"},
        {"simkd": 1.0, "kd": 0.5},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_between_two_steps_it_goes_on_to_the_same_bits(tmp_path, toy_cohort, monkeypatch, kind) -> None:
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    changes, losses = KINDS[kind]
    torch.manual_seed(1)
    given = Header("model", "test_resnet", Input(32, 0.5, 0.2), task="multiclass", labels=("NORMAL", "PNEUMONIA"))
    save(tmp_path / "t.safetensors", build("test_resnet", 2, size=32), given)
    stages = ["stage4"] if "fitnets" in losses else ["pooled"]
    config = replace(CONFIG, **changes)

    def run(folder: str) -> Path:
        teacher = load_teacher(tmp_path / "t.safetensors", given.labels, "multiclass", stages)
        guide = Guidance((teacher,), losses, 0.1, None, "stage4", view_sets=config.teacher_views)
        where = tmp_path / folder
        loop.train(config, "test_resnet", where, toy_cohort, start_engine("fp32"), guidance=guide)
        return where

    whole = run("whole")
    asked = []

    def stops_at_the_fifth(requested, step, accelerator) -> bool:
        if not step:  # between two epochs, whether to save
            return anyone(requested, step, accelerator)
        asked.append(None)
        return len(asked) == 5

    monkeypatch.setattr(loop, "anyone", stops_at_the_fifth)
    with pytest.raises(SystemExit):
        run("cut")
    assert (tmp_path / "cut" / "state.pt").exists()
    torch.manual_seed(99)  # a new process has another state
    cut = run("cut")
    assert len(asked) > 5
    assert sha256(cut / "model.safetensors") == sha256(whole / "model.safetensors")
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    line = json.loads((cut / "metrics.jsonl").read_text().splitlines()[0])
    assert line["task_share"] + sum(line[f"{name}_share"] for name in losses) == pytest.approx(1)


def test_a_loss_that_drowns_the_others_is_named_once(capsys) -> None:
    at: dict = {"drowning": []}
    progress = Progress("s", 2, 1)
    for share in (0.5, 0.97, 0.99):
        loop._warn({"kd_share": share, "task_share": 1 - share}, at, progress, "s")
    said = capsys.readouterr().out
    assert said.count("warning") == 1
    assert "kd makes up 97.0 % of the gradient; lower --loss kd=..." in said
    assert at["drowning"] == ["kd"]


def test_the_scale_of_half_precision_comes_back(tmp_path) -> None:
    def parts() -> dict:
        module = nn.Linear(2, 2)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
        return {"student": module, "optimizer": optimizer, "average": None, "scaler": scaler}

    first = parts()
    for _ in range(3):
        loss = first["student"](torch.ones(1, 2)).sum()
        first["scaler"].scale(loss).backward()
        first["scaler"].step(first["optimizer"])
        first["scaler"].update()
    run = open_run(tmp_path / "run", {"a": 1}, {"a": 1})
    alone = start_engine("fp32")
    loop._save(run, first, {"epoch": 1, "step": 3}, alone)
    second = parts()
    at = loop._resume(run, second, alone)
    run.close()
    assert (at["epoch"], at["step"], at["sums"]) == (1, 3, {})
    assert second["scaler"].state_dict() == first["scaler"].state_dict()
    assert second["scaler"].get_scale() == 16.0
    assert torch.equal(second["student"].weight, first["student"].weight)
