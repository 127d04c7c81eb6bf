"""What stays in float in a quantized graph: layers that were left out, and the answers of the model."""

from collections.abc import Container
from typing import TYPE_CHECKING

import numpy as np

from export.graphs.bodies import drop_unused
from export.graphs.files import Graph
from export.graphs.nodes import Node, array_of, attributes, stored
from export.quantization.chosen import IN_FLOAT

if TYPE_CHECKING:
    from collections.abc import Mapping

TAKEN = ("Conv", "ConvTranspose", "Gemm")


def keep_in_float(graph: Graph) -> int:
    """Keep layers with float weights between integers in float, in place; how many there were.

    Where such a layer reads a dequantized tensor and its answer is quantized, onnxruntime (1.31, "weight and
    bias quantization") makes eight bits of its weight, with one scale for all channels, whatever we say. It
    asks for a tensor of one scale before the layer; the same scale once a channel is the same numbers, and
    stops it.
    """
    from onnx import helper, numpy_helper

    held = stored(graph)
    makers = {name: node for node in graph.graph.node for name in node.output}
    nodes: list[Node] = []
    count = 0
    for node in graph.graph.node:
        channels = _channels(node, held)
        source = makers.get(node.input[0]) if channels else None
        if source is not None and source.op_type == "DequantizeLinear" and not held[source.input[1]].dims:
            made = [source.input[0]]
            for place, name in enumerate(source.input[1:], start=1):
                many = numpy_helper.from_array(
                    np.full(channels, array_of(held[name])), f"{node.name}_each_{place}"
                )
                graph.graph.initializer.append(many)
                made.append(many.name)
            output = f"{node.name}_dequantized"
            nodes.append(helper.make_node("DequantizeLinear", made, [output], name=output, axis=1))
            node.input[0] = output
            count += 1
        nodes.append(node)
    if count:
        del graph.graph.node[:]
        graph.graph.node.extend(nodes)
        _drop_unread(graph)
    return count


def read_unrounded(graph: Graph, integers: Container[str]) -> int:
    """Let what computes in float read floats where there are some, in place; how many reads there were.

    onnxruntime's quantizer hands the rounded numbers to every reader of a tensor: the residual stream of a
    transformer is then rounded at each layer, though what made it and what adds to it compute in float.
    ``integers`` are the quantized nodes that hand on rounded numbers, or read them.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    whole: dict[str, str] = {}
    for node in graph.graph.node:
        source = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is None or source.op_type != "QuantizeLinear":
            continue
        maker = makers.get(source.input[0])
        if maker is None or maker.name not in integers or maker.op_type == IN_FLOAT:
            whole[node.output[0]] = source.input[0]
    count = 0
    for node in graph.graph.node:
        if node.name in integers or node.op_type == "QuantizeLinear":
            continue
        for place, name in enumerate(node.input):
            if name in whole:
                node.input[place] = whole[name]
                count += 1
    if count:
        _drop_unread(graph)
    return count


def sums_in_float(graph: Graph, integers: Container[str]) -> int:
    """Let a Gemm whose answer no integer layer reads hand it on unrounded, in place; how many there were.

    onnxruntime's integer Gemm adds up in 32 bits and may give that as float; its quantizer rounds it to eight
    bits all the same, which changes decisions and saves nothing.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    readers: dict[str, list[Node]] = {}
    for node in graph.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    answers = {value.name for value in graph.graph.output}
    count = 0
    for last in list(graph.graph.node):
        quantizer = makers.get(last.input[0]) if last.op_type == "DequantizeLinear" else None
        if quantizer is None or quantizer.op_type != "QuantizeLinear":
            continue
        gemm = makers.get(quantizer.input[0])
        if gemm is None or gemm.op_type != "Gemm" or gemm.name not in integers:
            continue
        alone = len(readers[gemm.output[0]]) == len(readers[quantizer.output[0]]) == 1
        reading = readers.get(last.output[0], [])
        if not alone or gemm.output[0] in answers or any(node.name in integers for node in reading):
            continue
        gemm.output[0] = last.output[0]
        graph.graph.node.remove(quantizer)
        graph.graph.node.remove(last)
        count += 1
    if count:
        drop_unused(graph)
    return count


def _channels(node: Node, held: "Mapping[str, Graph]") -> int:
    """How many channels the layer reads; 0 where it is none with a stored float weight."""
    if node.op_type not in TAKEN or node.input[1] not in held:
        return 0
    settings, dims = attributes(node), held[node.input[1]].dims
    if node.op_type == "Gemm":
        return 0 if settings.get("transA") else int(dims[1] if settings.get("transB") else dims[0])
    if node.op_type == "Conv":
        return int(dims[1] * settings.get("group", 1))
    return int(dims[0])


def _drop_unread(graph: Graph) -> None:
    """Dequantizers whose answer nobody reads any more, and then quantizers."""
    for operator in ("DequantizeLinear", "QuantizeLinear"):
        read = {name for node in graph.graph.node for name in node.input}
        read |= {value.name for value in graph.graph.output}
        kept = [node for node in graph.graph.node if node.op_type != operator or node.output[0] in read]
        del graph.graph.node[:]
        graph.graph.node.extend(kept)
    drop_unused(graph)
