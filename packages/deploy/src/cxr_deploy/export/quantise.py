"""8-bit files: several are made, the fastest whose validation AUROC holds is kept.

Weights are int8 (symmetric), activations uint8, written as static QDQ: pairs of QuantizeLinear and DequantizeLinear
around float operators, which each runtime fuses differently. The normalisation before the network and what turns
logits into probabilities and maps stay in float32: they cost next to nothing and round the answer itself.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cxr_common.gain import auroc_gain
from cxr_data import timing
from cxr_data.machine import cpu_has_vnni
from cxr_data.models.header import Header
from cxr_data.models.metrics import auroc, macro
from cxr_deploy import runtimes
from cxr_deploy.export import ranges
from cxr_deploy.export.agreement import agreement
from cxr_deploy.export.compact import compact
from cxr_deploy.export.stem import in_blocks
from cxr_deploy.runtimes import INPUT, OUTPUTS

QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu", "Clip")
"""Operators computed in 8 bits; the others see float32 between them."""
KEPT_FLOAT: dict[str, Callable[[onnx.ModelProto], list[str]]] = {
    "none": lambda model: [],
    "first": lambda model: _weighted(model)[:1],
    "first and last": lambda model: [*_weighted(model)[:1], *_weighted(model)[-1:]],
}
"""Layers left in float32, beside the answer itself: the first sees pixels, the last makes logits."""
BATCH = 4
SAME_SPEED = 1.02
"""Variants within this ratio of the fastest count as equally fast: of those the most accurate is kept."""


@dataclass(frozen=True)
class Variant:
    """One set of choices for an 8-bit file.

    Attributes:
        method: Name in :data:`ranges.METHODS`.
        per_channel: One scale for each output channel of a weight, or one for all.
        kept: Name in :data:`KEPT_FLOAT`.
    """

    method: str
    per_channel: bool
    kept: str

    @property
    def name(self) -> str:
        """How it is called in messages and in export.json."""
        return f"{self.method}, {self.structure}"

    @property
    def structure(self) -> str:
        """What decides its speed: variants that differ in their ranges alone compute the same."""
        return f"per {'channel' if self.per_channel else 'tensor'}, float: {self.kept}"


VARIANTS = [Variant(*choice) for choice in itertools.product(ranges.METHODS, (True, False), KEPT_FLOAT)]


def search(
    model: onnx.ModelProto,
    header: Header,
    calibration: NDArray[np.uint8],
    validation: NDArray[np.uint8],
    targets: NDArray[np.float32],
    patients: NDArray[Any],
    *,
    max_drop: float,
    threads: int = 1,
    variants: Iterable[Variant] = VARIANTS,
) -> tuple[onnx.ModelProto | None, dict[str, Any]]:
    """Make every variant, measure them, and keep the fastest whose validation AUROC holds.

    Args:
        model: The float graph with its metadata.
        header: Header of the weights.
        calibration: (N, 1, S, S) uint8 training images.
        validation: (M, 1, S, S) uint8 validation images.
        targets: (M, L) in {0, 1, NaN}.
        patients: (M,) patient of each image: the clusters of the intervals.
        max_drop: Largest loss of AUROC (float32 minus 8 bits).
        threads: CPU threads of the timing.
        variants: What to try.

    Returns:
        The graph kept, or None; and a report of JSON types: "kept" (its name, or null with a "reason"), "auroc" of
        the float file, and for every variant "auroc", "drop", "low" and "high" of its 95 % interval, what
        :func:`cxr_deploy.export.agreement.agreement` gives, "latency_ms", "speedup" over the float file, "bytes".
    """
    variants = list(variants)
    model = in_blocks(model)
    histograms = _observe(model, calibration, threads)
    graphs = {variant.name: build(model, histograms, variant) for variant in variants}

    def run(name: str) -> runtimes.Run:
        graph = graphs[name] if name else model
        return runtimes.in_onnxruntime(graph.SerializeToString(), threads=threads)

    scores = {name: runtimes.probabilities(run(name), validation) for name in ("", *graphs)}
    drops = {name: drop(targets, scores[""], scores[name], patients, header) for name in graphs}
    latency = _latencies(run, {variant.name: variant.structure for variant in variants}, validation)
    tried = [
        {
            "name": name,
            "bits": {"activations": 8, "weights": 8 if cpu_has_vnni() else 7},
            **drops[name],
            **agreement(targets, scores[""], scores[name], header),
            "latency_ms": latency[name],
            "speedup": latency[""] / latency[name],
            "bytes": graphs[name].ByteSize(),
        }
        for name in graphs
    ]
    kept = choose(tried, max_drop)
    report: dict[str, Any] = {
        "auroc": _number(_headline(targets, scores[""], header)),
        "max_drop": max_drop,
        "calibration_images": len(calibration),
        "validation_images": len(validation),
        "threads": threads,
        "float_latency_ms": latency[""],
        "kept": kept["name"] if kept else None,
        "variants": tried,
    }
    if kept is None:
        known = [row["drop"] for row in tried if row["drop"] is not None]
        report["reason"] = (
            f"no variant keeps validation AUROC within {max_drop}: the best loses {min(known):.4f}"
            if known
            else "validation AUROC is undefined: a label needs positives and negatives there"
        )
    return (graphs[kept["name"]] if kept else None), report


def choose(tried: Iterable[Mapping[str, Any]], max_drop: float) -> Mapping[str, Any] | None:
    """The fastest variant that qualifies; among equally fast ones the one that loses least.

    Args:
        tried: Rows with "drop" (None where undefined) and "latency_ms".
        max_drop: Largest loss of AUROC.
    """
    fit = [row for row in tried if row["drop"] is not None and row["drop"] <= max_drop]
    if not fit:
        return None
    fastest = min(row["latency_ms"] for row in fit)
    return min((row for row in fit if row["latency_ms"] <= fastest * SAME_SPEED), key=lambda row: row["drop"])


def build(model: onnx.ModelProto, histograms: ranges.Histograms, variant: Variant) -> onnx.ModelProto:
    """One 8-bit graph; opset and metadata are those of the float graph, which is left as it is."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copied = _inferred(model)
    outside = [*_outside(copied), *KEPT_FLOAT[variant.kept](copied)]
    quantizer = QDQQuantizer(
        copied,
        variant.per_channel,
        not cpu_has_vnni(),  # weights of 7 bits: AVX2 alone clips sums of products of 8-bit ones
        QuantType.QInt8,
        QuantType.QUInt8,
        ranges.tensors_range(histograms, variant.method),
        [],
        outside,
        list(QUANTISED),
        # Runtimes make integers of the biases, from the scales of input and weight: ONNX Runtime from 1.21 on.
        {"ActivationSymmetric": False, "WeightSymmetric": True, "QuantizeBias": False},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    made.producer_name, made.doc_string = model.producer_name, model.doc_string
    compact(made)
    onnx.checker.check_model(made)
    return made


def drop(
    targets: NDArray[np.float32],
    reference: NDArray[np.float32],
    scores: NDArray[np.float32],
    patients: NDArray[Any],
    header: Header,
) -> dict[str, float | None]:
    """Loss of AUROC and its paired 95 % interval, with patients as clusters (see :func:`cxr_common.gain.auroc_gain`).

    Args:
        targets: (N, L) in {0, 1, NaN}.
        reference: (N, L) scores of the float file.
        scores: (N, L) scores of the 8-bit file.
        patients: (N,) patient of each image.
        header: Says whether one label or the mean of all counts.

    Returns:
        "auroc" of the 8-bit file, "drop", "low", "high"; None where undefined.
    """
    columns = slice(1, 2) if _two_classes(header) else slice(None)
    loss, low, high = auroc_gain(targets[:, columns], reference[:, columns], scores[:, columns], patients)
    return {
        "auroc": _number(_headline(targets, scores, header)),
        "drop": _number(loss),
        "low": _number(low),
        "high": _number(high),
    }


def _headline(targets: NDArray[np.float32], scores: NDArray[np.float32], header: Header) -> float:
    values = auroc(targets, scores)
    return float(values[1]) if _two_classes(header) else macro(values)


def _two_classes(header: Header) -> bool:
    return header.task == "multiclass" and len(header.labels) == 2


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _latencies(
    run: Callable[[str], runtimes.Run], structures: Mapping[str, str], images: NDArray[np.uint8]
) -> dict[str, float]:
    """Milliseconds for one image, equal for variants of one structure; "" is the float file.

    The tenth percentile of the calls: what a machine does besides only ever adds time.
    """
    timed = {"": "", **{structure: name for name, structure in structures.items()}}
    calls = {structure: functools.partial(run(name), images[:1]) for structure, name in timed.items()}
    quick = {key: float(np.percentile(times, 10)) * 1000 for key, times in timing.alternate(calls, 1.0).items()}
    return {name: quick[structure] for name, structure in {"": "", **structures}.items()}


def _observe(model: onnx.ModelProto, images: NDArray[np.uint8], threads: int) -> ranges.Histograms:
    def batches() -> Iterable[NDArray[np.uint8]]:
        return (images[at : at + BATCH] for at in range(0, len(images), BATCH))

    return ranges.observe(_inferred(model), batches, threads)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _weighted(model: onnx.ModelProto) -> list[str]:
    """Names of the layers with weights, from the first to the one that makes logits."""
    outside = set(_outside(model))
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and constants & set(node.input) and node.name not in outside
    ]


def _outside(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the first layer with weights, and of those that make maps and probabilities."""
    constants = {tensor.name for tensor in model.graph.initializer}
    names, reached = [], {INPUT}
    for node in model.graph.node:  # a topological order
        if not reached & set(node.input):
            continue
        if node.op_type in ("Conv", "Gemm", "MatMul") and constants & set(node.input):
            break
        names.append(node.name)
        reached |= set(node.output)
    made_by = {name: node for node in model.graph.node for name in node.output}
    after = [made_by[name] for name in (OUTPUTS[0], OUTPUTS[2]) if name in made_by]
    before = [made_by[name] for node in after for name in node.input if name in made_by]
    scaling = [node for node in before if node.op_type in ("Div", "Mul", "Constant")]
    return names + [node.name for node in (*after, *scaling)]
