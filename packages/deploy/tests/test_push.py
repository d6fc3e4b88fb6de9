"""A model as a repository of the Hub: the folder, its upload, and a way back."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from exports import write_onnx
from safetensors import safe_open
from safetensors.torch import load_file

import cxr_deploy
from cxr_common import checkpoint
from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_data.models.header import describe
from cxr_deploy.config import PushConfig
from cxr_deploy.push import push

FILES = {"README.md", "config.json", "model.onnx", "model.safetensors"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder that `model` copies."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    start = folder / "rad" / "backbone.safetensors"
    checkpoint.save(
        start, build("test_resnet", 0, size=32), Header("backbone", "test_resnet", Input(32, 0.5, 0.2), licence="MSRLA")
    )
    network = build("test_resnet", 2, size=32)
    header = Header(
        "model", "test_resnet", Input(32, 0.45, 0.25), task="multiclass", labels=("NORMAL", "PNEUMONIA"),
        thresholds=(0.45, 0.55), cohort={"pixel_size": 64, "name": "toy"}, parents=(checkpoint.parent("start", start),),
    )  # fmt: skip
    path = folder / "run" / "resnet" / "model.safetensors"
    digest = checkpoint.save(path, network, header)
    gray = GrayNetwork(network, 0.45, 0.25).eval()
    source = {"file": path.name, "sha256": digest}
    write_onnx(gray, describe(path), path.parent / "export" / "model.onnx", source=source)
    return folder


@pytest.fixture
def model(made, tmp_path) -> Path:
    """A model of a run, with an export and an ancestor that is not for commercial use."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run" / "resnet" / "model.safetensors"


def matter(folder: Path) -> dict[str, object]:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_the_folder_of_a_model_without_a_report_answers_like_the_model(model, capsys) -> None:
    folder = push(PushConfig(models=[str(model.parent)], licence="CC-BY-4.0"))
    assert sorted(one.name for one in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.onnx",
        "model.safetensors",
    ]
    assert sha256(folder / "model.safetensors") == sha256(model)
    about = json.loads((folder / "config.json").read_text())
    assert (about["architecture"], about["labels"]) == ("test_resnet", ["NORMAL", "PNEUMONIA"])
    assert about["ancestors"][0]["licence"] == "MSRLA"
    card = matter(folder)
    assert (card["license"], card["pipeline_tag"]) == ("cc-by-4.0", "image-classification")
    said = capsys.readouterr().out
    assert "WARNING: NOT FOR COMMERCIAL USE: the licence of rad/backbone.safetensors" in said
    assert "WARNING: CC-BY-4.0 allows more than the licences it comes from" in said
    text = (folder / "README.md").read_text()
    assert "- licence: CC-BY-4.0\n- made from rad/backbone.safetensors" in text
    assert "NOT FOR COMMERCIAL USE" in text
    assert "CC-BY-4.0 allows more than" in text
    assert "unknown" not in text
    assert about["licence"] == "CC-BY-4.0"
    upload, predict = (line for line in said.splitlines() if "uv run" in line)
    assert shlex.split(upload)[-5:] == [str(model.parent), "--licence", "CC-BY-4.0", "--repo", "OWNER/NAME"]
    assert shlex.split(predict)[-2:] == [str(folder), "IMAGES"]
    image = np.random.default_rng(0).integers(0, 255, (80, 70), dtype=np.uint8)
    own, its = cxr_deploy.load(model)(image), cxr_deploy.load(folder, runtime="torch")(image)
    assert own.probabilities == its.probabilities


def test_a_stale_export_is_left_out_and_figures_of_the_model_come_along(model, capsys) -> None:
    torch.manual_seed(1)
    header = describe(model)
    digest = checkpoint.save(model, build("test_resnet", 2, size=32), header)
    report = model.parent.parent / "report"
    (report / "model_cards" / "resnet").mkdir(parents=True)
    card = "---\nlicense: unknown\nlibrary_name: cxr-common\n---\n\n# resnet\n\nAUROC .9\n\n"
    card += "## Licences\n\n- old\n\n## Made\n"
    (report / "model_cards" / "resnet" / "README.md").write_text(card)
    models = {"resnet": {"file": {"sha256": digest}, "auroc": 0.9}, "other": {"file": {"sha256": "0"}}}
    (report / "metrics.json").write_text(json.dumps({"task": "multiclass", "models": models}))
    folder = push(PushConfig(models=[str(model)]))
    assert "was made of another model and is left out" in capsys.readouterr().out
    assert not (folder / "model.onnx").exists()
    kept = json.loads((folder / "metrics.json").read_text())
    assert (kept["name"], kept["model"]["auroc"], "models" in kept) == ("resnet", 0.9, False)
    assert "AUROC .9" in (folder / "README.md").read_text()
    assert matter(folder)["license"] == "unknown"
    told = (folder / "README.md").read_text().split("## Licences")[1]
    assert "- licence: unknown\n- made from rad/backbone.safetensors" in told
    assert "old" not in told
    assert told.endswith("\n\n## Made\n")


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="one model"):
        push(PushConfig())
    with pytest.raises(BadInput, match="OWNER/NAME"):
        PushConfig(models=["x"], repo="name")
    with pytest.raises(BadInput, match="nowhere"):
        push(PushConfig(models=["nowhere"]))


def test_damaged_weights_are_not_pushed(model) -> None:
    tensors = load_file(model)
    next(one for one in tensors.values() if one.is_floating_point()).view(-1)[:1].fill_(torch.nan)
    with safe_open(model, "pt") as file:
        notes = file.metadata()
    model.write_bytes(checkpoint.to_bytes(tensors, notes))
    with pytest.raises(BadInput, match="weights that are finite numbers"):
        push(PushConfig(models=[str(model)]))
    assert not (model.parent / "hub").exists()


@pytest.mark.slow
def test_there_and_back_over_the_hubs_own_client(model, tmp_path, loopback_hub) -> None:
    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        script = str(Path(sys.executable).with_name(name))
        own = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_x"}
        own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "60"}
        command = [script, *map(str, arguments)]
        return subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)

    with loopback_hub.serving({}) as server:
        sent = run("push", model, "--repo", "clinic/model")
        assert sent.returncode == 0, sent.stderr
        assert f"uploaded: {server.endpoint}/clinic/model" in sent.stdout
        assert set(server.repositories["clinic/model"]) >= {
            "README.md",
            "config.json",
            "model.onnx",
            "model.safetensors",
        }
        import cv2

        image = np.random.default_rng(0).integers(0, 255, (80, 70), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "image.png"), image)
        answered = run("predict", "hf:clinic/model", tmp_path / "image.png", "--out", tmp_path / "answers.csv")
        assert answered.returncode == 0, answered.stderr
    again = run("predict", "hf:clinic/model", tmp_path / "image.png", "--out", tmp_path / "offline.csv")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "offline.csv").read_text() == (tmp_path / "answers.csv").read_text()
    own = cxr_deploy.load(model)(image).probabilities["PNEUMONIA"]
    header, row = (line.split(",") for line in (tmp_path / "answers.csv").read_text().splitlines()[:2])
    column = next(number for number, name in enumerate(header) if "PNEUMONIA" in name)
    assert float(row[column]) == pytest.approx(own, abs=1e-5)
