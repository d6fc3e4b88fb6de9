"""The example in each package's docstring runs, and prints what it says."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import write_onnx

from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build

PACKAGES = ("data", "common", "ssl", "distill", "eval", "deploy", "recipes")


PUBLIC = [
    (f"cxr_{package}", name)
    for package in PACKAGES
    for name in getattr(importlib.import_module(f"cxr_{package}"), "__all__", ())
]
"""Every public name, by its package."""


@pytest.fixture
def given(tmp_path, monkeypatch) -> dict[str, object]:
    """What the examples take as given: arrays, and a model.onnx in the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, 300).astype(np.float64)
    return {
        "image": random.integers(0, 256, (80, 60), np.uint8),
        "targets": targets,
        "better": targets + random.random(300),
        "good": targets * 0.5 + random.random(300),
        "patients": np.arange(300) // 2,
    }


def write_model() -> None:
    network = build("resnet18", 1, size=32)
    torch.nn.init.zeros_(network.get_parameter("fc.weight"))  # so that the answer is known: one half
    torch.nn.init.zeros_(network.get_parameter("fc.bias"))
    header = Header("model", "resnet18", Input(32, 0.5, 0.25), "multilabel", ("effusion",), thresholds=(0.5,))
    write_onnx(GrayNetwork(network, 0.5, 0.25).eval(), header, Path("model.onnx"))


@pytest.mark.parametrize("package", [f"cxr_{name}" for name in PACKAGES])
def test_the_example_of_a_package(package, given):
    if package == "cxr_deploy":
        write_model()
    module = importlib.import_module(package)
    example = doctest.DocTestFinder(recurse=False).find(module, globs={**vars(module), **given})[0]
    actual = doctest.DocTestRunner().run(example)
    assert actual.attempted >= 3
    assert actual.failed == 0


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_the_example_of_a_public_name(package, name, given):
    public = getattr(importlib.import_module(package), name)
    if isinstance(public, dict):
        return
    if package == "cxr_deploy":
        write_model()
    (example,) = doctest.DocTestFinder(recurse=False).find(public, name, globs=dict(given))
    assert example.examples, "a public name has an example"
    assert doctest.DocTestRunner().run(example).failed == 0
