"""The weights of an ONNX model: its initializers, those in files beside it included, and dequantized."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from study.errors import InputError
from study.loading.nibbles import SUFFIX, packed_of, unpacked
from study.loading.readings import Reading, readings_of
from study.subject import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import TensorProto

MATRIX_AXES = 2
SUFFIXES = ("_quantized", "_transposed")
"""What quantizers, and our own export, append to the name that the module gave."""


def read_initializers(model: Model) -> "Iterator[tuple[str, NDArray[Any]]]":
    """Names and values, one at a time, as the module that was exported has them.

    Quantized weights are shown as the numbers that they stand for; scales and zero points are no weights and
    are left out. A matrix that is stored with its inputs first, as a MatMul takes it, is shown with its
    outputs first.

    Raises:
        InputError: it is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

    try:
        graph = onnx.load_model(model.path, load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise InputError(f"{model.path} is no ONNX model ({error}): export it again.") from error
    folder = str(model.path.parent)
    held = {tensor.name: tensor for tensor in graph.initializer}
    readings, parameters = readings_of(graph, set(held))
    packed = packed_of(graph, set(held))
    parameters |= {name for one in packed.values() for name in (one.scale, one.zero)}
    for name, tensor in held.items():
        if name in parameters:
            continue
        reading = readings.get(name, Reading())
        try:
            value = _array(tensor, folder)
            if name in packed:
                one = packed[name]
                zero = _array(held[one.zero], folder) if one.zero else None
                yield name.removesuffix(SUFFIX), unpacked(one, value, _array(held[one.scale], folder), zero)
                continue
            if reading.scale:
                scale = _array(held[reading.scale], folder)
                zero = _array(held[reading.zero], folder) if reading.zero else None
                value = dequantized(value, scale, zero, reading.axis, reading.block)
        except (ValueError, TypeError, OSError, onnx.checker.ValidationError) as error:
            raise InputError(f"{model.path}: the initializer '{name}' cannot be read ({error}).") from error
        turned = reading.inputs_first and value.ndim == MATRIX_AXES
        yield _shown(name, reading, held), value.T if turned else value


def _shown(name: str, reading: Reading, held: "dict[str, TensorProto]") -> str:
    """The name that the module gave it, where no other tensor has it."""
    short = name
    if reading.scale:
        short = short.removesuffix(SUFFIXES[0])
    if reading.inputs_first:
        short = short.removesuffix(SUFFIXES[1])
    return name if short in held else short


def _array(tensor: "TensorProto", folder: str) -> "NDArray[Any]":
    """As numpy knows it: types that it lacks become float32 or int8."""
    from onnx import numpy_helper

    value: NDArray[Any] = numpy_helper.to_array(tensor, folder)
    if (
        value.dtype.kind not in "biufcOSU"
    ):  # ml_dtypes: bfloat16 and float8 are kind V, and so are the nibbles
        value = value.astype(np.int8 if "int" in value.dtype.name else np.float32)
    return value


def dequantized(
    value: "NDArray[Any]", scale: "NDArray[Any]", zero: "NDArray[Any] | None", axis: int, block: int = 0
) -> "NDArray[Any]":
    """(value - zero point) · scale, a scale a tensor, a slice along ``axis``, or a block along it."""
    axis %= max(value.ndim, 1)
    zero = np.zeros_like(scale) if zero is None else zero

    def spread(part: "NDArray[Any]") -> "NDArray[Any]":
        if part.size == 1:
            return part.reshape(())
        if block:
            return np.repeat(part, block, axis=axis).take(range(value.shape[axis]), axis=axis)
        if part.ndim == MATRIX_AXES:  # a recurrent layer: a scale a direction and column
            return part[:, None]
        return part.reshape([-1 if at == axis else 1 for at in range(value.ndim)])

    difference = value.astype(np.float32) - spread(zero).astype(np.float32)
    result: NDArray[Any] = difference * spread(scale).astype(np.float32)
    return result
