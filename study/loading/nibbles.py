"""Weights that onnxruntime packs into four bits: two to a byte, in blocks with a scale and a zero point."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto

KERNEL: Final = "MatMulNBits"
BITS: Final = 4
MIDDLE: Final = 8
"""The zero point where none is stored."""
SUFFIX: Final = "_Q4"


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix of so many ``inputs`` and ``outputs``; ``scale`` and ``zero`` name initializers."""

    scale: str
    zero: str
    inputs: int
    outputs: int
    block: int


def packed_of(graph: "GraphProto", held: set[str]) -> Mapping[str, Packed]:
    """The initializers that hold 4-bit weights, by name."""
    found = {}
    for node in graph.node:
        options = {option.name: option.i for option in node.attribute}
        if node.op_type != KERNEL or options.get("bits", BITS) != BITS or node.input[1] not in held:
            continue
        zero = next((name for name in node.input[3:4] if name in held), "")
        found[node.input[1]] = Packed(node.input[2], zero, options["K"], options["N"], options["block_size"])
    return found


def unpacked(
    packed: Packed, value: "NDArray[Any]", scale: "NDArray[Any]", zero: "NDArray[Any] | None"
) -> "NDArray[Any]":
    """The numbers that they stand for, (outputs, inputs): (level - zero point) · scale of its block."""
    levels = _split(value.reshape(packed.outputs, -1, packed.block // 2)).astype(np.float32)
    blocks = levels.shape[1]
    scales = scale.reshape(packed.outputs, blocks, 1).astype(np.float32)
    if zero is None:
        middles: NDArray[Any] = np.full_like(scales, MIDDLE)
    elif zero.dtype == np.uint8:
        middles = _split(zero.reshape(packed.outputs, -1))[:, :blocks, None].astype(np.float32)
    else:
        middles = zero.reshape(packed.outputs, blocks, 1).astype(np.float32)
    numbers: NDArray[Any] = ((levels - middles) * scales).reshape(packed.outputs, -1)
    return numbers[:, : packed.inputs]


def _split(pairs: "NDArray[Any]") -> "NDArray[Any]":
    """Each byte as its low and its high half, in the last axis."""
    halves: NDArray[Any] = np.stack([pairs & 15, pairs >> BITS], axis=-1)
    return halves.reshape(*pairs.shape[:-1], -1)
