"""A network trained in 8 bits becomes a file that answers as it does in PyTorch, with its own scales."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from cxr_common import checkpoint
from cxr_common.models.eight_bits import in_eight_bits, observing
from cxr_data.errors import BadInput
from cxr_data.models.header import parent
from cxr_deploy import runtimes
from cxr_deploy.config import ExportConfig
from cxr_deploy.export import agreement as comparing
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert
from cxr_deploy.export.export import export
from cxr_deploy.export.integers import with_integer_weights

SMALL = ("test_resnet", "test_efficientnet", "test_vit")


@pytest.fixture
def trained(lively):
    """Builds (8-bit network, header, float network, images)."""

    def make(architecture: str, weight_bits: int = 7, size: int = 64):
        network, header = lively(architecture=architecture, size=size)
        images = np.random.default_rng(0).integers(0, 256, (24, 1, size, size), dtype=np.uint8)
        eight = in_eight_bits(network, size, weight_bits)
        with torch.no_grad(), observing(eight):
            eight(torch.from_numpy(images))
        return eight, dataclasses.replace(header, bits=eight.network.bits), network, images

    return make


@pytest.mark.parametrize(
    ("runtime", "architecture"), [*(("onnxruntime", name) for name in SMALL), ("openvino", SMALL[1])]
)
def test_runtimes_answer_as_the_fake_quantised_network(trained, runtime, architecture):
    eight, header, network, images = trained(architecture)
    graph = with_integer_weights(convert(Answering(eight, header), header))
    answers = runtimes.RUNTIMES[runtime].load(graph.SerializeToString(), threads=1)(images)
    with torch.no_grad():
        expected, unquantised = eight(torch.from_numpy(images)).numpy(), network(torch.from_numpy(images)).numpy()
    apart, cost = np.abs(answers["logits"] - expected), np.abs(unquantised - expected)
    # Float sums in another order round a value to the other end of a step now and then, and later layers carry that
    # on, at most until it is as large as what rounding costs at all.
    assert apart.mean() < 0.75 * cost.mean()


@pytest.mark.parametrize("weight_bits", [7, 8])
def test_the_file_has_the_networks_own_scales_and_small_weights(trained, weight_bits):
    eight, header, _, _ = trained("test_resnet", weight_bits)
    graph = with_integer_weights(convert(Answering(eight, header), header)).graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    weights = [value for value in constants.values() if value.dtype == np.int8 and value.ndim == 4]
    assert max(int(np.abs(value).max()) for value in weights) == 2 ** (weight_bits - 1) - 1
    scales = [value for name, value in eight.network.named_buffers() if name.startswith("weight_scale")]
    assert len(weights) == len(scales)
    found = [value for value in constants.values() if value.dtype == np.float32]
    for scale in scales:
        assert any(np.array_equal(scale.numpy(), one) for one in found)
    steps = {node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
    in_file = np.unique(np.array([float(constants[name]) for name in steps], np.float32))
    low, high = eight.network.ranges.unbind(1)
    assert np.isin(in_file, ((high - low) / 255).numpy()).all()
    floats = [value for value in constants.values() if value.dtype == np.float32 and value.ndim == 4]
    assert [len(value) for value in floats] == [len(header.labels)]  # the classifier, as it makes the maps


@pytest.mark.slow
def test_export_needs_no_calibration_and_compares_with_the_float_model(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    eight, header, network, _ = trained("test_resnet", size=32)
    before = tmp_path / "r" / "net" / "model.safetensors"
    checkpoint.save(before, network, dataclasses.replace(header, bits=None))
    file = tmp_path / "r" / "net-8bit" / "model.safetensors"
    checkpoint.save(file, eight, dataclasses.replace(header, parents=(parent("float", before),)))
    options: dict[str, Any] = {"models": [str(file)], "data": "phantom:60", "max_drop": 0.4, "min_agreement": 0.5}
    export(ExportConfig(**options))
    graph = onnx.load(file.parent / "export" / "model.int8.onnx")
    assert not (file.parent / "export" / "model.onnx").exists()
    assert any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    assert "of its decisions" in capsys.readouterr().out
    with pytest.raises(BadInput, match="--min_agreement"):
        export(ExportConfig(**{**options, "max_drop": 0.0, "min_agreement": 1.0}))
    before.write_bytes(file.read_bytes())
    with pytest.raises(BadInput, match="another file"):
        export(ExportConfig(**options))


def test_the_interval_of_equal_decisions_counts_patients(lively):
    _, header = lively(labels=("a",), thresholds=(0.5,))
    reference = np.full((40, 1), 0.4, np.float32)
    scores = reference.copy()
    scores[:4] = 0.6
    wide = comparing.resampled(reference, scores, np.arange(40) // 4, header)  # all four in one patient
    narrow = comparing.resampled(reference, scores, np.arange(40), header)
    assert wide["agreement_low"] < narrow["agreement_low"] < 0.9 < narrow["agreement_high"] <= wide["agreement_high"]
    own = dataclasses.replace(header, thresholds=(0.7,))  # fitted on the 8-bit answers
    assert comparing.resampled(reference, scores, np.arange(40), own, header)["agreement_low"] == 1
