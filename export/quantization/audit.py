"""What was really quantized: the layers that run in integers once onnxruntime has optimised the graph.

A quantizer's own graph says little: Q/DQ pairs that onnxruntime finds no integer kernel for stay, and the
layer between them computes in float. So the graph is read after onnxruntime's optimiser, on this machine.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from export.graphs.bodies import every_body
from export.graphs.files import Graph
from export.graphs.layers import FLOATS, Layer, layers_of
from export.graphs.nodes import TRANSPOSED, module_of, stored
from export.quiet import library
from study.errors import few
from study.record import Cell, Finding, Metric, Record, Table, Verdict

INTEGER_KERNELS = ("QLinear", "QGemm", "MatMulInteger", "DynamicQuantize", "ConvInteger")
INTEGER_DATA = (2, 3, 21, 22)
"""onnx.TensorProto UINT8, INT8, UINT4, INT4."""
IN_FLOAT = ("DequantizeLinear", "QuantizeLinear")
SUFFIX = re.compile(r"(_quant|_MatMul|_token_\d+|/duplicated)+$")
MORE_ROWS = 100
RUN = "int8"
"""The precision that kernels compute in; others are what weights are held in."""


@dataclass(frozen=True, slots=True)
class Fate:
    """Whether a layer runs in integers, and why not."""

    layer: Layer
    integer: bool
    why: str = ""


def fates_of(
    before: Graph,
    after: Path,
    sizes: dict[str, tuple[int, ...]],
    skipped: Mapping[str, str],
    left: Mapping[str, str] = MappingProxyType({}),
) -> list[Fate]:
    """The fate of each layer of ``before`` in the model ``after``.

    ``skipped`` says why the quantizer leaves an operator out (``{"LSTM": "…"}``), ``left`` why a node.
    """
    names, weights = _integer_kernels(after)
    layers = layers_of(before, sizes)
    owners = Counter(weight for layer in layers for weight in layer.weights)
    fates = []
    for layer in layers:
        own = any(weight in weights and owners[weight] == 1 for weight in layer.weights)
        if layer.inside:
            fates.append(
                Fate(layer, integer=False, why=f"it is in the body of {layer.inside}, which stays as it is")
            )
        elif layer.node in names or own:
            fates.append(Fate(layer, integer=True))
        elif not layer.weights:
            why = "it multiplies two activations"
            fates.append(Fate(layer, integer=False, why=why))
        else:
            why = left.get(layer.node) or skipped.get(
                layer.op, "onnxruntime found no integer kernel for it on this machine"
            )
            fates.append(Fate(layer, integer=False, why=why))
    return fates


def lone_pairs(after: Path) -> tuple[Finding, ...]:
    """A finding for the Q/DQ pairs that onnxruntime fused with no kernel: they cost time and accuracy."""
    graph = optimised(after)
    makers = {name: node.op_type for node in graph.graph.node for name in node.output}
    alone = {
        node.output[0]
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear"
        and makers.get(node.input[0], "QuantizeLinear") == "QuantizeLinear"
    }
    if not alone:
        return ()
    readers = [node for node in graph.graph.node if alone.intersection(node.input)]
    return (
        Finding(
            what=f"Q/DQ pairs that found no fused kernel: {len(alone)}; what reads them computes in float.",
            where=few(dict.fromkeys(module_of(node) or SUFFIX.sub("", node.name) for node in readers)),
            do="Leave these layers in float with int8:exclude, and the pairs go too.",
        ),
    )


def _integer_kernels(after: Path) -> tuple[set[str], set[str]]:
    """The nodes, by the names that they had before, and the weights that integer kernels read."""
    graph = optimised(after)
    integers = {
        name
        for name, tensor in stored(graph).items()
        if tensor.data_type in INTEGER_DATA and name.endswith("_quantized")
    }
    names: set[str] = set()
    weights: set[str] = set()
    for node in graph.graph.node:
        integer_op = node.op_type.startswith(INTEGER_KERNELS)
        read = integers.intersection(node.input)
        if node.op_type in IN_FLOAT or not (read or integer_op):
            continue
        names.update({node.name, SUFFIX.sub("", node.name)})
        weights.update(name.removesuffix("_quantized").removesuffix(TRANSPOSED) for name in read)
    return names, weights


def optimised(path: Path) -> Graph:
    """The graph that onnxruntime really runs, without the tensors that lie in another file."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        with library("onnxruntime"):
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(Path(folder) / "optimised.onnx", load_external_data=False)


def audit_record(before: Graph, fates: list[Fate], precision: str = "int8") -> Record:
    """How many parameters and MACs run in a precision, and which layers do not, with the reason."""
    done = [fate for fate in fates if fate.integer]
    left = [fate for fate in fates if not fate.integer]
    every = _parameters(before)
    moved = sum({name: fate.layer.parameters for fate in done for name in fate.layer.weights[:1]}.values())
    metrics = {}
    if every:
        share = min(1.0, moved / every)
        metrics[f"parameters_in_{precision}@audit"] = Metric.exact(share, len(fates), better="higher")
    macs = [fate.layer.macs for fate in fates]
    total = sum(count for count in macs if count is not None)
    if total and None not in macs:
        quick = sum(fate.layer.macs or 0 for fate in done)
        metrics[f"macs_in_{precision}@audit"] = Metric.exact(quick / total, len(fates), better="higher")
    findings = _findings(left)
    weighted = [fate for fate in fates if fate.layer.weights]
    summary = _summary(weighted, [fate for fate in done if fate.layer.weights], metrics, precision)
    verdict = Verdict.NOTED if any(fate.layer.weights for fate in left) or not done else Verdict.GOOD
    return Record(
        "audit", verdict, summary, metrics=metrics, findings=findings, tables=(_table(fates, precision),)
    )


def _parameters(graph: Graph) -> int:
    """All floating-point numbers stored in the model."""
    from math import prod

    graphs = (graph.graph, *(body for _, body in every_body(graph.graph.node)))
    tensors = (tensor for one in graphs for tensor in one.initializer)
    return sum(prod(tensor.dims) for tensor in tensors if tensor.data_type in FLOATS)


def _summary(weighted: list[Fate], done: list[Fate], metrics: Mapping[str, Metric], precision: str) -> str:
    ran = precision == RUN
    if not weighted:
        return "The step changed nothing: the model has no layer that could be quantized."
    if not done:
        nothing = f"none of {len(weighted)} layers {'runs' if ran else 'is held'} in {precision}"
        return f"The step changed nothing: {nothing}."
    text = f"{len(done)} of {len(weighted)} layers {'run' if ran else 'are held'} in {precision}"
    share = metrics.get(f"parameters_in_{precision}@audit")
    if share:
        text += f", with {share.value:.1%} of the parameters"
    macs = metrics.get(f"macs_in_{precision}@audit")
    return f"{text} and {macs.value:.1%} of the MACs." if macs else f"{text}; the MACs could not be counted."


def _findings(left: list[Fate]) -> tuple[Finding, ...]:
    """One finding a reason, for the layers that hold weights."""
    reasons: dict[str, list[Layer]] = {}
    for fate in left:
        if fate.layer.weights:
            reasons.setdefault(f"{fate.layer.op} is left in float: {fate.why}", []).append(fate.layer)
    return tuple(
        Finding(
            what=f"{reason} ({len(layers)} layers)" if len(layers) > 1 else reason,
            where=", ".join(layer.module or layer.node for layer in layers[:3]),
        )
        for reason, layers in reasons.items()
    )


def _table(fates: list[Fate], precision: str) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            fate.layer.node,
            fate.layer.module,
            fate.layer.op,
            fate.layer.parameters,
            fate.layer.macs,
            precision if fate.integer else "float",
            fate.why,
        )
        for fate in sorted(fates, key=lambda fate: (fate.integer, -fate.layer.parameters))
    ]
    columns = (
        "node",
        "module",
        "operator",
        "parameters",
        "MACs",
        "runs in" if precision == RUN else "held in",
        "because",
    )
    return Table("Layers", columns, tuple(rows[:MORE_ROWS]))
