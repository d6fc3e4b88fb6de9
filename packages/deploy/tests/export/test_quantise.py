import numpy as np
import onnx
import pytest

from cxr_data.models import header as header_of
from cxr_data.models.metrics import auroc, macro
from cxr_deploy import runtimes
from cxr_deploy.export import onnx_file, quantise, ranges
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import OPSET, convert
from cxr_deploy.export.quantise import Variant


@pytest.fixture(scope="module")
def graph(lively, radiographs):
    network, header = lively(size=64)
    model = convert(Answering(network, header), header)
    onnx_file.describe(model, header, {"schema": 1, "precision": "fp32"})
    images = radiographs(24, 64)
    histograms = quantise._observe(model, images[:12], threads=1)
    return model, header, images, histograms


@pytest.mark.parametrize(
    "variant",
    [
        Variant("minmax", True, "none"),
        Variant("squared error", False, "first and last"),
        Variant("percentile", True, "first"),
    ],
    ids=lambda variant: variant.name,
)
def test_a_variant_answers_nearly_as_the_float_graph(graph, variant):
    model, _, images, histograms = graph
    made = quantise.build(model, histograms, variant)
    expected = runtimes.in_onnxruntime(model.SerializeToString(), threads=1)(images)
    found = runtimes.in_onnxruntime(made.SerializeToString(), threads=1)(images)
    assert np.abs(found["probabilities"] - expected["probabilities"]).max() < 0.05
    assert np.abs(found["maps"] - expected["maps"]).mean() < 0.1 * expected["maps"].std()
    assert made.ByteSize() < 0.27 * model.ByteSize()


def test_opset_metadata_and_the_answer_survive(graph):
    model, header, _, histograms = graph
    made = quantise.build(model, histograms, Variant("minmax", True, "first and last"))
    assert [(o.domain, o.version) for o in made.opset_import if o.domain in ("", "ai.onnx")] == [("", OPSET)]
    texts = {entry.key: entry.value for entry in made.metadata_props}
    assert texts == {entry.key: entry.value for entry in model.metadata_props}
    assert header_of.parse_header(texts[header_of.KEY], "graph") == header
    assert [o.name for o in made.graph.output] == ["probabilities", "logits", "maps"]
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def scales(model, name):
    """Number of scales of the weight of a layer, 0 where it stayed float."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if node.name == name)
    source = made_by.get(node.input[1])
    return 0 if source is None else values[source.input[1]].size


def test_what_is_kept_float_is_and_scales_are_as_many_as_channels(graph):
    model, _, _, histograms = graph
    first, second = quantise._weighted(model)[:2]
    last = quantise._weighted(model)[-1]
    per_channel = quantise.build(model, histograms, Variant("minmax", True, "first"))
    assert scales(per_channel, first) == 0
    assert scales(per_channel, second) == 64
    assert scales(per_channel, last) > 0
    per_tensor = quantise.build(model, histograms, Variant("minmax", False, "first and last"))
    assert scales(per_tensor, second) == 1
    assert scales(per_tensor, last) == 0
    types = [node.op_type for node in per_tensor.graph.node]
    # The pixels are normalised in float32: the first of these rounds what has been normalised.
    assert types.index("Add") < types.index("QuantizeLinear")


def test_drop_is_the_difference_of_two_aurocs_with_its_interval(lively):
    _, header = lively()
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 3)) < 0.4).astype(np.float32)
    targets[::17, 1] = np.nan
    before = (np.nan_to_num(targets) + rng.normal(size=targets.shape)).astype(np.float32)
    after = (before + rng.normal(scale=0.5, size=targets.shape)).astype(np.float32)
    found = quantise.drop(targets, before, after, np.arange(300) // 2, header)
    expected = macro(auroc(targets, before)) - macro(auroc(targets, after))
    assert found["drop"] == pytest.approx(expected)
    assert found["low"] is not None
    assert found["high"] is not None
    assert found["low"] < expected < found["high"]
    same = quantise.drop(targets, before, before, np.arange(300), header)
    assert (same["drop"], same["low"], same["high"]) == (0, 0, 0)
    undefined = quantise.drop(np.zeros((5, 3), np.float32), before[:5], after[:5], np.arange(5), header)
    assert undefined["drop"] is None


def test_the_fastest_that_qualifies_is_chosen():
    rows = [
        {"name": "fast but wrong", "drop": 0.02, "latency_ms": 1.0},
        {"name": "fast", "drop": 0.004, "latency_ms": 2.01},
        {"name": "as fast, better", "drop": 0.001, "latency_ms": 2.03},
        {"name": "exact", "drop": 0.0, "latency_ms": 4.0},
        {"name": "unknown", "drop": None, "latency_ms": 0.5},
    ]
    assert quantise.choose(rows, 0.005) == rows[2]  # as fast, better
    assert quantise.choose(rows, 0.0) == rows[3]  # exact
    assert quantise.choose(rows[:1], 0.005) is None


@pytest.mark.slow
def test_search_reports_what_was_tried_and_why_nothing_was_kept(graph):
    model, header, images, _ = graph
    targets = np.random.default_rng(0).integers(0, 2, (24, 3)).astype(np.float32)
    variants = [Variant("minmax", True, "none"), Variant("minmax", False, "none")]
    options = {"threads": 1, "variants": variants}
    kept, report = quantise.search(model, header, images[:8], images, targets, np.arange(24), max_drop=0.4, **options)
    assert kept is not None
    assert report["kept"] in [variant.name for variant in variants]
    assert all(
        {"auroc", "drop", "low", "high", "agreement", "latency_ms", "speedup", "bytes"} <= row.keys()
        for row in report["variants"]
    )
    none, report = quantise.search(
        model, header, images[:8], images, targets * 0, np.arange(24), max_drop=0.4, **options
    )
    assert none is None
    assert "undefined" in report["reason"]


def test_every_method_is_tried():
    tried = {(v.method, v.per_channel, v.kept) for v in quantise.VARIANTS}
    assert len(tried) == len(ranges.METHODS) * 2 * len(quantise.KEPT_FLOAT)
