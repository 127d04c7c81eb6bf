"""Scales of stored weights, a weight at a time, where onnxruntime finds them a channel at a time."""

from collections.abc import Collection
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from export.graphs.files import Graph
from export.graphs.nodes import Node, array_of, attributes, stored
from export.quantization.chosen import LAYERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Overrides: TypeAlias = "dict[str, list[dict[str, object]]]"
"""As ``TensorQuantOverrides`` of onnxruntime's quantizer: a tensor's axis, and a scale each channel."""


def scales_of_weights(graph: Graph, integers: Collection[str], *, reduce_range: bool) -> Overrides:
    """What onnxruntime would find for the weights of these nodes, bit by bit, found a weight at a time.

    They are symmetric signed bytes. A weight that is multiplied from the left, or a stack of them, or has no
    finite scale is left to onnxruntime, and so is what is not float32.
    """
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.quant_utils import get_qmin_qmax_for_qType

    lowest, highest = get_qmin_qmax_for_qType(QuantType.QInt8.tensor_type, reduce_range, symmetric=True)
    steps = float(highest) - float(lowest)
    held = stored(graph)
    found: Overrides = {}
    for node in graph.graph.node:
        weight = held.get(node.input[1]) if node.op_type in LAYERS and node.name in integers else None
        if weight is None or weight.data_type != TensorProto.FLOAT:
            continue
        axis = _axis(node, len(weight.dims))
        scales = None if axis is None else _scales(array_of(weight), axis, steps)
        if scales is not None and np.isfinite(scales).all():
            found[weight.name] = [{"axis": axis, "scale": one, "zero_point": 0} for one in scales]
    return found


def _axis(node: Node, rank: int) -> int | None:
    """The axis of the output's channels in the weight."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attributes(node).get("transB") else 1
    return 1 if node.op_type == "ConvTranspose" or rank == 2 else None  # noqa: PLR2004 -- a matrix


def _scales(weight: "NDArray[np.floating]", axis: int, steps: float) -> "NDArray[np.floating]":
    """The largest number of each channel, both ways, over the steps; 1 where there is nothing but zeros."""
    others = tuple(place for place in range(weight.ndim) if place != axis)
    reach = np.maximum(weight.max(axis=others, initial=0), -weight.min(axis=others, initial=0))
    scales = 2 * reach.astype(np.float64) / steps
    return np.where(scales < np.finfo(weight.dtype).tiny, 1, scales).astype(weight.dtype)
