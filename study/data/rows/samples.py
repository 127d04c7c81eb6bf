"""The samples of a ``Dataset`` as rows."""

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.boxes import truths_of
from study.data.rows.box_arrays import is_target, truth_of
from study.data.rows.columns import find_label, must_be_there
from study.data.rows.named import joined, named_inputs, used_columns
from study.data.rows.pixels import pixels
from study.data.source import Column, Rows
from study.errors import InputError
from study.host import to_numpy
from study.subject import Data

LABEL_NAMES: Final = ("label", "target", "y", "labels", "targets")
SINGLE: Final = "x"
"""What the one input of a sample is called until a model has a name for it."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples by index: ``(x, y)``, ``(x1, x2, y)``, a dictionary with a label, or ``x`` alone.

    Random numbers are seeded a row, so that a row with a random transform is the same row when it is read
    again; the state of the generators is put back.
    """

    dataset: Any
    length: int
    data: Data
    collate: Callable[[list[Any]], Any] | None = None
    classes: tuple[str, ...] = ()
    _labels: list[NDArray[Any] | None] = field(default_factory=list)

    @classmethod
    def of(cls, dataset: Any, data: Data, collate: Callable[[list[Any]], Any] | None = None) -> Self:
        """Take a map-style dataset, or read one that can only be iterated, once, and keep its samples.

        Raises:
            InputError: it has no rows.
        """
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            with seeded(data.seed, 0):
                dataset = list(dataset)
        length = len(dataset)
        if not length:
            raise InputError(f"{data.source or 'The dataset'} has no rows: give one that has some.")
        names = getattr(dataset, "classes", None)
        known = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        return cls(dataset, length, data, collate, tuple(names) if known and names else ())

    def __len__(self) -> int:
        return self.length

    def read(self, positions: NDArray[Any]) -> Rows:
        """The samples at these positions; one that raises is a broken row."""
        whole: list[int] = []
        samples: list[tuple[dict[str, Any], Any]] = []
        broken: dict[str, str] = {}
        for position in positions.tolist():
            try:
                samples.append(self._sample(position))
                whole.append(position)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 - code of the user
                first = (str(error).splitlines() or [""])[0]
                broken[str(position)] = f"could not be read ({type(error).__name__}: {first})"
        names = list(samples[0][0]) if samples else []
        if any(list(inputs) != names for inputs, _ in samples):
            raise InputError("The samples of the dataset do not all have the same inputs.")
        labels = [label for _, label in samples]
        return Rows(
            positions=np.array(whole, dtype=np.int64),
            ids=tuple(str(position) for position in whole),
            inputs={name: _column([inputs[name] for inputs, _ in samples]) for name in names},
            labels=_label_array(labels) if labels and labels[0] is not None else None,
            metadata=pl.DataFrame(height=len(whole)),
            broken=broken,
        )

    def labels(self) -> NDArray[Any] | None:
        """All labels: every sample is read for it once. Those of broken rows are missing."""
        if not self._labels:
            self._labels.append(self._read_labels())
        return self._labels[0]

    def _read_labels(self) -> NDArray[Any] | None:
        found: list[Any] = []
        for position in range(self.length):
            try:
                found.append(self._sample(position)[1])
            except InputError:
                raise
            except Exception:  # noqa: BLE001 - code of the user; the row is broken when it is read
                found.append(None)
        return None if all(label is None for label in found) else _label_array(found)

    def _sample(self, position: int) -> tuple[dict[str, Any], Any]:
        """Inputs by name, and the label or None."""
        with seeded(self.data.seed, position):
            sample = self.dataset[position]
            if self.collate is None:
                return _sort(sample, self.data)
            # A batch of one, since only the loader's own function knows how its rows become inputs.
            inputs, label = _sort(self.collate([sample]), self.data)
        return {name: _array(value)[0] for name, value in inputs.items()}, None if label is None else label[0]


def _sort(sample: Any, data: Data) -> tuple[dict[str, Any], Any]:
    if isinstance(sample, Mapping):
        names = [str(name) for name in sample]
        label = find_label(names, data.label, LABEL_NAMES)
        must_be_there(used_columns(data.columns, names), names, "--columns")
        named = named_inputs(data.columns, names)
        if named:
            inputs = {one.name: joined([to_numpy(sample[part]) for part in one.columns]) for one in named}
        else:
            inputs = {name: sample[name] for name in data.columns or names if name != label}
        return inputs, sample[label] if label else None
    if isinstance(sample, tuple | list) and len(sample) > 1:
        *inputs_given, label_given = sample
        if len(inputs_given) == 1:
            only = inputs_given[0]
            return (dict(only) if isinstance(only, Mapping) else {SINGLE: only}), label_given
        return {f"{SINGLE}{number}": value for number, value in enumerate(inputs_given)}, label_given
    return {SINGLE: sample[0] if isinstance(sample, tuple | list) else sample}, None


def _array(value: Any) -> Any:
    """Tensors as arrays, images as pixels, text as it is."""
    if isinstance(value, str):
        return value
    if hasattr(value, "getbands"):
        return pixels(value)
    return to_numpy(value)


def _column(values: Sequence[Any]) -> Column:
    """Stacked where all have one shape, else a list; decoded images stay a list."""
    arrays = [_array(value) for value in values]
    plain = not any(
        isinstance(array, str) or hasattr(value, "getbands")
        for array, value in zip(arrays, values, strict=True)
    )
    if plain and len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    return arrays


def _label_array(labels: Sequence[Any]) -> NDArray[Any]:
    """Labels of samples; a missing one is NaN among numbers and None among words and boxes."""
    if any(is_target(label) for label in labels):
        return truths_of([truth_of(label) if is_target(label) else None for label in labels])
    arrays = [None if label is None or isinstance(label, str) else to_numpy(label) for label in labels]
    if any(isinstance(label, str) for label in labels):
        return np.array([None if label is None else str(label) for label in labels], dtype=object)
    shape = next(array.shape for array in arrays if array is not None)
    if any(array is not None and array.shape != shape for array in arrays):
        raise InputError("The labels of the dataset's samples have different shapes.")
    return np.stack([np.full(shape, np.nan) if array is None else array for array in arrays])


@contextmanager
def seeded(seed: int, position: int) -> Iterator[None]:
    """For code of the user: the global generators seeded for one row and put back, its prints on stderr."""
    import torch

    mixed = (seed * 1_000_003 + position) % 2**32
    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what transforms use
    try:
        with torch.random.fork_rng(devices=[]), redirect_stdout(sys.stderr):  # stdout holds results
            random.seed(mixed)
            np.random.seed(mixed)  # noqa: NPY002, TID251 - transforms of the user draw from the global generator
            torch.manual_seed(mixed)
            yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)  # noqa: NPY002
