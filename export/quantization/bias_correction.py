"""Bias correction: the mean error that rounding gives each channel is taken off its bias.

Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.2; the mean of what a layer reads is that over the calibration rows.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from export.examples import Batch
from export.graphs.files import Graph
from export.graphs.nodes import Node, array_of, attributes, stored
from export.graphs.taps import streamed
from export.quantization.chosen import LAYERS

if TYPE_CHECKING:
    from numpy.typing import NDArray


def corrected(graph: Graph, made: Graph, rows: Iterable[Batch], size: int | None = None) -> Graph:
    """A copy of the float ``graph`` whose biases make up for the rounded weights of ``made``.

    A weight that is wrong by e gives its channel a mean error of e times the mean of what it reads, which is
    known: it goes off the bias. Layers without a bias of their own are left as they are.
    """
    import onnx
    from onnx import numpy_helper

    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    layers = _layers(changed, stored(made))
    if not layers:
        return changed
    means = means_of(graph, {node.input[0]: _axis(node) for node, _ in layers}, rows, size)
    held, rounded = stored(changed), stored(made)
    for node, bias in layers:
        weight = array_of(held[node.input[1]]).astype(np.float64)
        error = _dequantized(rounded, node.input[1], _made(node)) - weight
        held[bias].CopyFrom(
            numpy_helper.from_array(
                (array_of(held[bias]) - mean_error(node, error, means[node.input[0]])).astype(np.float32),
                bias,
            )
        )
    return changed


def mean_error(
    node: Node, error: "NDArray[np.float64]", mean: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """What a weight that is wrong by ``error`` adds to each channel where the inputs' means are ``mean``."""
    if node.op_type == "Conv":
        each = error.reshape(*error.shape[:2], -1).sum(axis=2)
        group = len(mean) // each.shape[1]
        read = mean.reshape(group, -1).repeat(len(each) // group, axis=0)
        summed: NDArray[np.float64] = (each * read).sum(axis=1)
        return summed
    added: NDArray[np.float64] = error @ mean if _made(node) == 0 else mean @ error
    return added


def means_of(
    graph: Graph, axes: Mapping[str, int], rows: Iterable[Batch], size: int | None
) -> "dict[str, NDArray[np.float64]]":
    """The mean of each tensor over all rows and all axes but this one; a number a channel in memory."""
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}
    for found in streamed(graph, list(axes), rows, size):
        for name, array in found.items():
            channels = np.moveaxis(array, axes[name], -1)
            flat = channels.reshape(-1, channels.shape[-1])
            sums[name] = sums.get(name, 0) + flat.sum(axis=0, dtype=np.float64)
            counts[name] = counts.get(name, 0) + len(flat)
    return {name: total / counts[name] for name, total in sums.items()}


def _layers(graph: Graph, rounded: Mapping[str, Graph]) -> list[tuple[Node, str]]:
    """The layers whose weight was rounded, with their bias: the third input, or what an Add adds to it."""
    held = stored(graph)
    readers: dict[str, list[Node]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in graph.graph.node:
        if node.op_type not in LAYERS or len(node.input) < 2 or f"{node.input[1]}_quantized" not in rounded:  # noqa: PLR2004
            continue
        bias = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 -- the third input is the bias
        after = readers.get(node.output[0], [])
        if node.op_type == "MatMul" and len(after) == 1 and after[0].op_type == "Add":
            bias = next((name for name in after[0].input if name != node.output[0]), "")
        made = held[node.input[1]].dims[_made(node)]
        own = bias in held and list(held[bias].dims) == [made] and len(readers[bias]) == 1
        if own and node.op_type != "ConvTranspose":
            found.append((node, bias))
    return found


def _axis(node: Node) -> int:
    """The axis of what a layer reads that the channels lie along."""
    return 1 if node.op_type == "Conv" else -1


def _made(node: Node) -> int:
    """The axis of the weight that the layer's own channels lie along."""
    return 0 if node.op_type == "Conv" or attributes(node).get("transB") else 1


def _dequantized(rounded: Mapping[str, Graph], name: str, axis: int) -> "NDArray[np.float64]":
    """The weight that integer kernels multiply with."""
    levels = array_of(rounded[f"{name}_quantized"]).astype(np.float64)
    scale = array_of(rounded[f"{name}_scale"]).astype(np.float64)
    shape = [1] * levels.ndim
    shape[axis] = -1
    return levels * (scale.reshape(shape) if scale.ndim else scale)
