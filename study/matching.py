"""Which of the data's raw inputs goes to which input of the model: by name, then by shape and dtype."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.rows.pixels import is_images
from study.data.source import Column
from study.errors import InputError, did_you_mean, few
from study.subject import InputSpec

IMAGE_AXES = 4
COLUMN = 2
"""Axes of an input that takes one number a row as a column."""


def match_inputs(
    raw: Mapping[str, Column], wanted: Sequence[InputSpec], optional: Sequence[str] = ()
) -> dict[str, str]:
    """Which raw input each model input takes: by name; a single one goes to a single one whatever its name.

    What no name tells, shapes and dtypes tell where only one fits; as many raw inputs as wanted ones of other
    names go in order. ``optional`` inputs go by name alone. Raw inputs that no model input asks for are left
    aside. Model inputs beyond the raw ones are left to the model's own defaults.

    Raises:
        InputError: neither names nor shapes tell which goes where.
    """
    specs = {spec.name: spec for spec in wanted}
    if not specs:
        return {name: name for name in raw}
    if len(raw) > 1:
        specs |= {name: InputSpec(name) for name in optional if name in raw and name not in specs}
    found = {name: name for name in specs if name in raw}
    if len(found) == min(len(specs), len(raw)):
        return found
    open_specs = [spec for name, spec in specs.items() if name not in found]
    free = {name: column for name, column in raw.items() if name not in found}
    found |= _only_fits(free, open_specs)
    if len(found) == min(len(specs), len(raw)):
        return {name: found[name] for name in specs if name in found}
    if len(raw) == 1:
        return {next(iter(specs)): next(iter(raw))}
    pairs = list(zip(open_specs, raw, strict=False))
    if len(raw) == len(specs) == len(open_specs) and all(fits(raw[name], spec) for spec, name in pairs):
        return {spec.name: name for spec, name in pairs}
    raise _untold(raw, specs, found)


def fits(column: Column, spec: InputSpec) -> bool:
    """Whether a raw input can be this model input, as far as its shape and dtype say."""
    if is_images(column):
        return spec.shape is None or len(spec.shape) == IMAGE_AXES
    if not isinstance(column, np.ndarray):  # sequences that are filled up; texts are tokens by now
        return True
    if spec.dtype and np.dtype(spec.dtype).kind in "iub" and column.dtype.kind == "f":
        return False
    if spec.shape is None:
        return True
    return _same(spec.shape, as_column(column, spec).shape)


def as_column(array: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """One number a row as a column, where the model takes it so."""
    wide = spec.shape is not None and len(spec.shape) == COLUMN and spec.shape[1] in (1, None)
    return array[:, None] if wide and array.ndim == 1 else array


def _same(shape: tuple[int | None, ...], given: tuple[int, ...]) -> bool:
    return len(shape) == len(given) and all(
        axis is None or axis == size for axis, size in zip(shape[1:], given[1:], strict=True)
    )


def _only_fits(free: Mapping[str, Column], wanted: Sequence[InputSpec]) -> dict[str, str]:
    """The inputs that a single free column fits, one after the other: each takes one that others cannot."""
    possible = {spec.name: [name for name, column in free.items() if fits(column, spec)] for spec in wanted}
    found: dict[str, str] = {}
    while True:
        forced = [columns[0] for columns in possible.values() if len(columns) == 1]
        single = {
            name: columns[0]
            for name, columns in possible.items()
            if len(columns) == 1 and forced.count(columns[0]) == 1
        }
        if not single:
            return found
        found |= single
        possible = {
            name: [column for column in columns if column not in single.values()]
            for name, columns in possible.items()
            if name not in single
        }


def _untold(
    raw: Mapping[str, Column], specs: Mapping[str, InputSpec], found: Mapping[str, str]
) -> InputError:
    """The sentence for the first input that nothing is told of."""
    missing = next(name for name in specs if name not in found)
    free = [name for name in raw if name not in found.values()]
    close = did_you_mean(missing, free)
    if "mean" in close:
        return InputError(
            f"The model takes '{missing}', which the data does not have.{close} Give --columns."
        )
    several = [name for name in free if fits(raw[name], specs[missing])]
    if specs[missing].shape is not None and len(several) > 1:
        return InputError(
            f"Both {few(several[:2])} fit the model's input '{missing}': say which with "
            f'--columns "{missing}={several[0]}".'
        )
    return InputError(
        f"The model takes {few(specs)} and the data has {few(raw)}: choose with --columns (such as "
        f'"{missing}={free[0] if free else missing}"), or name them alike with --preprocess module:function.'
    )
