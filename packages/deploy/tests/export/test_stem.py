from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cxr_deploy import runtimes
from cxr_deploy.export.stem import in_blocks

# As in convert.py: the exporter by tracing is what is meant.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32), np.uint8)


class Net(nn.Module):
    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.body = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(conv.out_channels, 4, 3, stride=2, padding=1))

    def forward(self, pixels):
        return self.body(pixels.float() / 255 - 0.4)


def graph_of(conv: nn.Conv2d, size: int, folder: Path) -> onnx.ModelProto:
    pixels = torch.zeros(2, conv.in_channels, size, size, dtype=torch.uint8)
    axes = {"pixels": {0: "batch"}}
    torch.onnx.export(Net(conv), (pixels,), folder / "x.onnx", dynamo=False, input_names=["pixels"], dynamic_axes=axes)
    return onnx.load(folder / "x.onnx")


@pytest.mark.parametrize(("kernel", "bias"), [(7, False), (3, True), (5, True)])
def test_blocks_give_the_same_sums(kernel: int, bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(kernel)
    graph = graph_of(nn.Conv2d(1, 8, kernel, stride=2, padding=kernel // 2, bias=bias), 32, tmp_path)
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
def test_other_first_layers_stay(conv: nn.Conv2d, size: int, tmp_path: Path) -> None:
    graph = graph_of(conv, size, tmp_path)
    assert in_blocks(graph) == graph
