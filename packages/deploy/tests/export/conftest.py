"""A small classifier with lively weights, and its file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cxr_common import checkpoint
from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build

LABELS = ("effusion", "cardiomegaly", "nodule")


@pytest.fixture(scope="session")
def lively():
    """Builds (network, header) whose normalisations do something: lively(architecture, task, labels, size)."""

    def make(architecture="resnet18", task="multilabel", labels=LABELS, size=64, **more: Any):
        torch.manual_seed(0)
        network = build(architecture, len(labels), size=size)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
                nn.init.normal_(module.get_buffer("running_mean"), 0, 0.2)
                nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
        settings = {"calibration": {"temperature": 1.7}, "thresholds": (0.4, 0.5, 0.6)[: len(labels)], **more}
        header = Header(
            "model",
            architecture,
            Input(size, 0.45, 0.25, pixels={"aspect": "squash", "window": "full"}),
            task=task,
            labels=tuple(labels),
            config={"data": "phantom:60"},
            **settings,
        )
        return GrayNetwork(network, header.input.mean, header.input.std).eval(), header

    return make


@pytest.fixture
def model_file(lively, tmp_path: Path):
    """Writes a lively classifier, a tiny one unless told otherwise: model_file(**as above) -> path."""

    def write(folder: str = "small", architecture: str = "test_resnet", **options: Any) -> Path:
        network, header = lively(architecture, **options)
        path = tmp_path / "runs" / "quickstart" / folder / "model.safetensors"
        checkpoint.save(path, network, header)
        return path

    return write


@pytest.fixture(scope="session")
def radiographs(shared_data: Path):
    """Builds (N, 1, S, S) uint8 real radiographs: radiographs(count, size)."""
    import numpy as np

    from cxr_data.images.read import read_image

    def read(count: int, size: int):
        files = sorted((shared_data / "covid_cxr").rglob("*.jpg"))[:count]
        return np.stack([read_image(file, size) for file in files])[:, None]

    return read
