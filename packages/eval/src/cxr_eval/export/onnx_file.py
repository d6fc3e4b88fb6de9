"""ONNX files with the whole answer inside, and what they say of themselves."""

import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from cxr_common import checkpoint
from cxr_common.checkpoint import Header
from cxr_common.errors import BadInput
from cxr_common.files import whole_file
from cxr_eval.export.answer import INPUT, OUTPUTS, Answering

OPSET = 17
ABOUT, LABELS = "cxr_export", "cxr_labels"
"""Keys of the metadata beside the header's own (``checkpoint.KEY``)."""
TOLERANCE = 1e-4
"""Largest difference of a probability to PyTorch's that a float32 file may show."""


def convert(answering: Answering, header: Header) -> onnx.ModelProto:
    """A network with its whole answer as an ONNX graph that takes any batch.

    Args:
        answering: The network, on the CPU.
        header: Its header; goes into the metadata with the label names.

    Returns:
        A checked graph: "pixels" (batch, 1, S, S) uint8 to :data:`~cxr_eval.export.answer.OUTPUTS`.

    Raises:
        BadInput: The architecture uses operations that ONNX has not.
    """
    names = OUTPUTS[: 3 if answering.maps else 2]
    pixels = torch.zeros(2, 1, header.input.size, header.input.size, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), _no_output():
        # The exporter by tracing needs no package beyond onnx. What tracing may freeze (a batch size, a branch) is
        # what the check against PyTorch at two batch sizes would find.
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        try:
            torch.onnx.export(
                answering.eval(),
                (pixels,),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(names),
                dynamic_axes={name: {0: "batch"} for name in (INPUT, *names)},
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise BadInput(
                "an architecture that can be written as ONNX",
                f"{header.architecture}: {str(error).splitlines()[0][:200]}",
                do="choose another architecture, or use the safetensors file",
            ) from error
    model = onnx.load_from_string(buffer.getvalue())
    model.producer_name = "cxr-eval"
    model.doc_string = "Chest radiograph classifier, for research only. Not a medical device."
    onnx.checker.check_model(model)
    return model


def describe(model: onnx.ModelProto, header: Header, about: Mapping[str, Any]) -> None:
    """Put header, label names and a table of our own into a graph's metadata.

    Args:
        model: The graph, changed in place.
        header: Header of the weights it was made from.
        about: What this file is: precision, source, how it was checked; JSON types.
    """
    texts = {
        checkpoint.KEY: checkpoint.header_text(header),
        LABELS: json.dumps(list(header.labels), ensure_ascii=False),
        ABOUT: json.dumps(dict(about), sort_keys=True, allow_nan=False),
    }
    onnx.helper.set_model_props(model, texts)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph whole or not at all."""
    with whole_file(path) as file:
        file.write(model.SerializeToString())


def load(path: str | Path) -> tuple[onnx.ModelProto, Header, dict[str, Any]]:
    """Read a file written by ``export-model``.

    Args:
        path: The file.

    Returns:
        Graph, header of the weights, and what the file says of its own making.

    Raises:
        BadInput: Missing, no ONNX file, or one of another origin.
    """
    do = "give a file written by export-model"
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadInput("an ONNX file", error.strerror or str(error), where=path, do=do) from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        raise BadInput("an ONNX file", "something else, or a damaged one", where=path, do=do) from error
    found = {entry.key: entry.value for entry in model.metadata_props}
    if not model.graph.node:
        raise BadInput("an ONNX file", "something else, or a damaged one", where=path, do=do)
    if checkpoint.KEY not in found or ABOUT not in found:
        made_by = f" ({model.producer_name[:40]})" if model.producer_name else ""
        raise BadInput(
            "an ONNX file written by export-model",
            f"one of another origin{made_by}, without our header",
            where=path,
            do=do,
        )
    return model, checkpoint.parse_header(found[checkpoint.KEY], path), json.loads(found[ABOUT])


def compare(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> float:
    """Largest absolute difference of a probability between two answers to the same images."""
    return float(np.abs(ours["probabilities"].astype(np.float64) - theirs["probabilities"]).max())


@contextmanager
def _no_output() -> Iterator[None]:
    """Keep the exporter's C++ from printing the whole graph where an operation is missing: the exception names it."""
    sys.stdout.flush()
    kept = os.dup(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(silent)
