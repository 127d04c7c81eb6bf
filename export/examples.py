"""Rows to trace a model with and to compare two models on: real ones, or seeded random ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from study.batches import fixed_batch, pieces
from study.errors import SkipError
from study.subject import InputSpec, Subject

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Batch: TypeAlias = "Mapping[str, NDArray[Any]]"
Axes: TypeAlias = tuple[tuple[str, int], ...]
"""Axes that have one size: (input, axis), …"""

EXAMPLE_ROWS = 2
"""A batch that a model is traced with: torch takes a 1 for a constant."""
FREE_SIZE = 32
"""What a free axis measures where no row says it: enough for a few poolings by two."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Some rows as the model takes them, and where they are from, in words."""

    batch: Batch
    origin: str

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.batch.values())))

    def take(self, count: int) -> Batch:
        """That many rows; they come again from the first where there are fewer."""
        return {
            name: np.take(array, np.arange(count), axis=0, mode="wrap") for name, array in self.batch.items()
        }


def examples_of(subject: Subject, rows: int, seed: int = 0) -> Examples:
    """Rows of the calibration or the training split, else of the judged one; without data seeded random ones.

    Nothing is fitted to them. Where rows were held back or given to fit to, the judged ones are not read.

    Raises:
        SkipError: no row and no shape says what the inputs look like.
    """
    from study.feed import Feed

    splits = (subject.calibration, "calibration"), (subject.training, "training"), (subject.judged, "judged")
    for split, what in splits:
        if split is None:
            continue
        for piece in Feed.open(split, subject.inputs).pieces(rows):
            if len(piece):
                batch = typed(piece.batch, subject.inputs)
                return Examples(batch, f"{len(piece)} {what} rows")
    return Examples(_random(subject.inputs, rows, seed), f"{rows} seeded random rows")


def typed(batch: Batch, inputs: tuple[InputSpec, ...]) -> Batch:
    """The arrays in the dtypes of the inputs of their names."""
    dtypes = {spec.name: spec.dtype for spec in inputs if spec.dtype}
    return {
        name: np.ascontiguousarray(array, dtype=dtypes.get(name, array.dtype))
        for name, array in batch.items()
    }


def fitting(batch: Batch, inputs: tuple[InputSpec, ...]) -> Iterator[Batch]:
    """The batch, in pieces of the only size that the model takes where it takes but one.

    The last piece is filled up with its last row again, which moves no range.
    """
    size = fixed_batch(inputs)
    if size is None:
        yield batch
    else:
        yield from pieces(batch, size)


def named(batch: Batch, inputs: tuple[InputSpec, ...]) -> Batch:
    """The batch under the model's names: a single array goes to a single input whatever its name."""
    if len(batch) == len(inputs) == 1:
        return {inputs[0].name: next(iter(batch.values()))}
    return batch


def _random(inputs: tuple[InputSpec, ...], rows: int, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    batch: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        if spec.shape is None:
            raise SkipError(f"nothing says the shape of the input '{spec.name}': give --data or --shape")
        shape = (rows, *(FREE_SIZE if size is None else size for size in spec.shape[1:]))
        dtype = np.dtype(spec.dtype or "float32")
        if dtype.kind == "f":
            batch[spec.name] = generator.standard_normal(shape).astype(dtype)
        elif "mask" in spec.name.lower():
            batch[spec.name] = _mask(shape, dtype)
        else:  # token ids, masks: 0 and 1 are in every vocabulary
            batch[spec.name] = generator.integers(0, 2, shape).astype(dtype)
    if not batch:
        raise SkipError("nothing says what the inputs look like: give --data or --shape")
    return batch


def _mask(shape: tuple[int, ...], dtype: "np.dtype[Any]") -> "NDArray[Any]":
    """Every other row is filled up in its last quarter, as a shorter text is.

    A mask of random bits hides all that a token may look at from it, and what a model says then is anyone's.
    """
    mask = np.ones(shape, dtype=dtype)
    mask[1::2, ..., shape[-1] - shape[-1] // 4 :] = 0
    return mask


def tensors_for(module: Any, inputs: tuple[InputSpec, ...], batch: Batch) -> "dict[str, torch.Tensor]":
    """The batch as tensors, in the order in which ``forward`` takes them and under its names.

    The runtime's rules: a single array goes to a single input whatever its name, floats come in the dtype of
    the module, the first argument goes by position and the others by name.
    """
    import inspect

    import torch

    known, batch = [spec.name for spec in inputs], named(batch, inputs)
    try:
        order = list(inspect.signature(module.forward).parameters)
    except (AttributeError, TypeError, ValueError):  # an exported program, a script
        order = known
    places = {name: place for place, name in enumerate(order)}
    names = sorted(batch, key=lambda name: places.get(name, len(places)))
    state = module.state_dict if isinstance(module.state_dict, dict) else module.state_dict()  # a program's
    floats = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
    dtype = floats[0] if floats else torch.float32
    tensors = {name: torch.from_numpy(np.ascontiguousarray(batch[name])) for name in names}
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def free_axes(inputs: tuple[InputSpec, ...], batch: Batch) -> tuple[Axes, ...]:
    """The axes other than the batch that may be of any size, those that go together in one group.

    Two axes go together when they are the same axis of two inputs and measure the same (token ids and their
    mask).
    """
    groups: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for spec in inputs:
        for axis, size in enumerate(spec.shape or ()):
            if size is None and axis > 0 and spec.name in batch:
                key = (axis, batch[spec.name].shape[axis])
                groups.setdefault(key, []).append((spec.name, axis))
    return tuple(tuple(group) for group in groups.values())


def resized(batch: Batch, axes: Axes, size: int) -> Batch:
    """The batch with these axes cut, or continued from their start, to a size."""
    changed = dict(batch)
    for name, axis in axes:
        changed[name] = np.take(changed[name], np.arange(size), axis=axis, mode="wrap")
    return changed


def row_shapes(subject: Subject, inputs: tuple[InputSpec, ...]) -> dict[str, tuple[int, ...]]:
    """The shape of each of a model's inputs for one row; empty where nothing says it."""
    try:
        batch = examples_of(subject, 1).take(1)
    except SkipError:
        return {}
    return {name: array.shape for name, array in named(batch, inputs).items()}
