"""Write, read and compare ONNX files that carry a header and the whole answer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cxr_data.files import whole_file
from cxr_data.models.header import EXPORT_KEY, KEY, Header, describe_onnx, header_text

LABELS = "cxr_labels"
"""Key of the label names, as a JSON list, for callers that need nothing else of the header."""
TOLERANCE = {"probabilities": 1e-4, "logits": 1e-3, "maps": 1e-3}
"""Largest difference to PyTorch's answer that a float32 file may show, as :func:`compare` counts it."""


def describe(model: onnx.ModelProto, header: Header, about: Mapping[str, Any]) -> None:
    """Put header, label names and a table of our own into a graph's metadata.

    Args:
        model: The graph, changed in place.
        header: Header of the weights it was made from.
        about: What this file is: precision, source, how it was checked; JSON types.
    """
    texts = {
        KEY: header_text(header),
        LABELS: json.dumps(list(header.labels), ensure_ascii=False),
        EXPORT_KEY: json.dumps(dict(about), sort_keys=True, allow_nan=False),
    }
    onnx.helper.set_model_props(model, texts)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph whole or not at all."""
    with whole_file(path) as file:
        file.write(model.SerializeToString())


def load(path: str | Path) -> tuple[onnx.ModelProto, Header, dict[str, Any]]:
    """Read a file written by ``export-model``.

    Returns:
        Graph, header of the weights, and what the file says of its own making.

    Raises:
        BadInput: Missing, no ONNX file, or one of another origin.
    """
    header, about = describe_onnx(path)
    return onnx.load_from_string(Path(path).read_bytes()), header, about


def compare(expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Largest difference of each output between two answers to the same images.

    Args:
        expected: Outputs by name.
        actual: The same outputs of another runtime.

    Returns:
        Name -> difference: absolute for probabilities; for logits and maps, which know no bounds, as a share of the
        largest value expected where that is above 1.
    """
    differences = {}
    for name, values in expected.items():
        largest = float(np.abs(values.astype(np.float64) - actual[name]).max())
        differences[name] = largest / (1.0 if name == "probabilities" else max(1.0, float(np.abs(values).max())))
    return differences
