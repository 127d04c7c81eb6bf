"""How the nodes of an ONNX graph read its stored tensors: with which scale, and which axis first."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

LAST = -1


@dataclass(frozen=True, slots=True)
class Reading:
    """What makes a stored tensor the numbers that the model computes with.

    ``scale`` and ``zero`` name initializers (empty where there are none); ``axis`` is that of their elements
    and ``block`` how many rows share one. ``inputs_first``: a matrix whose columns are its units.
    """

    scale: str = ""
    zero: str = ""
    axis: int = LAST
    block: int = 0
    inputs_first: bool = False


@dataclass(frozen=True, slots=True)
class _Places:
    """Where among its inputs an operator takes a weight, its scale and its zero point (-1: nowhere)."""

    weight: int
    scale: int
    zero: int
    axis: int = LAST
    inputs_first: bool = True


QUANTIZED: Mapping[str, tuple[_Places, ...]] = {
    "DequantizeLinear": (_Places(0, 1, 2, inputs_first=False),),
    "QuantizeLinear": (_Places(0, 1, 2, inputs_first=False),),
    "MatMulInteger": (_Places(0, -1, 2, inputs_first=False), _Places(1, -1, 3)),
    "ConvInteger": (_Places(0, -1, 2, inputs_first=False), _Places(1, -1, 3, axis=0, inputs_first=False)),
    "QLinearMatMul": (_Places(0, 1, 2, inputs_first=False), _Places(3, 4, 5), _Places(-1, 6, 7)),
    "QLinearConv": (
        _Places(0, 1, 2, inputs_first=False),
        _Places(3, 4, 5, axis=0, inputs_first=False),
        _Places(-1, 6, 7),
    ),
    "QGemm": (_Places(0, 1, 2, inputs_first=False), _Places(3, 4, 5), _Places(-1, 7, 8)),
    "DynamicQuantizeMatMul": (_Places(1, 2, 3),),
    "MatMulIntegerToFloat": (_Places(0, 2, 4, inputs_first=False), _Places(1, 3, 5)),
    "DynamicQuantizeLSTM": (
        _Places(1, 8, 9, 0, inputs_first=False),
        _Places(2, 10, 11, 0, inputs_first=False),
    ),
}
"""Of ONNX and of ``com.microsoft``, as onnxruntime's quantizer writes them."""


def readings_of(graph: "GraphProto", held: set[str]) -> tuple[dict[str, Reading], set[str]]:
    """How each of the tensors in ``held`` is read, and which of them are scales and zero points."""
    readings: dict[str, Reading] = {}
    parameters: set[str] = set()
    stands_for: dict[str, str] = {}
    chains = _Chains(graph, held)
    for node in graph.node:
        for places in QUANTIZED.get(node.op_type, ()):
            scale, zero = _input(node, places.scale), _input(node, places.zero)
            if places.scale < 0 and places.weight > 0:
                scale = chains.scale_after(node)
            parameters |= {name for name in (scale, zero) if name in held}
            weight = _input(node, places.weight)
            if weight in held and scale in held and (not zero or zero in held):
                readings[weight] = _reading(node, places, scale, zero)
                stands_for[node.output[0]] = weight
        weight = stands_for.get(_input(node, 1), _input(node, 1))
        if weight in held and _multiplies(node):
            readings[weight] = replace(readings.get(weight, Reading()), inputs_first=True)
    return readings, parameters - set(readings)


def _reading(node: "NodeProto", places: _Places, scale: str, zero: str) -> Reading:
    options = {option.name: option.i for option in node.attribute}
    axis, inputs_first = places.axis, places.inputs_first
    if node.op_type == "DequantizeLinear":
        axis = options.get("axis", 1)
    elif node.op_type == "QGemm" and options.get("transB"):
        axis, inputs_first = 0, False
    return Reading(scale, zero, axis, options.get("block_size", 0), inputs_first)


def _multiplies(node: "NodeProto") -> bool:
    """Whether its second input has inputs first."""
    turned = any(option.name == "transB" and option.i for option in node.attribute)
    return node.op_type in ("MatMul", "FusedMatMul") or (node.op_type == "Gemm" and not turned)


def _input(node: "NodeProto", place: int) -> str:
    return str(node.input[place]) if 0 <= place < len(node.input) else ""


class _Chains:
    """Who makes and who reads what."""

    def __init__(self, graph: "GraphProto", held: set[str]) -> None:
        self._held = held
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def scale_after(self, node: "NodeProto") -> str:
        """The weight's scale of an integer product: it is multiplied in after a Cast to float.

        onnxruntime's dynamic quantizer writes product, Cast, Mul(scale of the input · that of the weight).
        """
        casts = [one for one in self._readers.get(node.output[0], ()) if one.op_type == "Cast"]
        for cast in casts:
            for multiply in self._readers.get(cast.output[0], ()):
                for name in multiply.input if multiply.op_type == "Mul" else ():
                    both = self._makers.get(name)
                    found = [one for one in both.input if one in self._held] if both is not None else []
                    if both is not None and both.op_type == "Mul" and found:
                        return str(found[0])
        return ""
