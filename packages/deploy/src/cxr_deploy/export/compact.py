"""A graph in fewer bytes: shorter names, no shapes of inner values, equal constants kept once."""

import onnx

NAMED = ("Conv", "Gemm", "MatMul")
"""Operators that keep their names, by which profilers tell layers."""


def compact(model: onnx.ModelProto) -> None:
    """Shorten the names within a graph, share constants that are equal, and drop shapes of values, in place.

    Inputs, outputs and layers with weights keep their names; what is computed stays the same to the bit.

    Args:
        model: A graph without subgraphs.
    """
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {value.name: value.name for value in (*graph.input, *graph.output)}
    names[""] = ""  # an optional input that is left out
    kept = []
    for constant in graph.initializer:
        if constant.name not in used:
            continue
        content = (constant.data_type, tuple(constant.dims), onnx.numpy_helper.to_array(constant).tobytes())
        if content in first:
            names[constant.name] = first[content]
            continue
        first[content] = names[constant.name] = f"c{len(first)}"
        constant.name = first[content]
        kept.append(constant)
    for node in graph.node:
        if node.op_type not in NAMED:
            node.ClearField("name")
        for side in (node.input, node.output):
            side[:] = [names.setdefault(name, f"v{len(names)}") for name in side]
    constants = [onnx.TensorProto.FromString(constant.SerializeToString()) for constant in kept]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(constants)
