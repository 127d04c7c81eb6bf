"""The bodies of ``Loop``, ``If`` and ``Scan``: graphs in a node, which read what is around them by name."""

from collections.abc import Iterator
from typing import Any, TypeAlias

Node: TypeAlias = Any
"""``onnx.NodeProto``."""
Body: TypeAlias = Any
"""``onnx.GraphProto``."""


def bodies_of(node: Node) -> list[Body]:
    """The graphs that a node holds; most hold none."""
    return [
        body
        for attribute in node.attribute
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]


def every_body(nodes: Any) -> Iterator[tuple[str, Body]]:
    """Every body below these nodes, those in bodies included, with the operator of the outermost node."""
    for node in nodes:
        for body in bodies_of(node):
            yield node.op_type, body
            yield from ((node.op_type, inner) for _, inner in every_body(body.node))


def keep_captured(graph: Any) -> int:
    """Let bodies read what nodes around them make through an ``Identity`` each, in place; how many there are.

    onnxruntime's quantizer rewrites a graph without looking into bodies: where it folds a ReLU into the
    rounding that follows, a body that reads the ReLU's answer by name then gets it unrectified, silently
    (onnxruntime 1.31). An ``Identity`` is a reader that it sees.
    """
    from onnx import helper

    made = {name for node in graph.graph.node for name in node.output if name}
    taken = {*made, *(name for _, body in every_body(graph.graph.node) for name in _names(body))}
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for node in graph.graph.node:
        for name in sorted(set().union(*(_captured(body) for body in bodies_of(node))) & made - {*renamed}):
            renamed[name] = _free(f"{name}_captured", taken)
            taken.add(renamed[name])
            nodes.append(helper.make_node("Identity", [name], [renamed[name]], name=renamed[name]))
        for body in bodies_of(node):
            _rename(body, renamed)
        nodes.append(node)
    if renamed:
        del graph.graph.node[:]
        graph.graph.node.extend(nodes)
    return len(renamed)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _own(body: Body) -> set[str]:
    """The names that a body makes or is given."""
    given = {value.name for value in (*body.input, *body.initializer)}
    return given | {name for node in body.node for name in node.output if name}


def _captured(body: Body) -> set[str]:
    """The names that a body, and those within it, read from around it."""
    read = {value.name for value in body.output}
    for node in body.node:
        read.update(name for name in node.input if name)
        for inner in bodies_of(node):
            read |= _captured(inner)
    return read - _own(body)


def _names(body: Body) -> set[str]:
    return _own(body) | _captured(body)


def _rename(body: Body, renamed: dict[str, str]) -> None:
    """New names for what a body reads from around it; ONNX lets no body make a name that is there already."""
    for node in body.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        for inner in bodies_of(node):
            _rename(inner, renamed)
    for value in body.output:
        value.name = renamed.get(value.name, value.name)


def drop_unused(graph: Any) -> None:
    """Initializers that no node reads, in place."""
    inner = graph.graph
    read = {value.name for value in inner.output} | read_by(inner.node)
    kept = [tensor for tensor in inner.initializer if tensor.name in read]
    if len(kept) < len(inner.initializer):
        del inner.initializer[:]
        inner.initializer.extend(kept)


def read_by(nodes: Any) -> set[str]:
    """The names that these nodes read, the bodies of loops and branches included."""
    read: set[str] = set()
    for node in nodes:
        read.update(node.input)
        for body in bodies_of(node):
            read |= read_by(body.node) | {value.name for value in body.output}
    return read
