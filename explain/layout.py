"""How one row of an input lies: its channels, and the parts that are hidden or deleted as one."""

from math import ceil, prod
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

Part: TypeAlias = tuple[slice, ...]
"""A region of one row (without the batch axis)."""

SEQUENCE = 2
IMAGE = 3
"""Axes of one row: steps and features; channels, height and width."""
CHANNEL_COUNTS = (1, 3, 4)
NARROW = 8
"""Sequences with at most this many features a step keep each feature apart."""


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of a row that holds channels: the first of three or more, or the last where only that fits."""
    if len(shape) < IMAGE:
        return None
    last = shape[-1] in CHANNEL_COUNTS and shape[0] not in CHANNEL_COUNTS
    return len(shape) - 1 if last else 0


def parts(shape: tuple[int, ...], *, patches: int = 64, features: int = 200) -> tuple[Part, ...]:
    """The parts of one row, disjoint and together all of it.

    A table's row gives single features, or groups of neighbours where there are more than ``features``. A
    sequence (steps, features) and an image give patches, at most ``patches`` of them, with all channels.
    """
    if len(shape) < SEQUENCE:
        size = ceil(prod(shape) / features) if prod(shape) > features else 1
        return _grid(shape, (size,) * len(shape))
    if len(shape) == SEQUENCE and shape[1] <= NARROW:
        return _grid(shape, (ceil(shape[0] / max(1, patches // shape[1])), 1))
    axis = channel_axis(shape)
    side = _side(tuple(size for at, size in enumerate(shape) if at != axis), patches)
    return _grid(shape, tuple(size if at == axis else side for at, size in enumerate(shape)))


def coarse(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a map in which all channels share a value."""
    axis = channel_axis(shape)
    return tuple(1 if at == axis else size for at, size in enumerate(shape))


def on_map(part: Part, shape: tuple[int, ...]) -> Part:
    """The same region on a map of shape ``coarse(shape)``."""
    axis = channel_axis(shape)
    return tuple(slice(0, 1) if at == axis else piece for at, piece in enumerate(part))


def surface(values: "NDArray[Any]") -> "NDArray[Any]":
    """A row's map with its channels summed away: (H, W), (T, F) or (features,)."""
    axis = channel_axis(values.shape)
    return values if axis is None else values.sum(axis=axis)


def _side(shape: tuple[int, ...], patches: int) -> int:
    """The side of the smallest patch of which at most ``patches`` cover the shape."""
    side = 1
    while prod(ceil(size / side) for size in shape) > patches:
        side += 1
    return side


def _grid(shape: tuple[int, ...], steps: tuple[int, ...]) -> tuple[Part, ...]:
    regions: list[Part] = [()]
    for size, step in zip(shape, steps, strict=True):
        pieces = [slice(start, min(start + step, size)) for start in range(0, size, step)]
        regions = [(*region, piece) for region in regions for piece in pieces]
    return tuple(regions)
