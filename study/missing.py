"""What stands in for missing cells: a mean or median a column, fitted once and written into the data."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.opening import open_source
from study.data.source import Column
from study.errors import InputError
from study.subject import Data, Split

PIECE = 65536
COLUMNS = 2
"""Axes of an array that has columns."""


def fit_fill(data: Data, fitted_on: Split) -> Data:
    """The data with ``fill`` fitted on these rows (the training split, if given), for ``--missing``.

    Only columns have a mean: arrays of more than two axes are left to be counted out.

    Raises:
        InputError: a column has no value at all.
    """
    if data.missing == "drop" or data.fill:
        return data
    source = open_source(fitted_on.data)
    chosen = fitted_on.positions
    positions = np.arange(len(source)) if chosen is None else np.array(chosen, dtype=np.int64)
    parts: dict[str, list[NDArray[np.float64]]] = {}
    features: dict[str, tuple[str, ...]] = {}
    for start in range(0, len(positions), PIECE):
        rows = source.read(positions[start : start + PIECE])
        features |= rows.features
        for name, column in rows.inputs.items():
            values = _values(column)
            if values is not None:
                parts.setdefault(name, []).append(values)
    fill = tuple(
        (name, _fit(np.concatenate(pieces), name, data, features.get(name, ())))
        for name, pieces in parts.items()
    )
    return replace(data, fill=fill)


def _values(column: Column) -> NDArray[np.float64] | None:
    """Numbers as (rows, columns) with NaN where one is missing; None for what is no column of numbers."""
    if isinstance(column, np.ndarray):
        is_columns = column.ndim <= COLUMNS and column.dtype.kind == "f"
        return column.astype(np.float64).reshape(len(column), -1) if is_columns else None
    if not all(cell is None or isinstance(cell, int | float) for cell in column):
        return None
    return np.array([[np.nan if cell is None else float(cell)] for cell in column])


def _fit(values: NDArray[np.float64], name: str, data: Data, columns: tuple[str, ...]) -> tuple[float, ...]:
    values = np.where(np.isinf(values), np.nan, values)
    empty = np.isnan(values).all(axis=0)
    if empty.any():
        place = int(np.flatnonzero(empty)[0])
        which = columns[place] if len(columns) == values.shape[1] else name
        raise InputError(
            f"The column '{which}' has no value to take the {data.missing} of: "
            "leave it out with --columns, or give --missing drop."
        )
    statistic: Any = np.nanmean if data.missing == "mean" else np.nanmedian
    return tuple(float(number) for number in statistic(values, axis=0))
