import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cxr_deploy.export.compact import compact


def graph() -> onnx.ModelProto:
    """Two layers with equal scales, a constant that nothing reads, and an optional input that is left out."""
    weight = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    constants = {
        "a_long_name_of_a_weight": weight,
        "scale_of_the_first": np.float32(0.5),
        "scale_of_the_second": np.float32(0.5),
        "zero_of_the_first": np.int8(0),
        "one_of_another_type": np.uint8(0),
        "nothing_reads_this": np.ones(100, np.float32),
        "least": np.float32(-1.0),
    }
    first, second = ["scale_of_the_first", "zero_of_the_first"], ["scale_of_the_second", "one_of_another_type"]
    nodes = [
        helper.make_node("DequantizeLinear", ["a_long_name_of_a_weight", *first], ["w1"], "d1"),
        helper.make_node("MatMul", ["pixels", "w1"], ["between"], "layer 1"),
        helper.make_node("Clip", ["between", "least", ""], ["clipped"], "clip"),
        helper.make_node("QuantizeLinear", ["clipped", *second], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", *second], ["logits"], "d2"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, (2, 3))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (2, 4))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        value_info=[helper.make_tensor_value_info("between", TensorProto.FLOAT, (2, 4))],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)])


def test_fewer_bytes_and_the_same_answer() -> None:
    before, after = graph(), graph()
    compact(after)
    onnx.checker.check_model(after, full_check=True)
    assert after.ByteSize() < 0.5 * before.ByteSize()
    pixels = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    answers = [ReferenceEvaluator(model).run(None, {"pixels": pixels}) for model in (before, after)]
    assert np.array_equal(answers[0][0], answers[1][0])  # type: ignore[index] - one array an output
    assert [node.name for node in after.graph.node if node.name] == ["layer 1"]
    # Equal numbers of one type are one constant; an int8 and a uint8 zero are two.
    assert len(after.graph.initializer) == 5
    assert after.graph.node[2].input[2] == ""
    compacted = after.SerializeToString()
    compact(after)
    assert after.ByteSize() <= len(compacted)
