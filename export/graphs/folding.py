"""Weights of recurrent layers that a graph computes from stored tensors, stored as what they come to."""

from collections.abc import Iterator
from typing import Any

from export.graphs.bodies import drop_unused, read_by
from export.graphs.files import Graph

RECURRENT = ("LSTM", "GRU", "RNN")
WEIGHTS_AND_BIAS = slice(1, 4)
KEEPS_SIZE = ("Concat", "Constant", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that arrange numbers anew, and make no more of them."""


def store_recurrent_weights(graph: Graph) -> int:
    """How many were stored, in place.

    torch's dynamo exporter cuts the gates of a torch layer out of its weights and joins them in ONNX's order;
    it folds small tensors alone (torch 2.13), and no quantizer sees a weight in the rest.
    """
    made = {name: node for node in graph.graph.node for name in node.output if name}
    known = {"", *(tensor.name for tensor in graph.graph.initializer)}
    read = [
        name
        for node in graph.graph.node
        if node.op_type in RECURRENT
        for name in node.input[WEIGHTS_AND_BIAS]
        if name in made
    ]
    arranged: dict[str, set[str]] = {}
    for name in dict.fromkeys(read):
        values = set(_behind(name, made, known))
        if all(value in made and made[value].op_type in KEEPS_SIZE for value in values):
            arranged[name] = values
    if arranged:
        every = set().union(*arranged.values())
        graph.graph.initializer.extend(_computed(graph, list(arranged), every))
        _drop_unread(graph, set(arranged), every)
    return len(arranged)


def _behind(name: str, made: dict[str, Any], known: set[str]) -> Iterator[str]:
    """The value and those that it is computed of, but for stored ones."""
    yield name
    for read in made[name].input if name in made else ():
        if read not in known:
            yield from _behind(read, made, known)


def _computed(graph: Graph, names: list[str], values: set[str]) -> list[Any]:
    """The tensors of these names, by onnx's reference implementation of the nodes that make these values."""
    from onnx import ModelProto, numpy_helper
    from onnx.reference import ReferenceEvaluator

    part = ModelProto(ir_version=graph.ir_version, opset_import=graph.opset_import)
    part.graph.name = "weights"
    part.graph.node.extend(node for node in graph.graph.node if values & set(node.output))
    read = read_by(part.graph.node)
    part.graph.initializer.extend(tensor for tensor in graph.graph.initializer if tensor.name in read)
    for name in names:
        part.graph.output.add(name=name)
    arrays = ReferenceEvaluator(part).run(names, {})
    return [numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)]


def _drop_unread(graph: Graph, stored: set[str], values: set[str]) -> None:
    """The nodes that made what is stored now, and those of ``values`` that nobody else reads."""
    inner = graph.graph
    outputs = {value.name for value in inner.output}
    kept = [node for node in inner.node if not stored & set(node.output)]
    while True:
        read = outputs | read_by(kept)
        left = [node for node in kept if read & set(node.output) or not values & set(node.output)]
        if len(left) == len(kept):
            break
        kept = left
    del inner.node[:]
    inner.node.extend(kept)
    drop_unused(graph)
