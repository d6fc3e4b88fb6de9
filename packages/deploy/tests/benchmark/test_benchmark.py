import json
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from exports import write_onnx

from cxr_common import checkpoint
from cxr_common.checkpoint import Header, Input
from cxr_common.models import cost
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.files import sha256
from cxr_data.timing import peak_memories
from cxr_deploy.benchmark import benchmark as stage
from cxr_deploy.benchmark.entries import EAGER, entries
from cxr_deploy.benchmark.plot import plot
from cxr_deploy.cli import benchmark_model as main
from cxr_deploy.export import onnx_file

HEADER = Header(
    "model",
    "baseline_cnn",
    Input(32, 0.5, 0.25),
    task="multiclass",
    labels=("NORMAL", "PNEUMONIA"),
    metrics={"val_auroc": 0.875},
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files that the tests copy."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    network = build("baseline_cnn", 2, size=32)
    checkpoint.save(folder / "model.safetensors", network, HEADER)
    write_onnx(GrayNetwork(network, 0.5, 0.25).eval(), HEADER, folder / "model.onnx")
    return folder


@pytest.fixture
def model(made, tmp_path):
    path = tmp_path / "runs" / "quickstart" / "small" / "model.safetensors"
    path.parent.mkdir(parents=True)
    return Path(shutil.copy(made / "model.safetensors", path))


@pytest.fixture
def export_beside(made):
    """An ONNX file as export-model leaves it; the arithmetic is float either way."""

    def export(path, name, precision, header=HEADER, **about):
        graph = onnx.load(made / "model.onnx")
        source = {"sha256": sha256(path)}
        onnx_file.describe(graph, header, {"schema": 1, "precision": precision, "source": source, **about})
        onnx_file.save(graph, path.parent / "export" / name)

    return export


def test_every_runtime_and_precision_is_a_row(model, export_beside, tmp_path):
    export_beside(model, "model.int8.onnx", "int8", quantisation={"auroc": 0.87})
    rows, _ = entries({"small": model}, tmp_path)
    actual = {(row.runtime, row.precision): row for row in rows}
    assert next(iter(actual)) == EAGER
    ways = {("ONNX Runtime", "fp32"), ("ONNX Runtime", "int8"), ("PyTorch folded, channels-last", "fp32")}
    assert ways <= set(actual)
    assert actual["ONNX Runtime", "int8"].auroc == 0.87
    assert actual[EAGER].auroc == 0.875
    assert actual["ONNX Runtime", "fp32"].file.parent == tmp_path  # made for this, since none lies beside the weights


def test_float_and_8_bits_are_scored_on_the_same_images(model, export_beside, tmp_path):
    """A float AUROC of all validation images beside one of a sample would show a loss that is none."""
    export_beside(model, "model.onnx", "fp32")
    export_beside(model, "model.int8.onnx", "int8", quantisation={"auroc": 0.91, "drop": 0.002})
    files = {"small": model, "plain": model.parent / "export" / "model.onnx"}
    rows, _ = entries(files, tmp_path)
    assert {(row.precision == "int8", round(row.auroc or 0, 6)) for row in rows} == {(False, 0.912), (True, 0.91)}
    assert len({row.auroc_of for row in rows}) == 1


def test_exports_of_other_weights_are_not_taken(model, export_beside, tmp_path):
    export_beside(model, "model.int8.onnx", "int8", source={"sha256": "0" * 64})
    rows, notes = entries({"small": model}, tmp_path)
    assert "int8" not in {row.precision for row in rows}
    assert any("no 8-bit file" in note for note in notes)


@pytest.mark.slow
def test_a_table_json_and_a_plot(model, export_beside, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export_beside(model, "model.onnx", "fp32")
    export_beside(model, "model.int8.onnx", "int8", quantisation={"auroc": 0.87})
    assert main(["--seconds", "0.02", "--memory", "false"]) == 0
    folder = tmp_path / "runs" / "quickstart" / "benchmark"
    document = json.loads((folder / "benchmark.json").read_text())
    assert document["threads"] == 1
    eager, *others = document["rows"]
    assert (eager["runtime"], eager["speedup"]) == ("PyTorch eager", 1.0)
    network, _ = checkpoint.load(model)
    for row in document["rows"]:
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p95"] <= row["latency_ms_p99"]
        assert row["macs"] == cost.macs(network, 32)
        assert row["images_per_second"] > 0
        assert row["peak_bytes"] is None
    assert {row["auroc"] for row in others} == {0.875, 0.87}
    said = capsys.readouterr().out
    assert "times eager" in said
    assert "ONNX Runtime" in said
    tree = ElementTree.parse(folder / "benchmark.svg")
    titles = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 1 + len(document["rows"])


@pytest.mark.parametrize(("asked", "says"), [(["phantom-multiclass:60"], "multiclass"), (["nowhere"], "nothing there")])
def test_an_unusable_cohort_is_told_before_anything_is_timed(model, tmp_path, monkeypatch, capsys, asked, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cxr_data.timing.side_by_side", lambda *args: pytest.fail("timed first"))
    assert main(["--data", *asked, "--memory", "false"]) == 2
    assert says in capsys.readouterr().err


def test_an_onnx_file_alone_is_timed_and_scored_on_a_cohort(model, export_beside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = replace(HEADER, task="multilabel", labels=("effusion", "nodule"))
    export_beside(model, "model.onnx", "fp32", shared)
    file = model.parent / "export" / "model.onnx"
    quick = ["--seconds", "0.02", "--memory", "false"]
    assert main([str(file), "--data", "phantom:60", "--out", "b", "--split", "all", *quick]) == 0
    rows = json.loads((tmp_path / "b" / "benchmark.json").read_text())["rows"]
    assert {row["runtime"] for row in rows} <= {"ONNX Runtime", "OpenVINO"}
    assert all(row["speedup"] is None for row in rows)
    assert all(row["auroc_of"] == "all images of phantom" for row in rows)
    fp32 = [row["auroc"] for row in rows if row["precision"] == "fp32"]
    assert max(fp32) - min(fp32) < 0.02


def test_peak_memory_is_that_of_a_fresh_process(model, export_beside):
    ballast = np.ones(400_000_000, np.uint8)
    export_beside(model, "model.onnx", "fp32")
    arguments = str(model.parent / "export" / "model.onnx"), "ONNX Runtime", "fp32", "1"
    peak = peak_memories("cxr_deploy.benchmark.memory", {"model": arguments}, do="run it again")["model"]
    assert model.stat().st_size < peak < ballast.nbytes


def test_the_plot_says_when_nothing_is_known_and_escapes_names():
    row = {"model": "a<b>", "runtime": "R", "precision": "fp32", "auroc": None, "latency_ms_p50": 3.0}
    assert "no AUROC is known" in plot([row], "t & u")
    drawn = plot([{**row, "auroc": 0.9}], "t & u")
    ElementTree.fromstring(drawn)
    assert "a&lt;b&gt;" in drawn


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.onnx"], "nothing there"),
        (["--run", "nobody"], "no such folder"),
        (["--split", "tset"], "did you mean test"),
        (["--seconds", "0"], "above 0 s"),
    ],
)
def test_bad_input(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


def test_macs_are_those_of_the_network():
    network = GrayNetwork(build("resnet18", 3, size=64), 0.5, 0.25)
    assert stage._counted("resnet18", 3, 1, 64) == cost.macs(network, 64)
