"""A small classifier as safetensors and as ONNX."""

from pathlib import Path

import pytest
import torch
from exports import write_onnx
from torch import nn

from cxr_common import checkpoint
from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Files of one classifier: "torch" (model.safetensors), "onnx" (model.onnx), "flat" (one without heat maps)."""
    folder = tmp_path_factory.mktemp("models")
    files = {}
    for kind, architecture in (("torch", "resnet18"), ("flat", "baseline_cnn")):
        torch.manual_seed(0)
        network = build(architecture, 2, size=32)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
        header = Header(
            "model",
            architecture,
            Input(32, 0.45, 0.25, pixels={"aspect": "squash", "window": "voi"}),
            task="multiclass",
            labels=("NORMAL", "PNEUMONIA"),
            thresholds=(0.45, 0.55),
            calibration={"temperature": 1.3},
            cohort={"pixel_size": 64},
        )
        files[kind] = folder / kind / "model.safetensors"
        checkpoint.save(files[kind], network, header)
        if kind == "torch":
            gray = GrayNetwork(network, header.input.mean, header.input.std).eval()
            files["onnx"] = write_onnx(gray, header, folder / "onnx" / "model.onnx")
    return files
