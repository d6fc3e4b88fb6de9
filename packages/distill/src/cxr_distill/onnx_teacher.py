"""A classifier in ONNX as a teacher: its logits alone, in ONNX Runtime, in 8 bits where its file is."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cxr_data.errors import require_modules
from cxr_data.models.onnx_session import open_session

_INPUT, _OUTPUT = "pixels", "logits"


class OnnxClassifier(nn.Module):
    """The graph of a file of ``export-model``, as a module without weights.

    On processors without bfloat16 it answers sooner than the network that it was made of: a ResNet-50 in 8 bits in a
    third of the time.

    Args:
        path: The file.

    Raises:
        BadInput: ONNX Runtime is not installed, or cannot run the file.
    """

    def __init__(self, path: Path):
        super().__init__()
        require_modules(["onnxruntime"], "cxr-distill[onnx]", "a teacher in ONNX", where=path)
        self._session = open_session(path, threads=torch.get_num_threads())
        self.device_marker = nn.Parameter(torch.zeros(()), requires_grad=False)  # the graph itself has no device

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 1, S, S) uint8 to logits (B, L) float32, on the device of the pixels; computed on the CPU."""
        (logits,) = self._session.run([_OUTPUT], {_INPUT: pixels.cpu().contiguous().numpy()})
        return torch.from_numpy(logits).to(pixels.device)
