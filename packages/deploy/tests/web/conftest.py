"""A page to test, and a server that counts."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import write_onnx
from torch import nn

from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.errors import BadInput
from cxr_data.synthetic.phantom import phantom
from cxr_deploy.export import onnx_file, quantise
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert
from cxr_deploy.web import runtime_files

RAD = {"name": "<b>rad</b>/model.safetensors", "sha256": "ef" * 32, "licence": "MSRLA", "source": "hf:org/rad@1"}
"""An ancestor that forbids commercial use, with markup in its name."""


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """An ONNX file of a small classifier whose answers depend on the image."""
    torch.manual_seed(0)
    network = build("resnet18", 2, size=96)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
    gray = GrayNetwork(network, 0.45, 0.25).eval()
    _balance(gray, torch.from_numpy(phantom(12, size=96, seed=0, task="multiclass")["pixels"]).unsqueeze(1))
    header = Header(
        "model",
        "resnet18",
        Input(96, 0.45, 0.25, pixels={"aspect": "squash", "window": "voi"}),
        task="multiclass",
        labels=("NORMAL", "PNEUMONIA"),
        thresholds=(0.45, 0.55),
        calibration={"temperature": 1.3},
        config={"data": "/home/somebody/secret"},
        cohort={"pixel_size": 128},
        licence="CC-BY-4.0",
        ancestors=(RAD,),
    )
    return write_onnx(gray, header, tmp_path_factory.mktemp("web") / "model.onnx", source={"sha256": "ab" * 32})


@pytest.fixture(scope="session")
def eight_bits(tmp_path_factory) -> Path:
    """A classifier in 8 bits that has learnt something: what a random one answers is mostly rounding, much enlarged."""
    made = phantom(64, size=96, seed=1, task="multiclass")
    images, normal = made["pixels"][:, None], made["targets"][:, :1]
    targets = np.hstack([normal, 1 - normal])
    torch.manual_seed(0)
    gray = GrayNetwork(build("resnet18", 2, size=96), 0.45, 0.25).train()
    optimizer = torch.optim.AdamW(gray.parameters(), lr=1e-3)
    for _ in range(8):
        for rows in np.random.default_rng(0).permutation(64).reshape(4, 16):
            logits = gray(torch.from_numpy(images[rows]))
            nn.functional.cross_entropy(logits, torch.from_numpy(targets[rows])).backward()
            optimizer.step()
            optimizer.zero_grad()
    names = ("NORMAL", "PNEUMONIA")
    header = Header("model", "resnet18", Input(96, 0.45, 0.25), "multiclass", names, thresholds=(0.5, 0.5))
    graph = convert(Answering(gray.eval(), header), header)
    few = {"max_drop": 1.0, "variants": quantise.VARIANTS[:1]}
    quantised, _ = quantise.search(graph, header, images, images, targets, made["patient"], **few)
    assert quantised is not None
    onnx_file.describe(quantised, header, {"schema": 1, "precision": "int8", "source": {"sha256": "cd" * 32}})
    path = tmp_path_factory.mktemp("web") / "model.int8.onnx"
    onnx_file.save(quantised, path)
    return path


@torch.no_grad()
def _balance(gray: GrayNetwork, images: torch.Tensor) -> None:
    """Let the logits of radiographs spread around 0 by about 1, as a trained classifier's do."""
    classifier = gray.network.get_submodule("fc")
    assert isinstance(classifier, nn.Linear)
    logits = gray(images)
    classifier.weight.div_(logits.std(0)[:, None])
    classifier.bias.copy_((classifier.bias - logits.mean(0)) / logits.std(0))


@pytest.fixture(scope="session")
def ort_web() -> str:
    """onnxruntime-web's archive: from the user's cache, or fetched once; without a network the test is skipped."""
    try:
        return str(runtime_files._fetched())
    except BadInput as error:
        pytest.skip(f"onnxruntime-web is not to be had: {error.found}")


@pytest.fixture(scope="module")
def serve() -> Iterator[Any]:
    """serve(folder) -> (address, list of the paths asked for)."""
    servers = []

    def start(folder: Path) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                asked.append(self.path)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
