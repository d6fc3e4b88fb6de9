"""Replace TensorFlow's "same" padding, which is constant for images of one size, by plain convolutions."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_deploy.export.integers import computed

FOLDED = ("Constant", "ConstantOfShape", "Concat", "Reshape", "Slice", "Transpose", "Cast")
"""Operations of which the exporter builds the sides of a padding."""


@contextmanager
def fixed_padding(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Within it, every "same" convolution pads by the constant that images of this size need.

    Traced as it is, such a convolution computes its padding from the image's size in a dozen operations, which neither
    run fast nor can be quantised.

    Args:
        network: In evaluation mode.
        images: Example input.
    """
    padded = [cast(nn.Conv2d, module) for module in network.modules() if isinstance(module, Conv2dSame)]
    sizes: dict[nn.Conv2d, tuple[int, int]] = {}

    def note(module: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[-2:]
        sizes[module] = int(height), int(width)

    hooks = [module.register_forward_pre_hook(note) for module in padded]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    try:
        for module in sizes:
            vars(module)["forward"] = functools.partial(_convolve, module, _padding(module, *sizes[module]))
        yield
    finally:
        for module in sizes:
            del vars(module)["forward"]


def _padding(module: nn.Conv2d, height: int, width: int) -> list[int]:
    """Left, right, top, bottom."""
    sides = []
    for size, kernel, stride, dilation in zip(
        (width, height), module.kernel_size[::-1], module.stride[::-1], module.dilation[::-1], strict=True
    ):
        whole = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        sides += [whole // 2, whole - whole // 2]
    return sides


def _convolve(module: nn.Conv2d, padding: list[int], x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, padding), module.weight, module.bias, module.stride, 0, module.dilation, module.groups)


def merge(model: onnx.ModelProto) -> None:
    """Write constant zero padding before a convolution into the convolution itself, in place."""
    graph = model.graph
    constants = _constants(model)
    pads = {node.output[0]: node for node in graph.node if node.op_type == "Pad" and _is_zero(node, constants)}
    used = [name for node in graph.node for name in node.input] + [output.name for output in graph.output]
    for node in graph.node:
        pad = pads.get(node.input[0]) if node.op_type == "Conv" else None
        if pad is None or used.count(pad.output[0]) != 1:
            continue
        added = constants[pad.input[1]].astype(np.int64).reshape(2, -1)[:, 2:].ravel()
        own = next((attribute for attribute in node.attribute if attribute.name == "pads"), None)
        before = np.asarray(own.ints if own is not None else np.zeros_like(added))
        if own is not None:
            node.attribute.remove(own)
        node.attribute.append(onnx.helper.make_attribute("pads", (before + added).tolist()))
        node.input[0] = pad.input[0]
    _remove_unused(graph)


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Values of all tensors that no input changes: initializers, constants, and what is computed of them alone."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in FOLDED and all(not name or name in known for name in node.input):
            known[node.output[0]] = computed(node, known, model.opset_import)[0]
    return known


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes whose outputs nobody reads."""
    while True:
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unused = [node for node in graph.node if not used & set(node.output)]
        if not unused:
            return
        for node in unused:
            graph.node.remove(node)


def _is_zero(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    """Whether a Pad adds zeros, a known number of them, along the last two axes alone."""
    modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
    if modes not in ([], [b"constant"]) or len(node.input) > 3 or node.input[1] not in constants:
        return False
    if len(node.input) == 3 and node.input[2] and np.any(constants.get(node.input[2], np.ones(1))):
        return False
    sides = constants[node.input[1]].reshape(2, -1)
    return sides.shape[1] == 4 and not sides[:, :2].any() and bool((sides >= 0).all())
