"""Cross-layer equalisation: what two layers on either side of a ReLU do to a channel is shared out evenly.

Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.1. A ReLU lets positive factors through: the first layer's channel divided
by s and the second's multiplied by s compute the same, and s = sqrt(r1 r2) / r2 gives both the same range.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.graphs.bodies import drop_unused
from export.graphs.files import Graph
from export.graphs.nodes import Node, array_of, attributes, rename_value, stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

PASSED: Final = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout")
"""They do to a channel times s what they do to the channel, times s, where s is positive."""
ROUNDS: Final = 20
"""Through a chain of layers, over and over; it settles long before."""
SETTLED: Final = 1e-4
WIDEST: Final = 1e4
"""Factors beyond it and its inverse are cut: a channel without weights has no range to share."""


EVEN = "_equalised"
"""The end of the names of values whose channels were scaled."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers, by their nodes, with nothing between them that a positive factor does not pass."""

    first: Node
    second: Node


def pairs_of(graph: Graph) -> list[Pair]:
    """The pairs in the order of the graph; neither a weight nor what lies between has another reader."""
    held = stored(graph)
    readers: dict[str, list[Node]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    answers = {value.name for value in graph.graph.output}

    def own(node: Node) -> bool:
        return _known(node, held) and all(len(readers[name]) == 1 for name in node.input[1:] if name)

    found = []
    for node in graph.graph.node:
        name = node.output[0] if own(node) else ""
        while name and name not in answers and len(readers.get(name, [])) == 1:
            (reader,) = readers[name]
            if own(reader) and reader.input[0] == name:
                if _fitting(node, reader, held):
                    found.append(Pair(node, reader))
                break
            name = reader.output[0] if reader.op_type in PASSED else ""
    return found


def equalise(graph: Graph) -> list[Pair]:
    """Share out the ranges of every pair, in place, until none changes; the pairs that there are."""
    from onnx import numpy_helper

    pairs = pairs_of(graph)
    held = stored(graph)
    arrays: dict[str, NDArray[Any]] = {
        name: array_of(held[name]).astype(np.float64)
        for pair in pairs
        for node in (pair.first, pair.second)
        for name in node.input[1:]
        if name
    }
    for _ in range(ROUNDS):
        factors = [_share(pair, arrays) for pair in pairs]
        if all(np.abs(np.log(one)).max() < SETTLED for one in factors):
            break
    for name, array in arrays.items():
        held[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    for pair in pairs:
        _rename(graph, pair)
    drop_unused(graph)
    return pairs


def _rename(graph: Graph, pair: Pair) -> None:
    """What lies between the two is another value now: whoever compares values by name must not find it."""
    name = pair.first.output[0]
    while True:
        rename_value(graph, name, name + EVEN)
        if pair.second.input[0] == name + EVEN:
            return
        (reader,) = (node for node in graph.graph.node if name + EVEN in node.input)
        name = reader.output[0]


def _share(pair: Pair, arrays: "dict[str, NDArray[Any]]") -> "NDArray[np.float64]":
    """Move this pair's factors from the first layer to the second; the factors."""
    one, two = arrays[pair.first.input[1]], arrays[pair.second.input[1]]
    made, read = _axis_made(pair.first), _axis_read(pair.second)
    depth = one.shape[made]
    ranges = np.abs(np.moveaxis(one, made, 0)).reshape(depth, -1).max(axis=1)
    other = np.abs(np.moveaxis(two, read, 0)).reshape(depth, -1).max(axis=1)
    alive = (ranges > 0) & (other > 0)
    factors = np.where(alive, np.sqrt(ranges / np.where(alive, other, 1)), 1.0)
    factors = np.clip(factors, 1 / WIDEST, WIDEST)
    arrays[pair.first.input[1]] = one / _along(factors, made, one.ndim)
    if len(pair.first.input) > 2 and pair.first.input[2]:  # noqa: PLR2004 -- the third input is the bias
        arrays[pair.first.input[2]] = arrays[pair.first.input[2]] / factors
    arrays[pair.second.input[1]] = two * _along(factors, read, two.ndim)
    return factors


def _known(node: Node, held: Mapping[str, Graph]) -> bool:
    """Whether it is a layer with stored weights in float whose channels are told apart."""
    if node.op_type not in ("Conv", "Gemm") or any(name and name not in held for name in node.input[1:]):
        return False
    settings = attributes(node)
    if node.op_type == "Gemm":
        plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0
        return (
            plain and not settings.get("transA") and all(len(held[name].dims) == 1 for name in node.input[2:])
        )
    return bool(settings.get("group", 1) == 1)


def _fitting(first: Node, second: Node, held: Mapping[str, Graph]) -> bool:
    """Whether the one's channels are the other's: not where a flattened map lies between."""
    made = held[first.input[1]].dims[_axis_made(first)]
    return bool(made == held[second.input[1]].dims[_axis_read(second)])


def _axis_made(node: Node) -> int:
    """The axis of the weight that its output's channels lie along."""
    return 0 if node.op_type == "Conv" or attributes(node).get("transB") else 1


def _axis_read(node: Node) -> int:
    """The axis of the weight that its input's channels lie along."""
    return 1 - _axis_made(node)


def _along(factors: "NDArray[np.float64]", axis: int, rank: int) -> "NDArray[np.float64]":
    shape = [1] * rank
    shape[axis] = -1
    return factors.reshape(shape)
