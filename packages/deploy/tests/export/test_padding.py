import numpy as np
import onnxruntime
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert
from cxr_deploy.export.padding import _padding, fixed_padding


@pytest.mark.parametrize("size", [45, 48])
def test_same_padding_becomes_part_of_the_convolutions(size):
    torch.manual_seed(0)
    network = GrayNetwork(build("tf_efficientnet_lite0", 2, size=size), 0.45, 0.25).eval()
    header = Header("model", "tf_efficientnet_lite0", Input(size, 0.45, 0.25), "multiclass", ("A", "B"))
    graph = convert(Answering(network, header), header)
    assert not {"Pad", "Shape", "Ceil", "Slice"} & {node.op_type for node in graph.graph.node}
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, size, size), dtype=np.uint8)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    logits = session.run(None, {"pixels": pixels})[names.index("logits")]
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)).numpy()
    assert np.abs(logits - expected).max() < 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (2, 2, 1), (3, 3, 1)])
@pytest.mark.parametrize("shape", [(16, 17), (9, 32)])
def test_the_constant_padding_is_that_of_timm(kernel, stride, dilation, shape):
    torch.manual_seed(0)
    network = nn.Sequential(Conv2dSame(1, 2, kernel, stride, dilation=dilation))
    images = torch.randn(2, 1, *shape)
    expected = network(images)
    with fixed_padding(network, images):
        assert torch.equal(network(images), expected)
        assert min(_padding(network[0], *shape)) >= 0  # pyright: ignore[reportArgumentType] - a convolution
    assert "forward" not in vars(network[0])
