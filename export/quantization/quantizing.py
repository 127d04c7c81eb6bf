"""Static int8 in three steps: a graph made ready, observed once, and quantized as often as one likes."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from export.examples import Batch
from export.graphs.bodies import keep_captured
from export.graphs.files import Graph, copied, hand_to_library, read_graph
from export.graphs.nodes import Node, flatten_biases, in_order, module_of, stored, tidy
from export.quantization.chosen import IN_FLOAT, LAYERS, left_in_float
from export.quantization.guarding import keep_in_float, read_unrounded, sums_in_float
from export.quantization.isa import IntegerTypes
from export.quantization.observing import observe
from export.quantization.ranges import Ranges
from export.quantization.weights import scales_of_weights
from export.quiet import library
from study.errors import InputError, did_you_mean

FRAGILE = ("LayerNormalization", "InstanceNormalization", "BatchNormalization", "Softmax")
"""Little of the work and much of the error: they stay in float."""
FLOAT: Final = 1
"""onnx.TensorProto FLOAT."""


def prepared(before: Graph) -> Graph:
    """A graph as the quantizer wants it, constants folded and shapes inferred; node names and modules stay.

    Raises:
        SkipError: onnxruntime cannot read the graph.
    """
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, library("onnxruntime's quantizer", streams=False):
        given, made = (Path(folder) / name for name in ("given.onnx", "made.onnx"))
        large = hand_to_library(before, given)
        # symbolic shape inference gives up on transformers, and nothing here needs it
        quant_pre_process(
            given,
            made,
            skip_symbolic_shape=True,
            save_as_external_data=large,
            external_data_location="made.onnx.data" if large else None,
        )
        simple = read_graph(made)
        _keep_modules(before, simple)
        flatten_biases(simple)
        keep_captured(simple)
        (Path(folder) / "made.onnx.data").unlink(missing_ok=True)  # onnx appends to what is there
        hand_to_library(simple, made)
        return load_model_with_shape_infer(made)


def _keep_modules(before: Graph, after: Graph) -> None:
    """The torch module of every node that is still there: onnxruntime writes a large graph without them."""
    known = {node.name: node for node in before.graph.node}
    for node in after.graph.node:
        if node.name in known and not node.metadata_props:
            node.metadata_props.extend(known[node.name].metadata_props)


def operators() -> list[str]:
    """The operators that static int8 may quantize."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry} - {*FRAGILE})


def calibrate(graph: Graph, rows: Iterable[Batch], method: str) -> Ranges:
    """The range of every activation that may be quantized, by ``minmax``, ``percentile`` or ``entropy``.

    ``graph`` is as ``prepared`` makes it, and ``rows`` are iterated twice.

    Raises:
        SkipError: an activation is NaN or infinite on the rows.
    """
    return observe(graph, activations(graph), rows, counted=method != "minmax").ranges(method)


def activations(graph: Graph) -> list[str]:
    """The tensors that quantization may ask a range of: what the quantized nodes read and make."""
    integers = integers_of(graph)
    inner = graph.graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inner.value_info, *inner.input, *inner.output)
    }
    held = stored(graph)
    names = [name for node in inner.node if node.name in integers for name in (*node.input, *node.output)]
    return [name for name in dict.fromkeys(names) if name not in held and types.get(name) == FLOAT]


def integers_of(graph: Graph, exclude: Sequence[str] = ()) -> set[str]:
    """The nodes that will read or hand on integers."""
    known = operators()
    left = {*left_in_float(graph, known, chosen_nodes(graph, exclude))}
    return {node.name for node in graph.graph.node if node.op_type in known} - left


def quantized(graph: Graph, ranges: Ranges, types: IntegerTypes, exclude: Sequence[str] = ()) -> Graph:
    """A new graph with Q/DQ pairs around what is quantized; ``exclude`` names layers that stay in float.

    Raises:
        InputError: there is no such layer.
        SkipError: onnxruntime's quantizer fails.
    """
    given = copied(graph)
    known = operators()
    integers = integers_of(given, exclude)
    with library("onnxruntime's quantizer"):
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        data = {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in ranges.items()
        }
        quantizer = QDQQuantizer(
            given,
            per_channel=True,
            reduce_range=types.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if types.signed_activations else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=[],
            nodes_to_exclude=[node.name for node in given.graph.node if node.name not in integers],
            op_types_to_quantize=known,
            extra_options={
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": [IN_FLOAT],
                "TensorQuantOverrides": scales_of_weights(given, integers, reduce_range=types.reduce_range),
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        made = quantizer.model.model
    read_unrounded(made, integers)
    keep_in_float(made)
    sums_in_float(made, integers)
    in_order(made)
    tidy(made)
    return made


def chosen_nodes(graph: Graph, names: Sequence[str]) -> list[str]:
    """The nodes that these names mean: of a node itself, or of a torch module and all within it.

    Raises:
        InputError: there is none of that name.
    """
    layers = [node for node in graph.graph.node if _is_layer(node)]
    found: dict[str, None] = {}
    for name in names:
        nodes = [node.name for node in graph.graph.node if name in (node.name, module_of(node))]
        nodes += [node.name for node in graph.graph.node if module_of(node).startswith(f"{name}.")]
        if not nodes:
            known = dict.fromkeys(module_of(node) or node.name for node in layers)
            raise InputError(f"There is no layer '{name}' to leave in float.{did_you_mean(name, known)}")
        found |= dict.fromkeys(nodes)
    return list(found)


def _is_layer(node: Node) -> bool:
    return node.op_type in LAYERS
