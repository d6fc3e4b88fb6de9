"""A classifier in ONNX teaches as its weights do."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exports import write_onnx
from safetensors.numpy import load_file

from cxr_common.checkpoint import Header, Input, TrainingImages, load, save, training_images
from cxr_common.models.zoo import build
from cxr_data import open_cohort
from cxr_data.cohorts.digests import image_keys
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_data.models.header import describe
from cxr_data.synthetic.findings import FINDINGS
from cxr_distill import stages
from cxr_distill.config import DistillConfig
from cxr_distill.teacher import load_teacher

COHORT = "phantom:80"
FAST = ["--data", COHORT, "--size", "32", "--batch_size", "16", "--epochs", "2", "--precision", "fp32", "--augment"]
FAST += ["none", "--student", "test_resnet", "--loss", "multilabel_kd=1", "--task_weight", "0"]


def exported(weights: Path, graph: Path, **changes: Any) -> Path:
    """What export-model writes of a model, here without a cohort to check it on."""
    network, header = load(weights, kind="model")
    return write_onnx(network, header, graph, **{"source": {"sha256": sha256(weights)}, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A classifier of the phantom's findings, in another order, with its graph: the folder that the tests copy."""
    torch.manual_seed(3)
    labels = FINDINGS[::-1]
    header = Header("model", "test_vit", Input(32, 0.4, 0.25), "multilabel", labels, licence="CC-BY-NC-4.0")
    path = tmp_path_factory.mktemp("made") / "model.safetensors"
    network: Any = build("test_vit", len(labels), size=32)
    torch.nn.init.normal_(network.get_classifier().weight, std=0.3)
    save(path, network, header)
    return exported(path, path.parent / "export" / "model.onnx").parents[1]


@pytest.fixture
def weights(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "teacher") / "model.safetensors"


@pytest.fixture
def graph(weights) -> Path:
    return weights.parent / "export" / "model.onnx"


def test_its_logits_are_those_of_its_weights_in_the_cohorts_order(weights, graph) -> None:
    labels = describe(weights).labels[::-1]
    theirs, ours = (load_teacher(file, labels, "multilabel") for file in (weights, graph))
    pixels = torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(pixels).logits, theirs(pixels).logits, atol=1e-4, rtol=1e-4)
    assert ours.shapes == theirs.shapes == {"logits": (len(labels),)}
    assert ours.classifier is None
    assert ours.digest != theirs.digest  # of the cached outputs


@pytest.mark.slow
@pytest.mark.parametrize("cached", [0, 2])
def test_a_student_learns_the_same_from_either_and_says_who_taught_it(
    tmp_path, weights, graph, cached, typed, monkeypatch
) -> None:
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    students = {}
    for name, teacher in (("by-weights", weights), ("by-graph", graph)):
        options = ["--teacher", teacher, "--cached_views", cached, "--name", name, "--runs_dir", tmp_path]
        done = typed("distill", *FAST, *map(str, options))
        assert done.returncode == 0, done.stderr
        students[name] = tmp_path / "quickstart" / name / "model.safetensors"
    ours, theirs = (load_file(file) for file in students.values())
    for name, tensor in theirs.items():
        if tensor.dtype == np.float32:
            np.testing.assert_allclose(ours[name], tensor, atol=2e-3, err_msg=name)
    said = describe(students["by-graph"])
    assert said.parents[0]["sha256"] == sha256(graph)
    assert [entry["licence"] for entry in said.ancestors] == ["CC-BY-NC-4.0"]


@pytest.mark.slow
def test_images_that_its_weights_were_made_with_count_as_the_students(tmp_path, weights, graph, typed) -> None:
    cohort = open_cohort(COHORT, pixel_size=40, seed=0, show=False)
    seen = cohort.rows("test")[:3]
    network, header = load(weights)
    keys = image_keys(cohort.pixels, seen)
    none = np.zeros((0, 16), np.int64)
    save(weights, network.network, header, training_images=TrainingImages({cohort.pixel_size: keys}, none))
    exported(weights, graph)
    teach = [*FAST, "--runs_dir", str(tmp_path), "--teacher", str(graph), "--name"]
    done = typed("distill", *teach, "known")
    assert done.returncode == 0, done.stderr
    assert "does not lie beside it" not in done.stdout
    known = training_images(tmp_path / "quickstart" / "known" / "model.safetensors").identical[cohort.pixel_size]
    assert np.isin(keys, known).all()
    weights.rename(tmp_path / "moved.safetensors")
    done = typed("distill", *teach, "unknown")
    assert done.returncode == 0, done.stderr
    assert "note: model.onnx: its model.safetensors, which tells the images it was trained on" in done.stdout


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("features", "losses on logits, which are all that a teacher in ONNX gives, found losses on pooled"),
        ("foreign", "found one of another origin"),
        ("cut", "found something else, or a damaged one"),
        ("missing", "nothing there"),
        ("no runtime", "pip install 'cxr-distill[onnx]'"),
        ("no graph", "a graph that ONNX Runtime can run"),
    ],
)
def test_what_cannot_teach_is_one_message(change, says, graph, tmp_path, monkeypatch) -> None:
    loss: dict[str, Any] = {"pooled_cosine": 1.0} if change == "features" else {"multilabel_kd": 1.0}
    if change == "foreign":
        model = onnx.load(graph)
        del model.metadata_props[:]
        onnx.save(model, graph)
    if change == "cut":
        graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
    if change == "missing":
        graph.unlink()
    if change == "no runtime":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if change == "no graph":
        model = onnx.load(graph)
        model.graph.node[0].op_type = "NoSuchOperator"
        onnx.save(model, graph)
    config = DistillConfig(
        teacher=[str(graph)], data=COHORT, size=32, student="test_resnet", loss=loss, runs_dir=str(tmp_path / "runs")
    )
    with pytest.raises(BadInput, match=says.replace("[", r"\[")):
        stages.distill(config)
    assert not list((tmp_path / "runs").rglob("*.safetensors"))
