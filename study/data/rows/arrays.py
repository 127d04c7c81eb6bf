"""Named arrays, rows first, sorted out into inputs, labels and metadata."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.data.rows.box_arrays import boxes_apart
from study.data.rows.columns import find_label, metadata_frame, must_be_there
from study.data.rows.named import joined, named_inputs, used_columns
from study.data.source import Column, Rows
from study.errors import InputError, few
from study.subject import Data

LABEL_NAMES = ("label", "target", "y", "labels", "targets")
MASK_NAMES = ("mask", "masks")
MASK_AXES = 3
"""Of labels that are masks: rows, height, width."""
CLASS_NAMES = ("classes", "class_names", "label_names")
ID_NAMES = ("id", "ids")


@dataclass(frozen=True, slots=True)
class Arrays:
    """Arrays of one length; ``ids`` is None where rows go by number."""

    inputs: Mapping[str, NDArray[Any]]
    targets: NDArray[Any] | None
    metadata: Mapping[str, NDArray[Any]]
    ids: NDArray[Any] | None = None
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], data: Data, targets: NDArray[Any] | None = None) -> Self:
        """Sort them out; ``targets`` are the labels where they came from elsewhere.

        Arrays of another length than the labels are left aside (a file may hold the training rows too).

        Raises:
            InputError: an array is unknown, their lengths differ, or there are no rows.
        """
        if targets is None and not data.label:
            arrays, targets = boxes_apart(arrays)
        names = list(arrays)
        must_be_there(used_columns(data.columns, names), names, "--columns")
        must_be_there([data.group] if data.group else [], names, "--group")
        label = "" if targets is not None else _label_name(arrays, data.label)
        if targets is None and label:
            targets = arrays[label]
        if targets is not None and targets.dtype.kind == "S":
            targets = np.char.decode(targets, "utf-8", "replace")
        classes = _class_names(arrays, targets)
        rest = {name: array for name, array in arrays.items() if name != label and array.ndim}
        if classes:
            rest = {name: array for name, array in rest.items() if name.lower() not in CLASS_NAMES}
        rows = _rows(rest, targets, data)
        whole = {name: array for name, array in rest.items() if len(array) == rows}
        inputs = _inputs(whole, data)
        used = {*inputs, *used_columns(data.columns, names)}
        id_name = _id_name(whole, used)
        metadata = {
            name: array
            for name, array in whole.items()
            if array.ndim == 1 and (name not in used or name == data.group) and name != id_name
        }
        return cls(inputs, targets, metadata, whole.get(id_name), classes)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def read(self, positions: NDArray[Any]) -> Rows:
        """The rows at these positions."""
        ids = positions if self.ids is None else self.ids[positions]
        inputs: dict[str, Column] = {}
        for name, array in self.inputs.items():
            rows = np.asarray(array[positions])
            inputs[name] = rows.tolist() if rows.dtype.kind in "US" else rows
        return Rows(
            positions=positions,
            ids=tuple(_text(value) for value in ids.tolist()),
            inputs=inputs,
            labels=None if self.targets is None else self.targets[positions],
            metadata=metadata_frame(
                {name: plain(array[positions]) for name, array in self.metadata.items()}, len(positions)
            ),
        )

    def labels(self) -> NDArray[Any] | None:
        """All labels as given."""
        return self.targets


def _label_name(arrays: Mapping[str, NDArray[Any]], asked: str) -> str:
    """The array of labels; where none is called so, one of masks."""
    found = find_label(list(arrays), asked, LABEL_NAMES)
    masks = [name for name, array in arrays.items() if name.lower() in MASK_NAMES and array.ndim == MASK_AXES]
    return found or next(iter(masks), "")


def plain(array: NDArray[Any]) -> pl.Series:
    """A metadata column; bytes become text."""
    if array.dtype.kind == "S":
        return pl.Series([_text(value) for value in array.tolist()], dtype=pl.String)
    if array.dtype.kind in "OU":
        return pl.Series(array.tolist(), strict=False)
    return pl.Series(np.ascontiguousarray(array))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _rows(arrays: Mapping[str, NDArray[Any]], targets: NDArray[Any] | None, data: Data) -> int:
    """The number of rows: that of the labels, of the first of ``--columns``, or of all arrays."""
    source = data.source or "The data"
    if not arrays:
        raise InputError(f"{source} has no array but the labels: it needs one whose first axis is the rows.")
    wanted = [name for name in used_columns(data.columns, list(arrays)) if name in arrays] or list(arrays)
    if targets is not None and not targets.ndim:
        raise InputError(f"{source}: the labels are a single number, not one a row.")
    rows = len(arrays[wanted[0]] if targets is None else targets)
    differ = {name: len(arrays[name]) for name in wanted if len(arrays[name]) != rows}
    if differ and (targets is None or data.columns or len(differ) == len(wanted)):
        name, length = next(iter(differ.items()))
        of = "there are labels for" if targets is not None else f"'{wanted[0]}' has"
        raise InputError(
            f"{source}: '{name}' has {length} rows and {of} {rows}: name arrays that go together "
            "with --columns and --label."
        )
    if not rows:
        raise InputError(f"{source} has no rows: give one that has some.")
    return rows


def _inputs(arrays: Mapping[str, NDArray[Any]], data: Data) -> dict[str, NDArray[Any]]:
    named = named_inputs(data.columns, list(arrays))
    if named:
        return {one.name: joined([arrays[column] for column in one.columns]) for one in named}
    if data.columns:
        return {name: arrays[name] for name in data.columns}
    wide = {name: array for name, array in arrays.items() if array.ndim > 1}
    if wide:
        return wide
    narrow = {
        name: array for name, array in arrays.items() if name.lower() not in ID_NAMES and name != data.group
    }
    if len(narrow) != 1:
        raise InputError(
            f"{data.source or 'The data'} has several arrays of one number a row ({few(narrow or arrays)}): "
            "say with --columns which are the inputs."
        )
    return narrow


def _id_name(arrays: Mapping[str, NDArray[Any]], used: Collection[str]) -> str:
    free = (name for name in arrays if name.lower() in ID_NAMES and name not in used)
    name = next(free, "")
    unique = name and arrays[name].ndim == 1 and len(np.unique(arrays[name])) == len(arrays[name])
    return name if unique else ""


def _class_names(arrays: Mapping[str, NDArray[Any]], targets: NDArray[Any] | None) -> tuple[str, ...]:
    """A list of words that is not as long as the rows and is called so."""
    for name, array in arrays.items():
        named = name.lower() in CLASS_NAMES and array.ndim == 1 and array.dtype.kind in "US"
        if named and (targets is None or len(array) != len(targets)):
            return tuple(_text(value) for value in array.tolist())
    return ()
