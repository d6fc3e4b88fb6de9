"""The example in each package's docstring runs, and prints what it says."""

import doctest
import importlib

import numpy as np
import pytest
import torch

from cxr_common.checkpoint import Header, Input, save
from cxr_common.models.zoo import build


@pytest.mark.parametrize("package", ["cxr_data", "cxr_common", "cxr_ssl", "cxr_distill", "cxr_eval", "cxr_recipes"])
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
    if package == "cxr_eval":
        network = build("resnet18", 1, size=32)
        torch.nn.init.zeros_(network.get_parameter("fc.weight"))  # so that the answer is known: one half
        torch.nn.init.zeros_(network.get_parameter("fc.bias"))
        header = Header("model", "resnet18", Input(32, 0.5, 0.25), "multilabel", ("effusion",), thresholds=(0.5,))
        save("model.safetensors", network, header)
    module = importlib.import_module(package)
    found = doctest.testmod(module, extraglobs=given, report=True)
    assert found.attempted >= 4
    assert found.failed == 0
