"""Which nodes static int8 quantizes: layers with a stored weight, and what only hands their integers on."""

from collections.abc import Collection, Container

from export.graphs.files import Graph
from export.graphs.nodes import Node, stored

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
IN_FLOAT = "MatMul"
"""The layer whose answer is handed on in float, as its sum has it: a Gemm's or a convolution's is rounded."""


def left_in_float(graph: Graph, operators: Container[str], exclude: Collection[str] = ()) -> list[str]:
    """The names of the nodes of these operators that stay in float, those of ``exclude`` among them.

    A layer is quantized where its weight is stored. Any other node is where all that it reads is an integer
    already or stored: pooling and the sum of two branches cost nothing then. A product of two activations, a
    normalised residual or an attention mask has a range that eight bits cannot hold: a mask of -3e38 leaves
    nothing of the scores that it is added to. What comes from a Gemm alone and reaches no layer again stays
    in float too, for its sums need no rounding.
    """
    weights = {*stored(graph), *(node.output[0] for node in graph.graph.node if node.op_type == "Constant")}
    integers: dict[str, bool] = {}  # whether a Gemm alone made it
    left: list[str] = []
    handed: list[Node] = []
    needed: set[str] = set()
    for node in graph.graph.node:
        if node.op_type not in operators:
            continue
        read = [name for name in node.input if name and name not in weights]
        layer = node.op_type in LAYERS
        if layer:
            taken = len(node.input) > 1 and (node.input[1] in weights or _stored_left(node, weights))
        else:
            taken = bool(read) and all(name in integers for name in read)
        if not taken or node.name in exclude:
            left.append(node.name)
            continue
        summed = node.op_type == "Gemm" if layer else all(integers[name] for name in read)
        if layer:
            needed.update(read)
        elif summed:
            handed.append(node)
        else:
            needed.update(read)
        if node.op_type != IN_FLOAT:
            integers.update(dict.fromkeys(node.output, summed))
    for node in reversed(handed):
        if needed.isdisjoint(node.output):
            left.append(node.name)
        else:
            needed.update(node.input)
    return left


def _stored_left(node: Node, weights: Container[str]) -> bool:
    """Whether the left factor of a product is the weight."""
    return node.op_type == "MatMul" and node.input[0] in weights
