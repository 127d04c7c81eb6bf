"""What stays in float in a quantized graph: layers that were left out, and the answers of the model."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from export.graph import Node, array_of, attributes, drop_unused, stored
from export.onnx_file import Graph

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


def answer_in_float(graph: Graph) -> int:
    """Let a Gemm that gives an output of the model give it unrounded, in place; how many outputs there are.

    onnxruntime's integer Gemm adds up in 32 bits and may hand that on as float; its quantizer rounds it to
    eight bits all the same, which changes decisions and saves nothing.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    readers = Counter(name for node in graph.graph.node for name in node.input)
    gone: set[str] = set()
    for output in graph.graph.output:
        last = makers.get(output.name)
        before = (
            makers.get(last.input[0]) if last is not None and last.op_type == "DequantizeLinear" else None
        )
        if before is None or before.op_type != "QuantizeLinear" or readers[before.output[0]] > 1:
            continue
        gemm = makers.get(before.input[0])
        if gemm is None or gemm.op_type != "Gemm" or readers[before.input[0]] + readers[output.name] > 1:
            continue
        gemm.output[0] = output.name
        gone |= {before.output[0], output.name}
    if gone:
        kept = [
            node
            for node in graph.graph.node
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.output[0] not in gone
        ]
        del graph.graph.node[:]
        graph.graph.node.extend(kept)
        drop_unused(graph)
    return len(gone) // 2


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
    """Dequantizers whose answer nobody reads any more."""
    read = {name for node in graph.graph.node for name in node.input}
    read |= {value.name for value in graph.graph.output}
    kept = [node for node in graph.graph.node if node.op_type != "DequantizeLinear" or node.output[0] in read]
    del graph.graph.node[:]
    graph.graph.node.extend(kept)
