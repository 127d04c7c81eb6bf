"""Half precision on a graph: what stays in float, casts that lead nowhere, and what really runs in it."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from export.graphs.files import Graph
from export.graphs.layers import layers_of
from export.graphs.nodes import Node, stored
from export.quantization.audit import Fate, audit_record, optimised
from study.record import Finding, Record, Verdict

FLOAT, FLOAT16 = 1, 10
"""onnx.TensorProto's numbers of them."""
BEYOND = "half precision cannot hold its numbers"


def around(graph: Graph, tensors: Collection[str]) -> list[str]:
    """The nodes that make one of these tensors or read it."""
    return [
        node.name for node in graph.graph.node if any(name in tensors for name in (*node.input, *node.output))
    ]


def straighten(graph: Graph) -> int:
    """Take out the casts from float to half precision and straight back, in place; how many there were.

    onnxruntime's converter puts such a pair between two nodes that both stay in float: what half precision
    cannot hold would be infinite in between (onnxruntime 1.31).
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    count = 0
    for node in graph.graph.node:
        before = makers.get(node.input[0]) if _casts(node, FLOAT) else None
        if before is not None and _casts(before, FLOAT16):
            node.op_type, node.input[0] = "Identity", before.input[0]
            del node.attribute[:]
            count += 1
    read = {name for node in graph.graph.node for name in node.input}
    read |= {value.name for value in graph.graph.output}
    kept = [node for node in graph.graph.node if node.op_type != "Cast" or node.output[0] in read]
    del graph.graph.node[:]
    graph.graph.node.extend(kept)
    return count


def half_record(before: Graph, after: Path, graph: Graph, sizes: dict[str, tuple[int, ...]]) -> Record:
    """How many parameters are held in half precision, and what this machine makes of it."""
    held = {name for name, tensor in stored(graph).items() if tensor.data_type == FLOAT16}
    layers = layers_of(before, sizes)
    fates = [
        Fate(layer, integer=True)
        if held.intersection(layer.weights)
        else Fate(layer, integer=False, why=BEYOND if layer.weights else "it multiplies two activations")
        for layer in layers
    ]
    record = audit_record(before, fates, "fp16")
    held_alone = {name: metric for name, metric in record.metrics.items() if not name.startswith("macs")}
    shares = record.summary.partition(" and ")[0].rstrip(".")
    shown = optimised(after)
    casts = sum(node.op_type == "Cast" for node in shown.graph.node)
    finding = Finding(
        what=f"On this CPU onnxruntime computes most of half precision in float (casts: {casts}).",
        do="Take fp16 for its size, or for a GPU; on a CPU int8 is the faster one.",
    )
    findings = (*record.findings, finding)
    return replace(
        record, verdict=Verdict.NOTED, summary=f"{shares}.", metrics=held_alone, findings=findings
    )  # what a kernel multiplies in is its own affair here, so no MACs are counted


def _casts(node: Node, to: int) -> bool:
    return node.op_type == "Cast" and any(one.name == "to" and one.i == to for one in node.attribute)
