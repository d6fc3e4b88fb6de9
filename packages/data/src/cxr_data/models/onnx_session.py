"""Open a graph in ONNX Runtime, which is imported only then: this package does not depend on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_data.errors import BadInput

CPU = "CPUExecutionProvider"
"""ONNX Runtime's name for the CPU."""


def open_session(model: str | Path | bytes, *, threads: int = 0, providers: Sequence[Any] = (CPU,)) -> Any:
    """An ``onnxruntime.InferenceSession`` that warns of nothing.

    Args:
        model: The file, or its bytes.
        threads: CPU threads; 0 takes every core.
        providers: What may compute it, the first that can.

    Raises:
        BadInput: ONNX Runtime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options, providers=list(providers))
    except Exception as error:  # its exceptions share no base class of their own
        where = None if isinstance(model, bytes) else model
        reason = str(error).splitlines()[0][:200]
        raise BadInput("a graph that ONNX Runtime can run", reason, where=where, do="export it again") from error
