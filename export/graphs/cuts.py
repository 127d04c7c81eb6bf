"""Cuts of a graph: the values that cross from the nodes before a place to those behind it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from export.graphs.bodies import bodies_of
from export.graphs.files import SMALL, Graph
from export.graphs.layers import FLOATS, WEIGHTS
from export.graphs.nodes import Node, module_of, stored


@dataclass(frozen=True, slots=True)
class Flow:
    """The nodes of a graph in order, who makes each value, and who is the last to read it."""

    graph: Graph
    nodes: Sequence[Node]
    makers: dict[str, int]
    last: dict[str, int]
    """The place of the last reader; beyond the last node for an output of the graph."""

    @classmethod
    def of(cls, graph: Graph) -> "Flow":
        """Of a graph whose nodes are in order."""
        nodes = list(graph.graph.node)
        makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
        last: dict[str, int] = {}
        for place, node in enumerate(nodes):
            last.update(dict.fromkeys(read_by(node), place))
        last.update((value.name, len(nodes)) for value in graph.graph.output)
        return cls(graph, nodes, makers, last)

    def cuts(self, known: Collection[str]) -> list[tuple[str, ...]]:
        """The known values that cross each place, from the first node on; the same ones twice are one cut.

        Values that are not known cross unseen: what is wrong with them shows in a later cut.
        """
        found: list[tuple[str, ...]] = []
        crossing: dict[str, None] = {}
        for place, node in enumerate(self.nodes):
            made = [name for name in node.output if name in known]
            ended = [name for name in crossing if self.last.get(name, -1) <= place]
            for name in ended:
                del crossing[name]
            crossing.update(dict.fromkeys(name for name in made if self.last.get(name, -1) > place))
            cut = tuple(crossing)
            if made and cut and (not found or cut != found[-1]):
                found.append(cut)
        return found

    def between(self, value: str, known: Collection[str]) -> list[Node]:
        """The nodes that make a value out of known ones, of inputs and of what is stored, in order."""
        wanted, seen = [value], set[int]()
        while wanted:
            name = wanted.pop()
            place = self.makers.get(name)
            if place is None or place in seen or (name in known and name != value):
                continue
            seen.add(place)
            wanted.extend(read_by(self.nodes[place]))
        return [self.nodes[place] for place in sorted(seen)]

    def until(self, values: Collection[str]) -> Graph:
        """The part of the graph that makes these values; its inputs are all inputs of the whole."""
        import onnx

        wanted, places, read = list(values), set[int](), set(values)
        while wanted:
            place = self.makers.get(wanted.pop())
            if place is None or place in places:
                continue
            places.add(place)
            more = read_by(self.nodes[place])
            read.update(more)
            wanted.extend(more)
        part = onnx.ModelProto(ir_version=self.graph.ir_version)
        part.opset_import.extend(self.graph.opset_import)
        part.functions.extend(self.graph.functions)
        part.graph.name = self.graph.graph.name or "part"
        part.graph.input.extend(self.graph.graph.input)
        part.graph.node.extend(self.nodes[place] for place in sorted(places))
        part.graph.initializer.extend(one for one in self.graph.graph.initializer if one.name in read)
        # onnxruntime's optimiser dies of a segmentation fault on some half-precision graphs without them
        part.graph.value_info.extend(one for one in self.graph.graph.value_info if one.name in read)
        return part


def read_by(node: Node) -> set[str]:
    """The names that a node reads, and the bodies in it."""
    read = {name for name in node.input if name}
    for body in bodies_of(node):
        read.update(value.name for value in body.output)
        for inner in body.node:
            read |= read_by(inner)
    return read


def floats_of(graph: Graph) -> set[str]:
    """The values that nodes make and that are floating-point numbers, by onnx's shape inference."""
    import onnx

    light = onnx.ModelProto(ir_version=graph.ir_version)
    light.opset_import.extend(graph.opset_import)
    light.functions.extend(graph.functions)
    light.graph.node.extend(graph.graph.node)
    light.graph.input.extend(graph.graph.input)
    light.graph.value_info.extend(graph.graph.value_info)
    light.graph.output.extend(graph.graph.output)
    for name, tensor in stored(graph).items():
        if len(tensor.raw_data) < SMALL and tensor.data_location != tensor.EXTERNAL:
            light.graph.initializer.append(tensor)
        else:  # its numbers say nothing of types
            light.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    inferred = onnx.shape_inference.infer_shapes(light).graph
    made = {name for node in graph.graph.node for name in node.output if name}
    return {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.name in made and value.type.tensor_type.elem_type in FLOATS
    }


def named(nodes: Sequence[Node]) -> str:
    """The layer that these nodes are, for a sentence: ``layer1.0.conv1 (node_Conv_102 to node_relu)``.

    It is called by the torch modules of those that multiply, ``a and b`` or ``a to z``; else of the last one.
    """
    multiplying = (module_of(node) for node in nodes if node.op_type in WEIGHTS)
    modules = list(dict.fromkeys(filter(None, multiplying))) or [module_of(nodes[-1])]
    joined = " and " if len(modules) == 2 else " to "  # noqa: PLR2004 - a pair
    module = joined.join(dict.fromkeys((modules[0], modules[-1])))
    names = [node.name or node.output[0] for node in nodes]
    shown = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return f"{module} ({shown})" if module else shown
