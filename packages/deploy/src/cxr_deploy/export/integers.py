"""Replace the weights of a fake-quantised graph by the integers they represent."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def with_integer_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with int8 weights where it quantised float ones, in a quarter of the bytes.

    Whatever follows from constants alone is computed now, but for the step from int8 back to float, which tells
    runtimes that a layer is one of 8 bits.

    Args:
        model: A graph traced from a network of :mod:`cxr_common.models.eight_bits`; left as it is.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants: dict[str, NDArray[Any]] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    integers: dict[str, onnx.NodeProto] = {}  # what a node that dequantises a constant writes -> the node
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:  # a topological order
        known = all(name in constants for name in node.input if name)
        if known and node.op_type != "DequantizeLinear":
            for name, value in zip(node.output, computed(node, constants, made.opset_import), strict=True):
                constants[name] = value
            continue
        source = integers.get(node.input[0]) if node.input else None
        if node.op_type == "Transpose" and source is not None:
            node = _transposed(node, source, constants)
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            integers[node.output[0]] = node
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(node for node in nodes if node.op_type != "DequantizeLinear" or _read(node, nodes))
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items() if name in used)
    onnx.checker.check_model(made)
    return made


def _read(node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> bool:
    return any(name in other.input for other in nodes for name in node.output)


def _transposed(node: onnx.NodeProto, source: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> onnx.NodeProto:
    """Dequantise the transposed integers in place of transposing what was dequantised (linear layers)."""
    order = next(helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == "perm")
    axis = next(
        (helper.get_attribute_value(attribute) for attribute in source.attribute if attribute.name == "axis"), 1
    )
    name = f"{source.input[0]}_transposed"
    constants[name] = np.ascontiguousarray(constants[source.input[0]].transpose(order))
    inputs = [name, *source.input[1:]]
    return helper.make_node("DequantizeLinear", inputs, node.output, node.name, axis=list(order).index(axis))


def computed(node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]], opsets: Any) -> list[NDArray[Any]]:
    """What a node writes whose inputs are all constants.

    Args:
        node: The node.
        constants: Tensor by name, its inputs among them.
        opsets: ``opset_import`` of its graph.
    """
    inputs = {name: constants[name] for name in node.input if name}
    empty = onnx.TypeProto()
    graph = helper.make_graph(
        [node],
        "constant",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in inputs.items()
        ],
        [helper.make_value_info(name, empty) for name in node.output],
    )
    values: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, inputs)
    return [np.asarray(value) for value in values]
