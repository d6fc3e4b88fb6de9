import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torchvision
import yaml
from safetensors.torch import load_file

from cxr_common import checkpoint
from cxr_common.models.pretrained import Pretrained
from cxr_data import Cohort, open_cohort, save
from cxr_data.cohorts.chunks import upload
from cxr_data.cohorts.digests import image_keys
from cxr_data.command_line.command import config_dict
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_data.models.header import TRAINING_IMAGES
from cxr_ssl import train as stage
from cxr_ssl.config import Crops, PretrainConfig
from cxr_ssl.methods.byol import BYOLConfig
from cxr_ssl.methods.dino import DINOConfig
from cxr_ssl.methods.swav import SwAVConfig
from cxr_ssl.state import new_backbone
from cxr_ssl.step import train_step
from cxr_ssl.train import pretrain

TRAIN, VAL, TEST = 44, 10, 10
STEPS = 2
"""Steps of an epoch."""


def gratings(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Striped images (64, 48, 48) uint8 and whether the stripes stand upright (64,)."""
    random = np.random.default_rng(seed)
    n = TRAIN + VAL + TEST
    upright = np.arange(n) % 2
    y, x = np.mgrid[:48, :48]
    along = np.where(upright[:, None, None] == 1, x, y)
    waves = np.sin(along * random.uniform(0.3, 1.0, (n, 1, 1)) + random.uniform(0, 6, (n, 1, 1)))
    images = 120 + 60 * waves + 20 * random.normal(size=(n, 48, 48))
    return np.clip(images, 0, 255).astype(np.uint8), upright.astype(np.float32)


def cohort_of(pixels: np.ndarray, upright: np.ndarray | None) -> Cohort:
    labels = {} if upright is None else {"label:across": 1 - upright, "label:upright": upright}
    names = [f"image-{i}" for i in range(len(pixels))]
    split = ["train"] * TRAIN + ["val"] * VAL + ["test"] * TEST
    table = pl.DataFrame({"image": names, "patient": names, "split": split, **labels})
    return Cohort(
        name="gratings",
        task="multiclass" if labels else None,
        labels=("across", "upright") if labels else (),
        table=table,
        pixels=pixels,
        pixel_mapping={"aspect": "squash", "window": "full"},
        source="gratings",
        fingerprint=f"{int(pixels.sum())}",
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "gratings"
    save(cohort_of(*gratings()), folder)
    return folder


def tiny(data: Path, runs: Path, **changes: Any) -> PretrainConfig:
    options: dict[str, Any] = {"prototypes": 40, "embedding": 8, "queue": 1, "freeze": 3}
    options |= {name: changes.pop(name) for name in list(changes) if name in SwAVConfig.__dataclass_fields__}
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 22, "architecture": "test_resnet", "size": 32}
    settings |= {"crops": Crops(local_count=2), "swav": SwAVConfig(**options), "keep_state": False}
    settings |= {"dino": DINOConfig(prototypes=40, hidden=16, bottleneck=8), "byol": BYOLConfig(8, 16)}
    return PretrainConfig(data=str(data), runs_dir=str(runs), **(settings | changes))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was never interrupted; one thread, as in all tests here."""
    torch.set_num_threads(1)
    return pretrain(tiny(data, tmp_path_factory.mktemp("finished"))).parent


@pytest.fixture(scope="module")
def resnet(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a network that torchvision has."""
    torch.set_num_threads(1)
    return pretrain(tiny(data, tmp_path_factory.mktemp("resnet"), architecture="resnet18")).parent


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_result(folder: Path, other: Path) -> bool:
    one, two = (load_file(run / "backbone.safetensors") for run in (folder, other))
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one) and log(folder) == log(other)


def stops_after(steps: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM) -> list[Any]:
    """Let the coming run find a signal after so many steps; returns the metrics of its steps."""
    done: list[Any] = []

    def asks_to_stop(*arguments: Any, **options: Any) -> Any:
        done.append(train_step(*arguments, **options))
        if len(done) == steps:
            signal.raise_signal(number)
        return done[-1]

    monkeypatch.setattr(stage, "train_step", asks_to_stop)
    return done


def test_a_run_leaves_a_backbone_that_describes_itself(resnet):
    network, header = checkpoint.load(resnet / "backbone.safetensors", kind="backbone")
    assert network(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape == (2, 512)
    assert header.architecture == "resnet18"
    assert header.input.size == 32
    assert header.input.mean == pytest.approx(gratings()[0][:TRAIN].mean() / 255, abs=1e-6)
    assert header.cohort is not None
    assert header.cohort["splits"]["train"]["images"] == TRAIN
    assert header.config["crops"]["local_count"] == 2
    assert header.seed == 0
    lines = log(resnet)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    best = max(lines[1:], key=lambda line: line["probe_auroc"])
    assert header.metrics["epoch"] == best["epoch"]
    assert header.metrics["probe_auroc"] == best["probe_auroc"]
    assert 0 < best["code_entropy"] < 1
    assert not (resnet / "state.pt").exists()
    pictures = (resnet / "pictures.html").read_text()
    assert "gratings, 44 training images" in pictures
    assert "principal components of 10 val images" in pictures
    assert not re.search(r"image-\d", pictures)  # no name of an image or patient
    assert json.loads((resnet / "done.json").read_text())["probe_auroc_before"] == lines[0]["probe_auroc"]


def test_torchvision_takes_the_backbone(resnet):
    theirs = torchvision.models.resnet18()
    weights = load_file(resnet / "backbone_torchvision.safetensors")
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert unexpected == []
    theirs.fc = torch.nn.Identity()  # type: ignore[assignment]
    network, header = checkpoint.load(resnet / "backbone.safetensors")
    pixels = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    assert isinstance(header.input.mean, float)
    assert isinstance(header.input.std, float)
    images = ((pixels / 255 - header.input.mean) / header.input.std).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval()(images), network(pixels), atol=1e-5, rtol=1e-5)


def test_training_moves_every_weight_and_fills_the_batch_statistics(resnet):
    torch.manual_seed(0)
    before = new_backbone("resnet18", 32, (0.5, 0.2), smallest_crop=24).network.state_dict()
    after = load_file(resnet / "backbone.safetensors")
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert still == []
    # Two forwards a step, one for each size of view; best epoch 1 or 2.
    assert after["bn1.num_batches_tracked"].item() in (2 * STEPS, 4 * STEPS)


def test_the_same_again_is_the_same_and_a_finished_run_is_left_alone(finished, data, tmp_path, capsys):
    config = tiny(data, tmp_path)
    folder = pretrain(config).parent
    assert same_result(folder, finished)
    assert "next:  uv run finetune --data" in capsys.readouterr().out
    written = (folder / "backbone.safetensors").stat().st_mtime_ns
    pretrain(config)
    assert "nothing to do" in capsys.readouterr().out
    assert (folder / "backbone.safetensors").stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bit_identical_backbone(finished, data, tmp_path):
    code = (
        "import os, signal, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from cxr_data.command_line.command import parse\n"
        "from cxr_ssl import train as stage\n"
        "from cxr_ssl.config import PretrainConfig\n"
        "def steps_then_dies(*arguments, step=stage.train_step, done=[], **options):\n"
        f"    if len(done) == {STEPS + 1}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"  # in the second epoch, before its last step
        "    done.append(1)\n"
        "    return step(*arguments, **options)\n"
        "stage.train_step = steps_then_dies\n"
        "stage.pretrain(parse(PretrainConfig, prog='p', argv=['--config', sys.argv[1]]))\n"
    )
    config = tiny(data, tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_dict(config)))
    command = [sys.executable, "-c", code, str(tmp_path / "config.yaml")]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    folder = tmp_path / "quickstart" / "ssl"
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (folder / "state.pt").exists()
    assert not (folder / "backbone.safetensors").exists()
    pretrain(config)
    assert same_result(folder, finished)


def test_a_cohort_in_chunks_trains_to_the_same_bytes(finished, data, tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    url = f"memory://{tmp_path}/gratings"
    upload(open_cohort(data), url, chunk_bytes=6 * 48 * 48)
    again = pretrain(replace(tiny(data, tmp_path), data=url)).parent
    assert sha256(again / "backbone.safetensors") == sha256(finished / "backbone.safetensors")
    assert log(again) == log(finished)


@pytest.mark.parametrize("steps", [1, STEPS + 1])
def test_a_terminated_run_saves_in_the_middle_of_an_epoch_and_resumes(finished, data, tmp_path, monkeypatch, steps):
    done = stops_after(steps, monkeypatch)
    config = tiny(data, tmp_path)
    with pytest.raises(SystemExit, match="143"):
        pretrain(config)
    assert len(done) == steps
    folder = pretrain(config).parent
    assert len(done) == 2 * STEPS  # no step was taken twice
    assert same_result(folder, finished)


@pytest.mark.parametrize("method", ["dino", "byol"])
def test_other_methods_learn_resume_after_ctrl_c_and_leave_a_page(data, tmp_path, monkeypatch, method):
    config = tiny(data, tmp_path, method=method, epochs=3, on_collapse="warn")
    whole = pretrain(replace(config, run="whole")).parent
    lines = log(whole)
    assert {"probe_auroc", "knn_auroc", "rankme", "rank", "loss"} < lines[-1].keys()
    with monkeypatch.context() as patch:
        done = stops_after(STEPS + 1, patch, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
        assert len(done) == STEPS + 1
    assert same_result(pretrain(config).parent, whole)
    page = (whole / "pictures.html").read_text()
    assert {"dino": "Prototypes of the teacher", "byol": "Nearest images"}[method] in page
    network, header = checkpoint.load(whole / "backbone.safetensors", kind="backbone")
    assert header.config["method"] == method
    assert torch.isfinite(network(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))).all()
    with pytest.raises(BadInput, match=f"config.method was '{method}', now 'swav'"):
        pretrain(replace(config, method="swav"))


def test_a_finished_run_is_extended_and_freezes_nothing_again(data, tmp_path, capsys):
    config = tiny(data, tmp_path, freeze=None, keep_state=True, on_collapse="warn")
    folder = pretrain(config).parent
    with pytest.raises(BadInput, match=r"(?s)epochs was 2, now 8.*--extend"):
        pretrain(replace(config, epochs=8))
    capsys.readouterr()
    pretrain(replace(config, epochs=8, extend=True))
    said = capsys.readouterr().out
    assert "resumes in epoch 3" in said
    assert [line["epoch"] for line in log(folder)] == list(range(9))
    assert json.loads((folder / "done.json").read_text())["extended_after_epochs"] == [2]
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state["epoch"] == 8
    assert state["changes"] == {}


def test_another_labelled_cohort_may_be_probed(data, tmp_path):
    save(cohort_of(gratings(seed=3)[0], None), tmp_path / "unlabelled")
    config = tiny(tmp_path / "unlabelled", tmp_path, epochs=1)
    with pytest.raises(BadInput, match="a cohort with labels"):
        pretrain(replace(config, probe_data=str(tmp_path / "unlabelled")))
    folder = pretrain(replace(config, probe_data=str(data))).parent
    assert all(0 <= line["probe_auroc"] <= 1 for line in log(folder))
    with pytest.raises(BadInput, match="probe_cohort was"):
        pretrain(config)


def test_another_config_does_not_go_on_in_the_same_folder(finished, data):
    config = tiny(data, finished.parent.parent, epsilon=0.03)
    with pytest.raises(BadInput, match=r"options.epsilon was 0.05, now 0.03"):
        pretrain(config)


def test_validation_and_test_pixels_do_not_train(finished, data, tmp_path):
    pixels, upright = gratings()
    pixels[TRAIN:] = gratings(seed=1)[0][TRAIN:]
    save(cohort_of(pixels, upright), tmp_path / "other")
    seen = []
    for where in (tmp_path / "other", data):
        folder = pretrain(tiny(where, tmp_path / where.name, epochs=1)).parent
        seen.append(load_file(folder / "backbone.safetensors"))
    weights = [name for name in seen[0] if not name.startswith(TRAINING_IMAGES)]
    assert weights
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in weights)


def test_without_labels_the_last_epoch_is_kept(tmp_path):
    save(cohort_of(gratings()[0], None), tmp_path / "unlabelled")
    folder = pretrain(tiny(tmp_path / "unlabelled", tmp_path)).parent
    assert [line["probe_auroc"] for line in log(folder)] == [None, None, None]
    header = checkpoint.describe(folder / "backbone.safetensors")
    assert header.metrics["epoch"] == 2
    assert header.metrics["probe_auroc"] is None


def test_a_collapsed_run_stops_with_advice_or_warns(data, tmp_path, capsys):
    config = tiny(data, tmp_path, epsilon=5.0, epochs=1)
    with pytest.raises(BadInput) as caught:
        pretrain(config)
    assert "uniform codes in epoch 1" in caught.value.found
    assert "--swav.epsilon 0.03" in str(caught.value.do)
    assert not (tmp_path / "quickstart" / "ssl" / "backbone.safetensors").exists()
    pretrain(replace(config, on_collapse="warn"))  # the same run, let through
    assert "warning: uniform codes" in capsys.readouterr().out


@pytest.fixture(scope="module")
def recovered(data, tmp_path_factory) -> Path:
    """Folder of a run that collapsed in its first epoch and recovered."""
    torch.set_num_threads(1)
    return pretrain(collapsing(data, tmp_path_factory.mktemp("recovered"))).parent


def collapsing(data: Path, runs: Path) -> PretrainConfig:
    return tiny(data, runs, epsilon=5.0, on_collapse="recover")


def test_a_collapsed_run_recovers(recovered, data, tmp_path, capsys):
    lines = log(recovered)
    assert [line["epoch"] for line in lines] == [0, 1, 1, 2]
    assert (lines[1]["collapse"], lines[1]["recovery"]) == ("uniform codes", "sharper codes (epsilon 5 -> 0.03)")
    assert lines[1]["code_entropy"] > 0.98 > lines[2]["code_entropy"]
    assert "collapse" not in lines[2] | lines[3]
    assert checkpoint.describe(recovered / "backbone.safetensors").metrics["epoch"] in (1, 2)
    # From the first epoch on it is the run that had those codes to begin with.
    sharp = pretrain(tiny(data, tmp_path, epsilon=0.03)).parent
    weights, same = (load_file(run / "backbone.safetensors") for run in (recovered, sharp))
    assert all(torch.equal(weights[name], same[name]) for name in weights)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(1, id="before the collapse", marks=pytest.mark.nightly),
        pytest.param(STEPS + 1, id="in the repeated epoch"),
        pytest.param(2 * STEPS + 1, id="in the one after", marks=pytest.mark.nightly),
    ],
)
def test_a_recovering_run_resumes_recovering(recovered, data, tmp_path, monkeypatch, capsys, steps):
    config = collapsing(data, tmp_path)
    with monkeypatch.context() as patch:
        stops_after(steps, patch)
        with pytest.raises(SystemExit, match="143"):
            pretrain(config)
    assert same_result(pretrain(config).parent, recovered)
    said = capsys.readouterr().out
    assert "back to the end of epoch 0, with sharper codes (epsilon 5 -> 0.03)" in said


def test_a_recovered_run_may_have_a_shorter_queue_and_fewer_prototypes(data, tmp_path, monkeypatch):
    """Codes that stay uniform whatever is done: every recovery is tried, once, and then the run stops."""
    monkeypatch.setattr("cxr_ssl.methods.swav.SHARP", 4.0)
    config = tiny(data, tmp_path, epsilon=5.0, queue=2, freeze=1, prototypes=64, on_collapse="recover")
    with pytest.raises(BadInput, match="sharper codes, longer freeze, smaller queue, fewer prototypes"):
        pretrain(config)
    told = [line["recovery"] for line in log(tmp_path / "quickstart" / "ssl")[1:]]
    assert told == [
        "sharper codes (epsilon 5 -> 4)",
        "longer freeze (freeze_steps 1 -> 4)",
        "smaller queue (queue 2 -> 1)",
        "fewer prototypes (prototypes 64 -> 32)",
    ]


def test_a_plan_that_must_collapse_is_refused_before_anything_is_written(data, tmp_path):
    config = tiny(data, tmp_path, prototypes=8)
    with pytest.raises(BadInput, match="8 prototypes and 8 dimensions"):
        pretrain(config)
    assert not (tmp_path / "quickstart").exists()


def test_accumulation_and_checkpointing_go_on_exactly_too(data, tmp_path, monkeypatch):
    config = tiny(data, tmp_path, accumulate=2, checkpointing=True, epochs=1, weight_decay_end=0.1)
    whole = pretrain(replace(config, run="whole")).parent
    with monkeypatch.context() as patch:
        stops_after(1, patch)
        with pytest.raises(SystemExit):
            pretrain(config)
    assert same_result(pretrain(config).parent, whole)
    plain = pretrain(replace(config, run="plain", checkpointing=False)).parent
    one, other = (load_file(run / "backbone.safetensors") for run in (whole, plain))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_start_is_loaded_and_recorded(resnet, finished, data, tmp_path):
    start = resnet / "backbone.safetensors"
    for file in (start, resnet / "backbone_torchvision.safetensors"):
        loaded = new_backbone("resnet18", 32, (0.5, 0.2), (Pretrained(file),), smallest_crop=24).network.state_dict()
        for name, tensor in checkpoint.load(start)[0].network.state_dict().items():
            torch.testing.assert_close(loaded[name], tensor, msg=name)
    start = finished / "backbone.safetensors"
    folder = pretrain(tiny(data, tmp_path, start=str(start), epochs=1)).parent
    header = checkpoint.describe(folder / "backbone.safetensors")
    assert [(p["role"], p["sha256"]) for p in header.parents] == [("start", sha256(start))]
    assert log(folder)[0]["probe_auroc"] == checkpoint.describe(start).metrics["probe_auroc"]
    cohort = open_cohort(data)
    rows = np.concatenate([cohort.rows("train"), cohort.rows("val")])
    made_with = checkpoint.training_images(start)
    assert np.array_equal(made_with.identical[cohort.pixel_size], np.unique(image_keys(cohort.pixels[rows])))
    assert len(made_with.likeness)
    inherited = checkpoint.training_images(folder / "backbone.safetensors")
    np.testing.assert_equal(inherited, made_with)


def test_a_published_swav_checkpoint_is_a_start(data, tmp_path):
    """Weights under "module.", with the head and the prototypes of another run beside them, for 3 channels."""
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18()
    body = {name: one for name, one in theirs.state_dict().items() if not name.startswith("fc.")}
    beside = {"projection_head.0.weight": torch.rand(512, 512), "prototypes.weight": torch.rand(3000, 128)}
    torch.save({f"module.{name}": one for name, one in (body | beside).items()}, tmp_path / "swav.pth.tar")
    start = tmp_path / "swav.pth.tar"
    backbone = new_backbone("resnet18", 32, (0.5, 0.25), (Pretrained(start),), smallest_crop=24).eval()
    theirs.fc = torch.nn.Identity()  # type: ignore[assignment]
    pixels = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = theirs.eval()(((pixels / 255 - 0.5) / 0.25).expand(-1, 3, -1, -1))
        torch.testing.assert_close(backbone(pixels), expected, atol=1e-5, rtol=1e-5)
    folder = pretrain(tiny(data, tmp_path, architecture="resnet18", start=str(start), epochs=1)).parent
    (parent,) = checkpoint.describe(folder / "backbone.safetensors").parents
    assert (parent["role"], parent["sha256"]) == ("start", sha256(start))


def test_a_start_that_does_not_fit_is_refused_before_anything_is_written(finished, data, tmp_path):
    for start in (finished / "backbone.safetensors", tmp_path / "absent.pth"):
        with pytest.raises(BadInput):
            pretrain(tiny(data, tmp_path, architecture="resnet34", start=str(start)))
    assert not (tmp_path / "quickstart").exists()


def test_crops_that_vanish_in_the_network_are_refused(data, tmp_path):
    with pytest.raises(BadInput, match="crops of more than 16 pixels for test_resnet") as caught:
        pretrain(tiny(data, tmp_path, crops=Crops(local_size=16)))
    assert "--crops.local_size 24" in str(caught.value.do)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_the_other_optimisers_train_and_go_on_too(data, tmp_path, optimizer, monkeypatch):
    config = tiny(data, tmp_path, optimizer=optimizer, crops=Crops(local_count=0))
    reference = pretrain(replace(config, run="whole")).parent
    stops_after(STEPS + 1, monkeypatch)
    with pytest.raises(SystemExit):
        pretrain(config)
    assert same_result(pretrain(config).parent, reference)
