"""The example in each package's docstring runs, and prints what it says."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build
from cxr_deploy.export import onnx_file
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert

PACKAGES = ("data", "common", "ssl", "distill", "eval", "deploy", "recipes")


@pytest.mark.parametrize("package", [f"cxr_{name}" for name in PACKAGES])
def test_the_example_of_a_package(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, 300).astype(np.float64)
    given = {
        "image": random.integers(0, 256, (80, 60), np.uint8),
        "targets": targets,
        "better": targets + random.random(300),
        "good": targets * 0.5 + random.random(300),
        "patients": np.arange(300) // 2,
    }
    if package == "cxr_deploy":
        network = build("resnet18", 1, size=32)
        torch.nn.init.zeros_(network.get_parameter("fc.weight"))  # so that the answer is known: one half
        torch.nn.init.zeros_(network.get_parameter("fc.bias"))
        header = Header("model", "resnet18", Input(32, 0.5, 0.25), "multilabel", ("effusion",), thresholds=(0.5,))
        graph = convert(Answering(GrayNetwork(network, 0.5, 0.25).eval(), header), header)
        onnx_file.describe(graph, header, {"schema": 1, "precision": "fp32"})
        onnx_file.save(graph, Path("model.onnx"))
    module = importlib.import_module(package)
    found = doctest.testmod(module, extraglobs=given, report=True)
    assert found.attempted >= 3
    assert found.failed == 0
