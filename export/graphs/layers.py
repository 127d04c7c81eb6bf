"""The layers of an ONNX model that hold weights or multiply: their torch module, parameters and MACs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from export.graphs.bodies import every_body
from export.graphs.files import ONE_FILE, Graph
from export.graphs.nodes import Node, attributes, module_of, stored
from export.quiet import library
from study.errors import SkipError

Shape: TypeAlias = "tuple[int | None, ...] | None"

LIGHT = 0.01
"""The share of the MACs below which layers are hardly any work."""
WEIGHTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Gather": (0,),
}
"""Which inputs of an operator are weights, where they are initializers."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One node; ``macs`` is for one row, None where the shapes are not known."""

    node: str
    module: str
    op: str
    weights: tuple[str, ...]
    parameters: int
    macs: int | None
    inside: str = ""
    """The operator whose body the layer is in; how often it runs is not known, so it has no MACs."""


def layers_of(graph: Graph, sizes: "dict[str, tuple[int, ...]]") -> tuple[Layer, ...]:
    """Every layer in the order of the graph, those in bodies of loops and branches last.

    ``sizes`` are the inputs' shapes, the batch being 1.
    """
    weights, shapes = stored(graph), _shapes(graph, sizes)
    asked = {name for node in graph.graph.node if node.op_type in WEIGHTS for name in _around(node)}
    if any(_size(shapes.get(name)) is None for name in asked):
        shapes |= _measured(graph, sizes, asked - weights.keys())
    layers = [
        _layer(node, weights, _macs(node, shapes)) for node in graph.graph.node if _is_layer(node, weights)
    ]
    for operator, body in every_body(graph.graph.node):
        weights |= {tensor.name: tensor for tensor in body.initializer}
        layers += [_layer(node, weights, None, operator) for node in body.node if _is_layer(node, weights)]
    return tuple(layers)


def light_layers(layers: Sequence[Layer]) -> tuple[str, ...]:
    """The nodes of the smallest layers with weights that have a hundredth of all MACs together.

    None where the work of some layer is not known.
    """
    counts = [layer.macs for layer in layers]
    if None in counts:
        return ()
    most, taken = LIGHT * sum(count or 0 for count in counts), []
    for layer in sorted((one for one in layers if one.macs and one.weights), key=lambda one: one.macs or 0):
        most -= layer.macs or 0
        if most < 0:
            break
        taken.append(layer.node)
    return tuple(taken)


def _held(node: Node, weights: "dict[str, Graph]") -> tuple[str, ...]:
    """The stored weights that a node reads."""
    return tuple(
        node.input[place]
        for place in WEIGHTS.get(node.op_type, ())
        if place < len(node.input) and node.input[place] in weights and weights[node.input[place]].dims
    )


def _is_layer(node: Node, weights: "dict[str, Graph]") -> bool:
    held = _held(node, weights)
    floating = all(weights[name].data_type in FLOATS for name in held)
    return node.op_type in WEIGHTS and floating and (bool(held) or node.op_type == "MatMul")


def _layer(node: Node, weights: "dict[str, Graph]", macs: int | None, inside: str = "") -> Layer:
    held = _held(node, weights)
    count = sum(prod(weights[name].dims) for name in held)
    return Layer(node.name or node.output[0], module_of(node), node.op_type, held, count, macs, inside)


FLOATS = (1, 10, 11, 16)
"""onnx.TensorProto FLOAT, FLOAT16, DOUBLE, BFLOAT16."""


def _shapes(graph: Graph, sizes: "dict[str, tuple[int, ...]]") -> dict[str, Shape]:
    """The shape of every value, by onnx's shape inference with these input shapes."""
    import onnx

    bound = onnx.ModelProto()
    bound.CopyFrom(graph)
    del bound.graph.value_info[:]
    for value in bound.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, sizes.get(value.name, ()), strict=False):
            dimension.dim_value = size
    for value in bound.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(bound, data_prop=True).graph
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(
                dimension.dim_value if dimension.HasField("dim_value") else None
                for dimension in tensor.shape.dim
            )
    return shapes


def _around(node: Node) -> set[str]:
    """What a layer multiplies, and its answer."""
    return {name for name in (*node.input[:2], *node.output[:1]) if name}


def _measured(graph: Graph, sizes: "dict[str, tuple[int, ...]]", names: set[str]) -> dict[str, Shape]:
    """The shapes of these values in a call with inputs of ones; empty where onnxruntime refuses it.

    Shape inference loses a free axis at the first reshape that computes its shape.
    """
    import numpy as np
    import onnx
    import onnxruntime

    if graph.ByteSize() > ONE_FILE or not all(value.name in sizes for value in graph.graph.input):
        return {}
    told = onnx.ModelProto()
    told.CopyFrom(graph)
    wanted = sorted(names - {value.name for value in (*told.graph.input, *told.graph.output)})
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    fed = {
        value.name: np.ones(
            sizes[value.name], onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        )
        for value in told.graph.input
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        with library("onnxruntime"):
            content = told.SerializeToString()
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            found = session.run(None, fed)
    except SkipError:
        return {}
    outputs = [output.name for output in session.get_outputs()]
    return {name: np.shape(array) for name, array in zip(outputs, found, strict=True)}


def _macs(node: Node, shapes: dict[str, Shape]) -> int | None:
    """Multiply-accumulates of one row."""
    if node.op_type == "Gather":
        return 0
    first, second = shapes.get(node.input[0]), shapes.get(node.input[1])
    result = shapes.get(node.output[0]) if node.output[0] else None
    if node.op_type in ("LSTM", "GRU", "RNN"):
        recurrent = shapes.get(node.input[2])
        steps = _size(first[:2]) if first else None
        one = (_size(second) or 0) + (_size(recurrent) or 0)
        return None if steps is None else steps * one
    outputs, inputs = _size(result), _size(first)
    if node.op_type == "Conv" and outputs is not None and second:
        return outputs * (_size(second[1:]) or 0)
    if node.op_type == "ConvTranspose" and inputs is not None and second:
        return inputs * (_size(second[1:]) or 0)
    if node.op_type in ("Gemm", "MatMul") and outputs is not None and first:
        depth = first[0] if attributes(node).get("transA") else first[-1]
        return None if depth is None else outputs * depth
    return None


def _size(shape: Shape) -> int | None:
    if shape is None or any(size is None for size in shape):
        return None
    return prod(size for size in shape if size is not None)
