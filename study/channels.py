"""Where the channels of images lie: first, as in torch, or last, as in Keras and TensorFlow."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.subject import InputSpec

IMAGE_AXES = 4
GREY, RGB = 1, 3
Shape = tuple[int | None, ...]


def channels_last(shape: Shape | None) -> bool:
    """Whether images of this shape (rows first) have their one or three channels last, and not first."""
    counts = (GREY, RGB)
    return shape is not None and len(shape) == IMAGE_AXES and shape[1] not in counts and shape[3] in counts


def sides(shape: Shape) -> tuple[int | None, int | None]:
    """Height and width of images of this shape."""
    height, width = shape[1:3] if channels_last(shape) else shape[2:4]
    return height, width


def channels(shape: Shape) -> int | None:
    """How many channels images of this shape have."""
    return shape[3] if channels_last(shape) else shape[1]


def turned(array: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """Rows with their channels first, or grey ones without that axis, as a model of channels last takes them.

    What fits as it is, and what fits in no way, stays as it is.
    """
    if not channels_last(spec.shape) or _fits(array, spec.shape):
        return array
    ways = [array[..., None]] if array.ndim == IMAGE_AXES - 1 else []
    ways += [np.moveaxis(array, 1, -1)] if array.ndim == IMAGE_AXES else []
    return next((np.ascontiguousarray(way) for way in ways if _fits(way, spec.shape)), array)


def _fits(array: NDArray[Any], shape: Shape | None) -> bool:
    assert shape is not None
    pairs = zip(shape[1:], array.shape[1:], strict=False)
    return array.ndim == len(shape) and all(axis is None or axis == size for axis, size in pairs)
