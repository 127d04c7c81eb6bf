"""ONNX graphs: brought up to date and tidied; and which torch module a node came from."""

import ast
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from export.graphs.bodies import bodies_of, drop_unused, read_by
from export.graphs.files import Graph, read_graph
from export.graphs.folding import store_recurrent_weights
from export.quiet import library
from study.errors import SkipError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Node: TypeAlias = Any
"""``onnx.NodeProto``."""

OLDEST, OPSET = 13, 20
"""A model of an opset below the first is raised to the second, which torch's exporter writes."""
IR = 9
"""The file format from which on tensors need not be inputs, and opset 20 may be used."""
SCOPES = "pkg.torch.onnx.name_scopes"
KEPT_METADATA = (SCOPES, "namespace")
TRANSPOSED = "_transposed"
FOLDING = ("Conv", "ConvTranspose", "Gemm")
"""What torch's exporter folds a BatchNorm into."""


def read_current(path: Path) -> Graph:
    """The model in that file as today's tools take it: no tensor is an input too, and no operator too old.

    Q/DQ with a scale a channel came with opset 13; files of 2018 and before (opset 8, IR 3) name each stored
    tensor among the inputs, which onnx's checker asks for and every optimiser has to leave alone.

    Raises:
        SkipError: onnx's version converter cannot raise its opset.
    """
    import onnx

    graph = read_graph(path)
    stored_names = {tensor.name for tensor in graph.graph.initializer}
    if any(domain.domain in ("", "ai.onnx") and domain.version < OLDEST for domain in graph.opset_import):
        with library("onnx's version converter"):
            graph = onnx.version_converter.convert_version(graph, OPSET)
    fed = [value for value in graph.graph.input if value.name not in stored_names]
    if len(fed) < len(graph.graph.input):
        del graph.graph.input[:]
        graph.graph.input.extend(fed)
    graph.ir_version = max(graph.ir_version, IR)
    store_recurrent_weights(graph)
    return graph


def tidy(graph: Graph) -> None:
    """Names for all nodes, and out with what troubles later steps, in place.

    torch's exporter writes a ``value_info`` for each initializer, on which onnxruntime's quantizer stumbles
    when it transposes one ("Inferred shape and existing shape differ"), and the stack trace of each node,
    which would carry the paths of this machine into the artifact.
    """
    inner = graph.graph
    stored = {tensor.name for tensor in inner.initializer}
    kept = [value for value in inner.value_info if value.name not in stored]
    del inner.value_info[:]
    inner.value_info.extend(kept)
    taken = {node.name for node in inner.node}
    for position, node in enumerate(inner.node):
        metadata = [entry for entry in node.metadata_props if entry.key in KEPT_METADATA]
        del node.metadata_props[:]
        node.metadata_props.extend(metadata)
        node.doc_string = ""
        if not node.name:
            node.name = _free(f"{node.op_type}_{position}", taken)
            taken.add(node.name)


def sort_nodes(graph: Graph) -> None:
    """Every node after those whose outputs it reads, in place; onnxruntime's float16 converter appends casts.

    Raises:
        SkipError: the graph has a cycle.
    """
    waiting = list(graph.graph.node)
    made = {name for node in waiting for name in node.output if name}
    known: set[str] = set()
    ordered: list[Node] = []
    while waiting:
        ready = [node for node in waiting if not (read_by([node]) & made) - known]
        if not ready:
            raise SkipError("the graph has a cycle")
        for node in ready:
            known.update(node.output)
        ordered.extend(ready)
        done = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in done]
    del graph.graph.node[:]
    graph.graph.node.extend(ordered)


def in_order(graph: Graph) -> None:
    """Sort the nodes where some hold bodies, in place: quantizers do not see what those read."""
    if any(bodies_of(node) for node in graph.graph.node):
        sort_nodes(graph)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def stored(graph: Graph) -> "dict[str, Graph]":
    """The initializers (``onnx.TensorProto``) by name."""
    return {tensor.name: tensor for tensor in graph.graph.initializer}


def array_of(tensor: Graph) -> "NDArray[Any]":
    """The numbers of an initializer."""
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


def module_of(node: Node) -> str:
    """The torch module whose code made this node, as ``named_modules()`` names it; empty where unknown.

    A convolution that a BatchNorm was folded into says that it is the BatchNorm's; its weight's name says
    whose it is.
    """
    scopes = modules_of(node)
    if node.op_type in FOLDING and any("batchnorm" in one for one in _namespace(node)):
        owner, stored_there, rest = node.input[1].partition(".weight")  # a quantizer adds _DequantizeLinear_…
        if stored_there and rest[:1] in ("", "_"):
            return str(owner)
    return scopes[-1] if scopes else ""


def modules_of(node: Node) -> tuple[str, ...]:
    """The torch modules around the code that made this node, the outermost first; the whole model is none."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            return _scopes(entry.value)
    if not node.name.startswith("/"):  # as the TorchScript exporter names nodes: /layers/layers.0/conv/Conv
        return ()
    around: list[str] = []
    for part in node.name.split("/")[1:-1]:
        path = around[-1].split(".") if around else []
        inner = part.split(".")
        nested = len(inner) > 1 and path and path[-len(inner) + 1 :] == inner[:-1]
        around.append(".".join([*path, inner[-1]] if nested else [*path, *inner]))
    return tuple(around)


@lru_cache(maxsize=1 << 16)
def _scopes(listed: str) -> tuple[str, ...]:
    """The names in a list as Python writes it, but for the last one, which is the node's own."""
    return tuple(str(scope) for scope in ast.literal_eval(listed)[:-1] if scope)


def _namespace(node: Node) -> list[str]:
    """The class of the innermost torch module around a node, if its metadata says so."""
    told = (entry.value.split("/") for entry in node.metadata_props if entry.key == "namespace")
    return [parts[-2] for parts in told if len(parts) > 1]


def attributes(node: Node) -> "dict[str, Any]":
    """The attributes of a node as Python values."""
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def rename_value(graph: Graph, old: str, new: str) -> None:
    """Another name for a value between nodes, in place; bodies of nodes are not looked into."""
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for value in graph.graph.value_info:
        if value.name == old:
            value.name = new


def split_gemm(graph: Graph) -> int:
    """Every Gemm with a constant weight as MatMul and Add, in place; the MatMul keeps its name.

    onnxruntime's dynamic quantizer knows no Gemm. It has a rewrite of its own, which transposes a weight that
    two nodes share twice: the layers of a fresh ``nn.TransformerEncoder`` are copies of one another, the
    exporter stores them once, and a square weight then comes out silently wrong (onnxruntime 1.31).
    """
    from onnx import numpy_helper

    weights, nodes, count = stored(graph), list(graph.graph.node), 0
    rewritten: list[Node] = []
    for node in nodes:
        settings = attributes(node) if node.op_type == "Gemm" else {}
        plain = settings.get("alpha", 1.0) == 1.0 and settings.get("beta", 1.0) == 1.0
        if node.op_type != "Gemm" or node.input[1] not in weights or settings.get("transA") or not plain:
            rewritten.append(node)
            continue
        weight = node.input[1]
        if settings.get("transB"):
            weight = node.input[1] + TRANSPOSED
            if weight not in weights:
                turned = np.ascontiguousarray(array_of(weights[node.input[1]]).T)
                weights[weight] = numpy_helper.from_array(turned, weight)
                graph.graph.initializer.append(weights[weight])
        rewritten.extend(_matmul_and_add(node, weight))
        count += 1
    del graph.graph.node[:]
    graph.graph.node.extend(rewritten)
    drop_unused(graph)
    return count


def _matmul_and_add(node: Node, weight: str) -> list[Node]:
    from onnx import helper

    biased = len(node.input) > 2 and bool(node.input[2])  # noqa: PLR2004 -- Gemm's third input is its bias
    product = f"{node.output[0]}_product" if biased else node.output[0]
    made = [helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name)]
    if biased:
        made.append(
            helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_bias")
        )
    for one in made:
        one.metadata_props.extend(node.metadata_props)
    return made


def flatten_biases(graph: Graph) -> None:
    """Every stored Gemm bias of one line as a vector, in place: onnxruntime's quantizer fails on others."""
    from onnx import numpy_helper

    weights = stored(graph)
    for node in graph.graph.node:
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""  # noqa: PLR2004 -- as above
        if bias not in weights or len(weights[bias].dims) < 2 or np.prod(weights[bias].dims[:-1]) != 1:  # noqa: PLR2004
            continue
        name = f"{bias}_flat"
        if name not in weights:
            weights[name] = numpy_helper.from_array(array_of(weights[bias]).reshape(-1), name)
            graph.graph.initializer.append(weights[name])
        node.input[2] = name
    drop_unused(graph)
