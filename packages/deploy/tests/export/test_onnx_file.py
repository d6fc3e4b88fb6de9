import json

import numpy as np
import onnx
import pytest
from exports import write_onnx
from onnx import TensorProto, helper
from torch import nn

from cxr_data.errors import BadInput
from cxr_data.models import header as header_of
from cxr_deploy import runtimes
from cxr_deploy.export import onnx_file, torch_runtime
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert


@pytest.fixture(scope="module")
def exported(lively, tmp_path_factory):
    network, header = lively()
    return write_onnx(network, header, tmp_path_factory.mktemp("export") / "model.onnx"), network, header


@pytest.mark.parametrize("batch", [1, 3])
def test_the_file_answers_as_pytorch_does(exported, radiographs, batch):
    path, network, header = exported
    images = radiographs(batch, 64)
    ours = runtimes.in_onnxruntime(path, threads=1)(images)
    expected = torch_runtime.in_torch(network, header)(images)
    assert list(ours) == ["probabilities", "logits", "maps"]
    for name, values in expected.items():
        assert ours[name].shape == values.shape
        np.testing.assert_allclose(ours[name], values, atol=1e-4)


def test_the_graph_takes_gray_bytes_and_says_what_it_is(exported):
    path, _, header = exported
    model, actual, about = onnx_file.load(path)
    (pixels,) = model.graph.input
    assert pixels.name == "pixels"
    assert pixels.type.tensor_type.elem_type == TensorProto.UINT8
    shape = [d.dim_param or d.dim_value for d in pixels.type.tensor_type.shape.dim]
    assert shape == ["batch", 1, 64, 64]
    assert actual == header
    assert about["precision"] == "fp32"
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(texts["cxr_labels"]) == list(header.labels)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert "research" in model.doc_string


def foreign() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value]), producer_name="else"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no protobuf at all, but text", "something else"),
        (b"", "something else"),
        (foreign().SerializeToString(), "another origin \\(else\\)"),
    ],
)
def test_files_of_another_origin_are_refused(tmp_path, content, says):
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=says):
        onnx_file.load(path)
    with pytest.raises(BadInput, match="No such file"):
        onnx_file.load(tmp_path / "missing.onnx")


def test_a_header_that_is_no_header_is_refused(exported, tmp_path):
    model, header, _ = onnx_file.load(exported[0])
    onnx_file.describe(model, header, {})
    next(e for e in model.metadata_props if e.key == header_of.KEY).value = "[1]"
    onnx_file.save(model, tmp_path / "broken.onnx")
    with pytest.raises(BadInput, match="header"):
        onnx_file.load(tmp_path / "broken.onnx")


def test_what_onnx_cannot_say_is_bad_input_without_a_flood(lively, capfd):
    network, header = lively("test_resnet", labels=("A",), size=64)
    network.network.layer4.append(nn.AdaptiveAvgPool2d(5))  # of maps of another size: no multiple of 5
    with pytest.raises(BadInput, match="adaptive_avg_pool2d"):
        convert(Answering(network, header), header)
    assert len(capfd.readouterr().out) < 200
