"""The examples of docs/extending.md, from outside the source tree: one of each kind is added and used here."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from exports import write_onnx

import cxr_deploy
from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data import open_cohort
from cxr_data.readers import READERS
from cxr_deploy.benchmark.entries import makers
from cxr_deploy.runtimes import RUNTIMES
from cxr_distill import distill
from cxr_distill.losses import build_losses, loss_settings
from cxr_eval import METRICS, evaluate
from cxr_eval.config import EvaluateConfig
from cxr_eval.explain.methods import METHODS
from cxr_ssl.method import Collapse

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text("utf-8")
PROGRAMS = dict(re.findall(r"```python\n# (my_\w+)\.py[^\n]*\n(.*?)```", PAGE, re.S))
KINDS = {"my_loss", "my_metric", "my_method", "my_network", "my_reader", "my_runtime", "my_explanation"}


@pytest.fixture(scope="module")
def added(tmp_path_factory) -> Iterator[dict[str, ModuleType]]:
    """The example of every kind, imported into this process; what they add is taken out again."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, program in PROGRAMS.items():
        (folder / f"{name}.py").write_text(program, "utf-8")
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (table, dict(table)) for table in (METRICS, READERS, RUNTIMES, METHODS)
    ]
    sys.path.insert(0, str(folder))
    yield {name: importlib.import_module(name) for name in sorted(KINDS)}
    sys.path.remove(str(folder))
    for name in PROGRAMS:
        sys.modules.pop(name, None)
    for table, before in tables:
        table.clear()
        table.update(before)


def test_every_kind_has_a_short_whole_example():
    assert PROGRAMS.keys() - {"my_evaluate"} == KINDS
    for name, program in PROGRAMS.items():
        lines = [line for line in program.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert len(lines) <= 25, f"{name}: {len(lines)} lines"


def test_a_loss(added):
    settings = {"my_loss:FeatureNorm": 2.0, "my_loss:FeatureNorm.norm": 0.5}
    losses = build_losses(settings)
    assert losses == {added["my_loss"].FeatureNorm(norm=0.5): 2.0}
    assert loss_settings(losses) == settings
    torch.manual_seed(0)
    student, teacher = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)) for _ in range(2))
    batch = [(torch.randn(8, 1, 4, 4), torch.randint(0, 2, (8, 2)).float())]
    history = distill(student, teacher, batch, task="multilabel", losses=losses, task_weight=0.0, epochs=3)
    assert history[-1]["feature_norm"] < history[0]["feature_norm"]


def test_a_metric(added):
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 200).astype(float)
    figures = evaluate(y, y * 0.3 + random.random(200) * 0.7, metrics=["youden", "recall", "specificity"]).overall
    youden = figures["youden"]
    assert youden.value == pytest.approx(figures["recall"].value + figures["specificity"].value - 1)
    assert youden.low < youden.value < youden.high
    assert "youden" in [metric for metric in METRICS.values() if "summary" in metric.places][-1].name


def test_a_network_learns_and_shows_its_features(added):
    torch.manual_seed(0)
    network = GrayNetwork(build("resnet10_narrow", 2, size=32), 0.5, 0.25)
    pixels = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    network(pixels).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.network.num_features == 128


def test_a_data_set(added, tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    rows = ["file\tperson\teffusion"]
    for i in range(24):
        cv2.imwrite(str(folder / f"{i}.png"), np.random.default_rng(i).integers(0, 256, (64, 64), np.uint8))
        rows.append(f"{i}.png\t{i // 2}\t{i // 2 % 2}")
    (folder / "findings.tsv").write_text("\n".join(rows), "utf-8")
    cohort = open_cohort(folder, pixel_size=32, show=False)
    assert (cohort.name, cohort.labels, len(cohort)) == ("my data", ("effusion",), 24)
    rows = [set(cohort.table["patient"].gather(cohort.rows(split))) for split in ("train", "val", "test")]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 12  # every patient in one split


def test_an_export_target(added, tmp_path):
    torch.manual_seed(0)
    network = GrayNetwork(build("baseline_cnn", 2, size=16), 0.5, 0.25).eval()
    header = Header("model", "baseline_cnn", Input(16, 0.5, 0.25), "multilabel", ("a", "b"), thresholds=(0.5, 0.5))
    write_onnx(network, header, tmp_path / "model.onnx")
    image = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    answers = [cxr_deploy.load(tmp_path / "model.onnx", runtime=name)(image) for name in ("onnxruntime", "reference")]
    assert answers[0].probabilities == pytest.approx(answers[1].probabilities, abs=1e-5)
    assert answers[0].logits == pytest.approx(answers[1].logits, abs=1e-5)
    assert ("ONNX reference", "fp32") in makers()


def test_an_explanation(added):
    EvaluateConfig(explain="input_gradient")
    torch.manual_seed(0)
    network = GrayNetwork(build("baseline_cnn", 2, size=32), 0.5, 0.25)
    pixels = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    maps = METHODS["input_gradient"](network, pixels, torch.tensor([0, 1, 0]), "level4")
    assert maps.shape == (3, 32, 32)
    assert maps.amax() == 1
    assert not torch.equal(maps, METHODS["input_gradient"](network, pixels, torch.tensor([1, 0, 1]), "level4"))


def test_an_ssl_method_knows_a_loss_that_is_not_finite(added):
    assert added["my_method"].Config(method="vicreg").methods == ["swav", "dino", "byol", "vicreg"]
    method = added["my_method"].VICReg(None, None)
    assert isinstance(method.collapse({"loss": float("nan")}), Collapse)
    assert method.collapse({"loss": 25.0}) is None


@pytest.mark.nightly
def test_an_ssl_method_trains_and_is_kept(added, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from cxr_ssl import pretrain

    options = {"data": "phantom:30", "architecture": "resnet10_narrow", "size": 32, "batch_size": 8, "epochs": 1}
    config = added["my_method"].Config(method="vicreg", precision="fp32", **options)
    assert pretrain(config).is_file()
    assert "vicreg" in (tmp_path / "runs" / "quickstart" / "ssl" / "pictures.html").read_text("utf-8")
