"""Ranges of the values inside a network, seen on calibration images: what 8 bits must span.

A tensor's values are counted once, in a histogram between its smallest and largest value; each method reads its range
from there. All ranges contain 0, which the integer grid must hit exactly (padding, ReLU).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cxr_data.models.onnx_session import open_session

BINS = 2048
LEVELS = 255
TAIL = 1e-4
"""Share of the values on each side that the percentile method leaves out."""
CLIPPED = np.linspace(1.0, 0.3, 36)
"""Shares of the full range that the squared-error method tries."""
STRIDE_ABOVE = 2**16
"""Values of one tensor and batch that are counted; larger ones are read at regular steps."""

Histograms = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Tensor -> counts (BINS,) and edges (BINS + 1,)."""


def observe(model: onnx.ModelProto, batches: Callable[[], Iterable[NDArray[np.uint8]]], threads: int) -> Histograms:
    """Histograms of every float tensor that a node writes, from two passes over the images.

    Args:
        model: The float graph, shapes inferred; left as it is.
        batches: Gives the same batches (B, 1, S, S) uint8 each time it is called.
        threads: CPU threads.
    """
    run, names = _exposed(model, threads)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for images in batches():
        for i, values in enumerate(run(images)):
            low[i], high[i] = min(low[i], values.min()), max(high[i], values.max())
    edges = [np.linspace(a, b if b > a else a + 1e-6, BINS + 1) for a, b in zip(low, high, strict=True)]
    counts = [np.zeros(BINS) for _ in names]
    for images in batches():
        for i, values in enumerate(run(images)):
            flat = values.ravel()[:: max(1, values.size // STRIDE_ABOVE)]
            place = (flat - edges[i][0]) * (BINS / (edges[i][-1] - edges[i][0]))
            counts[i] += np.bincount(place.astype(np.int64).clip(0, BINS - 1), minlength=BINS)
    return {name: (counts[i], edges[i]) for i, name in enumerate(names)}


def minmax(counts: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[float, float]:
    """Everything that was seen; (counts (BINS,), edges (BINS + 1,)) -> (low, high)."""
    return _with_zero(edges[0], edges[-1])


def percentile(counts: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[float, float]:
    """All but a share :data:`TAIL` of the values on each side; arguments and result as in :func:`minmax`."""
    below = np.concatenate(([0.0], counts.cumsum())) / max(counts.sum(), 1)
    first = int(np.searchsorted(below, TAIL, "right")) - 1
    last = int(np.searchsorted(below, 1 - TAIL, "left"))
    return _with_zero(edges[max(first, 0)], edges[min(last, len(edges) - 1)])


def squared_error(counts: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[float, float]:
    """The share of the full range with the least expected squared error of rounding and clipping.

    A step s = (high - low) / 255 rounds with error s^2 / 12 inside; outside the distance to the end counts.
    Arguments and result as in :func:`minmax`.
    """
    middle = (edges[:-1] + edges[1:]) / 2
    full = _with_zero(edges[0], edges[-1])
    best, least = full, np.inf
    for share in CLIPPED:
        low, high = full[0] * share, full[1] * share
        outside = np.maximum(low - middle, 0) + np.maximum(middle - high, 0)
        inside = ((high - low) / LEVELS) ** 2 / 12 * (outside == 0)
        error = float(counts @ (outside**2 + inside))
        if error < least:
            best, least = (low, high), error
    return best


METHODS: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[float, float]]] = {
    "minmax": minmax,
    "percentile": percentile,
    "squared error": squared_error,
}


def tensors_range(histograms: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], method: str) -> Any:
    """Ranges in the form that ONNX Runtime's quantizer takes."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

    data: dict[str, Any] = {}
    for name, (counts, edges) in histograms.items():
        low, high = METHODS[method](counts, edges)
        data[name] = TensorData(lowest=np.float32(low), highest=np.float32(high))
    return TensorsData(CalibrationMethod.MinMax, data)


def _exposed(
    model: onnx.ModelProto, threads: int
) -> tuple[Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]], list[str]]:
    """A session that gives every float tensor a node writes, and their names."""
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    written = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]
    names = [
        name for name in written if name in known and known[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    del open_model.graph.output[:]
    open_model.graph.output.extend(known[name] for name in names)
    session = open_session(open_model.SerializeToString(), threads=threads)
    return lambda images: session.run(names, {model.graph.input[0].name: images}), names


def _with_zero(low: float, high: float) -> tuple[float, float]:
    return min(float(low), 0.0), max(float(high), 0.0)
