"""ONNX files as ``export-model`` writes them, without a cohort to check them on."""

from pathlib import Path
from typing import Any

from cxr_common.models.zoo import GrayNetwork
from cxr_data.models.header import Header
from cxr_deploy.export import onnx_file
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert


def write_onnx(network: GrayNetwork, header: Header, path: Path, *, precision: str = "fp32", **about: Any) -> Path:
    """Write a network that takes gray images as an ONNX file; ``about`` is what the file says of its making."""
    graph = convert(Answering(network, header), header)
    onnx_file.describe(graph, header, {"schema": 1, "precision": precision, **about})
    onnx_file.save(graph, path)
    return path
