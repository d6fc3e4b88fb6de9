"""The last epochs in 8 bits."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxr_common import checkpoint
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_distill import stages
from cxr_distill import train as loop
from cxr_distill.config import DistillConfig, FinetuneConfig, Optim

OPTIONS: dict[str, Any] = {"size": 32, "batch_size": 16, "precision": "fp32", "lr": 3e-3, "run": "r"}


@pytest.fixture
def places(tmp_path, toy_folder, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    return {"data": toy_folder, "runs_dir": str(tmp_path / "runs")}


@pytest.mark.slow
def test_a_student_is_trained_on_in_8_bits_and_resumes_to_the_same_bits(places, tmp_path, monkeypatch):
    stages.finetune(FinetuneConfig(**OPTIONS, **places, epochs=1, architecture="test_resnet"))
    config = DistillConfig(
        **OPTIONS, **places, epochs=1, student="test_efficientnet", cached_views=1, optim=Optim(ema=0.9)
    )
    float_model = stages.distill(config)
    digest = sha256(float_model)
    in_bits = replace(config, bits=8, bits_epochs=2)
    assert stages.distill(in_bits) == float_model
    assert sha256(float_model) == digest  # it was finished, and stays
    whole = float_model.parent.with_name("test_efficientnet-8bit")
    _, header = checkpoint.load(whole / "model.safetensors", kind="model")
    assert header.bits == {"activations": 8, "weights": 7}
    assert {"float", "teacher"} <= {one["role"] for one in header.parents}
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == 2

    kept = (sha256(whole / "model.safetensors"), (whole / "metrics.jsonl").read_text())
    whole.rename(tmp_path / "kept")
    taken, train_step = [], loop.train_step

    def interrupted(state, batch):
        taken.append(None)
        if len(taken) == 5:
            signal.raise_signal(signal.SIGTERM)
        return train_step(state, batch)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(SystemExit):
        stages.distill(in_bits)
    assert (whole / "state.pt").exists()
    stages.distill(in_bits)
    assert (sha256(whole / "model.safetensors"), (whole / "metrics.jsonl").read_text()) == kept


def test_without_epochs_only_the_ranges_are_taken(places):
    config = FinetuneConfig(**OPTIONS, **places, epochs=1, architecture="test_resnet", seed=3, name="net-seed3")
    config = replace(config, bits=8, bits_epochs=0)
    model = stages.finetune(config)
    folder = Path(model.parent).with_name("net-ptq-seed3")
    done = json.loads((folder / "done.json").read_text())
    assert done["epochs"] == 0
    assert done["val_auroc"] is not None
    network, header = checkpoint.load(folder / "model.safetensors", kind="model")
    of_float = checkpoint.describe(model)
    assert header.bits
    assert of_float.bits is None
    assert header.calibration != of_float.calibration  # fitted on the 8-bit answers
    assert (network.network.ranges[:, 1] > network.network.ranges[:, 0]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 4}, "8 bits"),
        ({"bits": 8, "weight_bits": 6}, "7 or 8"),
        ({"bits": 8, "bits_epochs": -1}, "--bits_epochs"),
        ({"bits": 8, "mode": "linear"}, "--bits_epochs 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, said):
    with pytest.raises(BadInput, match=said):
        FinetuneConfig(**options)
