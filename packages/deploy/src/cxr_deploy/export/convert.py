"""Convert a network to an ONNX graph."""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch

from cxr_data.errors import BadInput
from cxr_data.models.header import Header
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.padding import fixed_padding, merge
from cxr_deploy.runtimes import INPUT, OUTPUTS

OPSET = 17


def convert(answering: Answering, header: Header) -> onnx.ModelProto:
    """A network with its whole answer as an ONNX graph that takes any batch.

    Args:
        answering: The network, on the CPU.
        header: Its header; goes into the metadata with the label names.

    Returns:
        A checked graph: "pixels" (batch, 1, S, S) uint8 to :data:`~cxr_deploy.runtimes.OUTPUTS`.

    Raises:
        BadInput: The architecture uses operations that ONNX has not.
    """
    names = OUTPUTS[: 3 if answering.maps else 2]
    pixels = torch.zeros(2, 1, header.input.size, header.input.size, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), _no_output(), fixed_padding(answering.eval(), pixels):
        # The exporter by tracing needs no package beyond onnx. What tracing may freeze (a batch size, a branch) is
        # what the check against PyTorch at two batch sizes would find.
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1")  # of padding, which is folded below
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage] - its only name
        try:
            torch.onnx.export(
                answering,
                (pixels,),
                buffer,  # pyright: ignore[reportArgumentType] - the exporter by tracing takes a buffer
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
    merge(model)
    model.producer_name = "cxr-deploy"
    model.doc_string = "Chest radiograph classifier, for research only. Not a medical device."
    onnx.checker.check_model(model)
    return model


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
