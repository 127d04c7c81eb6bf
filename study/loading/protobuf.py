"""An ONNX file read as protocol-buffer fields, without onnx: its precision, and the files beside it.

Field numbers are those of ``onnx.proto``. Tensor data is skipped over, so a file of gigabytes is read in
milliseconds.
"""

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from math import prod
from pathlib import Path
from typing import Final

from study.subject import Precision

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_HALVES: Final = {10, 16}
_FLOATS: Final = {1, 11, 10, 16}
_NIBBLES: Final = {21, 22}
_MAX_VARINT_BITS: Final = 63
_MAX_DEPTH: Final = 16
_QUANTIZED_OPS: Final = frozenset(
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "ConvInteger",
        "QGemm",
        "QAttention",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
        "DynamicQuantizeLSTM",
    ]
)


class _Model(IntEnum):
    IR_VERSION = 1
    GRAPH = 7
    OPSETS = 8
    FUNCTIONS = 25


class _Graph(IntEnum):
    NODE = 1
    INITIALIZER = 5


class _Node(IntEnum):
    OP_TYPE = 4
    ATTRIBUTE = 5


class _Attribute(IntEnum):
    NAME = 1
    INTEGER = 3
    TENSOR = 5
    GRAPH = 6
    TENSORS = 10
    GRAPHS = 11


class _Tensor(IntEnum):
    SIZES = 1
    DATA_TYPE = 2
    EXTERNAL = 13


_BLOCK_OPS: Final = ("MatMulNBits", "GatherBlockQuantized", "MatMulBnb4")
_FUNCTION_NODE: Final = 7
_KEY, _VALUE = 1, 2
_BITS: Final = 4
_MORE: Final = 0x80
"""Set in every byte of a varint but the last."""


class NotProtobufError(ValueError):
    """The bytes are not what they should be, or end too early."""


@dataclass(slots=True)
class Onnx:
    """What the fields of a ModelProto say."""

    ops: Counter[str] = field(default_factory=Counter)
    elements: Counter[int] = field(default_factory=Counter)
    """Elements of initializers by data type."""
    nibbles: bool = False
    """Some weights have four bits."""
    blocks: bool = False
    """Some weights have another number of bits, packed in blocks."""
    external: set[str] = field(default_factory=set)
    """Files that hold tensor data, relative to the model's folder."""

    @property
    def precision(self) -> Precision:
        """What most of the weights have become; half precision when most float elements are."""
        if self.nibbles or self.elements.keys() & _NIBBLES:
            return "int4"
        if (
            self.blocks
            or self.ops.keys() & _QUANTIZED_OPS
            or any(op.startswith("QLinear") for op in self.ops)
        ):
            return "int8"
        floats = {kind: n for kind, n in self.elements.items() if kind in _FLOATS}
        half = sum(n for kind, n in floats.items() if kind in _HALVES)
        return "fp16" if half * 2 > sum(floats.values()) else "fp32"


def read_onnx(path: Path) -> Onnx:
    """Walk the fields of a model.

    Raises:
        NotProtobufError: it is no ModelProto, or is cut off.
    """
    found = Onnx()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        seen: set[int] = set()
        for number, kind, start, end in _fields(data, 0, len(data)):
            seen.add(number)
            if number == _Model.GRAPH and kind == _BYTES:
                _graph(data, start, end, found, 0)
            elif number == _Model.FUNCTIONS and kind == _BYTES:
                for inner, wire, first, last in _fields(data, start, end):
                    if inner == _FUNCTION_NODE and wire == _BYTES:
                        _node(data, first, last, found, 0)
        if not {_Model.IR_VERSION, _Model.GRAPH, _Model.OPSETS} <= seen or not found.ops:
            raise NotProtobufError("it has no graph")
    return found


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift <= _MAX_VARINT_BITS:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < _MORE:
            return value, at
        shift += 7
    raise NotProtobufError("it is cut off")


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Field number, wire type, and where its value begins and ends (of a varint: the value, twice)."""
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at, end)
            yield key >> 3, kind, value, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at, end)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise NotProtobufError("it is no protocol buffer")
        if key >> 3 == 0 or at + size > end:
            raise NotProtobufError("it is cut off")
        yield key >> 3, kind, at, at + size
        at += size


def _graph(data: mmap.mmap, at: int, end: int, found: Onnx, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise NotProtobufError("its graphs are nested too deep")
    for number, kind, start, last in _fields(data, at, end):
        if kind == _BYTES and number == _Graph.NODE:
            _node(data, start, last, found, depth)
        elif kind == _BYTES and number == _Graph.INITIALIZER:
            _tensor(data, start, last, found)


def _node(data: mmap.mmap, at: int, end: int, found: Onnx, depth: int) -> None:
    op = ""
    bits = _BITS
    for number, kind, start, last in _fields(data, at, end):
        if number == _Node.OP_TYPE and kind == _BYTES:
            op = _text(data, start, last)
        elif number == _Node.ATTRIBUTE and kind == _BYTES:
            bits = _attribute(data, start, last, found, depth) or bits
    found.ops[op] += 1
    if op in _BLOCK_OPS:
        found.nibbles |= bits == _BITS
        found.blocks |= bits != _BITS


def _attribute(data: mmap.mmap, at: int, end: int, found: Onnx, depth: int) -> int:
    """Its integer where it is called ``bits``, else 0; graphs and tensors in it are walked."""
    name, integer = "", 0
    for number, kind, start, last in _fields(data, at, end):
        if number == _Attribute.NAME and kind == _BYTES:
            name = _text(data, start, last)
        elif number == _Attribute.INTEGER and kind == _VARINT:
            integer = start
        elif number in (_Attribute.GRAPH, _Attribute.GRAPHS) and kind == _BYTES:
            _graph(data, start, last, found, depth + 1)
        elif number in (_Attribute.TENSOR, _Attribute.TENSORS) and kind == _BYTES:
            _tensor(data, start, last, found)
    return integer if name == "bits" else 0


def _tensor(data: mmap.mmap, at: int, end: int, found: Onnx) -> None:
    sizes: list[int] = []
    element = 0
    for number, kind, start, last in _fields(data, at, end):
        if number == _Tensor.SIZES and kind == _VARINT:
            sizes.append(start)
        elif number == _Tensor.SIZES and kind == _BYTES:
            place = start
            while place < last:
                size, place = _varint(data, place, last)
                sizes.append(size)
        elif number == _Tensor.DATA_TYPE and kind == _VARINT:
            element = start
        elif number == _Tensor.EXTERNAL and kind == _BYTES:
            pair = {n: _text(data, first, final) for n, _, first, final in _fields(data, start, last)}
            if pair.get(_KEY) == "location":
                found.external.add(pair.get(_VALUE, ""))
    found.elements[element] += prod(sizes)


def _text(data: mmap.mmap, at: int, end: int) -> str:
    return data[at:end].decode("utf-8", "replace")
