import io

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cxr_eval import runtimes
from cxr_eval.export.stem import in_blocks

# As in convert.py: the exporter by tracing is what is meant.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32), np.uint8)


class Net(nn.Module):
    def __init__(self, conv: nn.Conv2d, size: int = 32):
        super().__init__()
        self.size = size
        self.body = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(conv.out_channels, 4, 3, stride=2, padding=1))

    def forward(self, pixels):
        return self.body(pixels.float() / 255 - 0.4)


def graph_of(net: Net) -> onnx.ModelProto:
    buffer = io.BytesIO()
    pixels = torch.zeros(2, net.body[0].in_channels, net.size, net.size, dtype=torch.uint8)
    torch.onnx.export(
        net, (pixels,), buffer, dynamo=False, input_names=["pixels"], dynamic_axes={"pixels": {0: "batch"}}
    )
    return onnx.load_from_string(buffer.getvalue())


@pytest.mark.parametrize(("kernel", "bias"), [(7, False), (3, True), (5, True)])
def test_blocks_give_the_same_sums(kernel: int, bias: bool) -> None:
    torch.manual_seed(kernel)
    graph = graph_of(Net(nn.Conv2d(1, 8, kernel, stride=2, padding=kernel // 2, bias=bias)))
    before = graph.SerializeToString()
    made = in_blocks(graph)
    onnx.checker.check_model(made, full_check=True)
    assert graph.SerializeToString() == before
    assert [node.op_type for node in made.graph.node].count("SpaceToDepth") == 1
    (plain,), (cut,) = (runtimes.in_onnxruntime(one.SerializeToString())(PIXELS).values() for one in (graph, made))
    np.testing.assert_allclose(cut, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(3, 8, 7, stride=2, padding=3), 32),
        (nn.Conv2d(1, 8, 3, padding=1), 32),
        (nn.Conv2d(1, 8, 4, stride=4), 32),
        (nn.Conv2d(1, 8, 3, stride=2, padding=2, dilation=2), 32),
        (nn.Conv2d(1, 8, 3, stride=2), 32),
        (nn.Conv2d(1, 8, 7, stride=2, padding=3), 33),
    ],
    ids=["three channels", "no stride", "patches", "dilated", "unpadded", "odd edge"],
)
def test_other_first_layers_stay(conv: nn.Conv2d, size: int) -> None:
    graph = graph_of(Net(conv, size))
    assert in_blocks(graph) == graph
