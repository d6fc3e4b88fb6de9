import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cxr_common.checkpoint import Header, Input
from cxr_common.models import folding
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.errors import BadInput
from cxr_deploy import extras, runtimes
from cxr_deploy.export import torch_runtime
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert


@pytest.fixture(scope="module", params=["resnet18", "mobilenetv2_100"])
def network(request):
    torch.manual_seed(0)
    made = build(request.param, 2, size=32)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.2)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
    header = Header("model", request.param, Input(32, 0.5, 0.25), task="multilabel", labels=("A", "B"))
    return GrayNetwork(made, 0.5, 0.25).eval(), header


@pytest.fixture(scope="module")
def graph(network):
    plain, header = network
    return convert(Answering(plain, header), header).SerializeToString()


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32), np.uint8)


def test_folding_leaves_no_normalisation_and_the_same_answers(network):
    plain, header = network
    folded = folding.folded(plain, 32)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        pixels = torch.from_numpy(PIXELS)
        torch.testing.assert_close(folded(pixels), plain(pixels), rtol=1e-4, atol=1e-4)
    expected = torch_runtime.in_torch(plain, header)(PIXELS)
    actual = torch_runtime.in_torch(plain, header, fold=True)(PIXELS)
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-4)


def test_bf16_is_near_and_answers_in_float32(network):
    plain, header = network
    expected = torch_runtime.in_torch(plain, header)(PIXELS)
    actual = torch_runtime.in_torch(plain, header, fold=True, bf16=True)(PIXELS)
    assert actual["probabilities"].dtype == np.float32
    np.testing.assert_allclose(actual["probabilities"], expected["probabilities"], atol=0.03)


def test_openvino_gives_the_same_answers(network, graph):
    pytest.importorskip("openvino")
    plain, header = network
    expected = torch_runtime.in_torch(plain, header)(PIXELS)
    run = runtimes.in_openvino(graph, threads=1)
    actual, kept = run(PIXELS), run(PIXELS[:1])
    run(255 - PIXELS)  # a later call must not change earlier answers
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-4)
        np.testing.assert_allclose(kept[name], expected[name][:1], atol=1e-4)


SIGNALLED = """
import faulthandler, signal, sys
from pathlib import Path
import numpy as np
from cxr_deploy import extras, runtimes
faulthandler.enable()  # with which Python handles signals on a stack of their own
caught = []
signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
model = Path(sys.argv[1]).read_bytes()
first, second = (runtimes.in_openvino(model, threads=1) for _ in range(2))
first(np.zeros((1, 1, 32, 32), np.uint8))
signal.raise_signal(signal.SIGTERM)
del first
del second
signal.raise_signal(signal.SIGTERM)
runtimes.in_onnxruntime(model, threads=1)
print(len(caught))
"""


@pytest.mark.parametrize("network", ["resnet18"], indirect=True)
def test_a_process_that_has_used_openvino_survives_its_signals_and_no_runtime_reports_itself(graph, tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "model.onnx").write_bytes(graph)
    command = [sys.executable, "-c", SIGNALLED, str(tmp_path / "model.onnx")]
    (home := tmp_path / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert list(home.iterdir()) == []  # both would keep a number of this machine there, to report their use with


def test_a_missing_openvino_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "openvino", ("no_such_module",))
    with pytest.raises(BadInput, match=r"cxr-deploy\[openvino\]"):
        runtimes.in_openvino(b"")


def test_bytes_that_are_no_graph_are_refused():
    with pytest.raises(BadInput, match="ONNX Runtime can run"):
        runtimes.in_onnxruntime(b"nothing")


def test_every_runtime_can_be_asked_for_and_is_timed():
    from cxr_deploy.benchmark import entries
    from cxr_deploy.config import PredictConfig

    for name in ("auto", "fastest", "torch", *runtimes.RUNTIMES):
        PredictConfig(["model", "image"], runtime=name)
    with pytest.raises(BadInput, match="onnxruntime"):
        PredictConfig(["model", "image"], runtime="onnxruntim")
    timed = {(one.title, precision) for one in runtimes.RUNTIMES.values() for precision in one.options}
    assert timed == {key for key in entries.makers() if not key[0].startswith("PyTorch")}
