"""SmoothQuant: channels that reach far are made smaller before they are rounded, and their weights larger.

Xiao, Lin, Seznec, Wu, Demouth, Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models", ICML 2023. Channel j is divided by s = max|x_j|^a / max|w_j|^(1-a), and row j of
every weight that reads it multiplied by s, which computes the same. The division goes into the gain and the
shift of the LayerNorm before, or, where others read its answer too (a residual stream), into a Mul.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from export.examples import Batch
from export.graphs.files import Graph
from export.graphs.nodes import Node, array_of, attributes, rename_value, stored
from export.graphs.taps import streamed
from export.quantization.ranges import Ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Extremes = Mapping[str, "tuple[NDArray[np.float64], NDArray[np.float64]]"]

SMALLEST: Final = 1e-5
"""A factor is at least it: a channel without numbers has no range."""


@dataclass(frozen=True, slots=True)
class Site:
    """A normalised tensor, and the layers with stored weights that read it."""

    tensor: str
    norm: Node
    layers: tuple[Node, ...]
    alone: bool
    """Nobody else reads it."""


def sites_of(graph: Graph, integers: Container[str]) -> list[Site]:
    """The LayerNorms whose answer layers among these nodes read."""
    held = stored(graph)
    readers: dict[str, list[Node]] = {}
    for node in graph.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    answers = {value.name for value in graph.graph.output}
    found = []
    for norm in graph.graph.node:
        if norm.op_type != "LayerNormalization":
            continue
        reading = readers.get(norm.output[0], [])
        layers = tuple(node for node in reading if node.name in integers and _smoothable(node, held, readers))
        own = all(len(readers[name]) == 1 for name in norm.input[1:] if name) and len(norm.input) > 1
        if layers:
            alone = len(layers) == len(reading) and norm.output[0] not in answers and own
            found.append(Site(norm.output[0], norm, layers, alone))
    return found


def channel_extremes(
    graph: Graph, sites: Sequence[Site], rows: Iterable[Batch], size: int | None = None
) -> "Extremes":
    """Lowest and highest of each channel of each site's tensor."""
    extremes: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for found in streamed(graph, [site.tensor for site in sites], rows, size):
        for name, array in found.items():
            flat = array.reshape(-1, array.shape[-1]).astype(np.float64)
            low, high = flat.min(axis=0), flat.max(axis=0)
            if name in extremes:
                low, high = np.minimum(low, extremes[name][0]), np.maximum(high, extremes[name][1])
            extremes[name] = low, high
    return extremes


def smoothed(
    graph: Graph, sites: Sequence[Site], extremes: "Extremes", strength: float
) -> tuple[Graph, Ranges]:
    """A copy that computes the same with smoother tensors, and what is the range of each now."""
    import onnx
    from onnx import helper, numpy_helper

    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    held = stored(changed)
    nodes = {node.name: node for node in changed.graph.node}
    order = list(changed.graph.node)
    ranges: dict[str, tuple[float, float]] = {}
    for site in sites:
        low, high = extremes[site.tensor]
        weights = [array_of(held[node.input[1]]).astype(np.float64) for node in site.layers]
        largest = np.max(
            [
                np.abs(array).max(axis=1 - _read(node))
                for node, array in zip(site.layers, weights, strict=True)
            ],
            axis=0,
        )
        factors = factors_of(np.maximum(np.abs(low), np.abs(high)), largest, strength)
        for node, array in zip(site.layers, weights, strict=True):
            scaled = array * (factors[:, None] if _read(node) == 0 else factors)
            held[node.input[1]].CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), node.input[1]))
        name = site.tensor
        if site.alone:
            for part in nodes[site.norm.name].input[1:]:
                even = array_of(held[part]) / factors
                held[part].CopyFrom(numpy_helper.from_array(even.astype(np.float32), part))
            name = f"{site.tensor}_smooth"  # another value now, not to be compared with the old one
            rename_value(changed, site.tensor, name)
        else:
            name = f"{site.tensor}_smooth"
            inverse = numpy_helper.from_array((1 / factors).astype(np.float32), f"{name}_factor")
            changed.graph.initializer.append(inverse)
            product = helper.make_node("Mul", [site.tensor, inverse.name], [name], name=name)
            order.insert(order.index(nodes[site.norm.name]) + 1, product)
            changed.graph.value_info.append(helper.make_tensor_value_info(name, 1, None))
            for node in site.layers:
                nodes[node.name].input[0] = name
        ranges[name] = float((low / factors).min()), float((high / factors).max())
    del changed.graph.node[:]
    changed.graph.node.extend(order)
    return changed, ranges


def factors_of(
    inputs: "NDArray[np.float64]", weights: "NDArray[np.float64]", strength: float
) -> "NDArray[np.float64]":
    """The factor of each channel, by the largest input and the largest weight that it meets."""
    inputs, weights = np.maximum(inputs, SMALLEST), np.maximum(weights, SMALLEST)
    return np.maximum(inputs**strength / weights ** (1 - strength), SMALLEST)


def _smoothable(node: Node, held: Mapping[str, Graph], readers: "Mapping[str, list[Node]]") -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in held:
        return False
    plain = not attributes(node).get("transA")
    weight = node.input[1]
    return plain and len(held[weight].dims) == 2 and len(readers[weight]) == 1  # noqa: PLR2004 -- a matrix


def _read(node: Node) -> int:
    """The axis of the weight that the layer's input lies along."""
    return 1 if attributes(node).get("transB") else 0
