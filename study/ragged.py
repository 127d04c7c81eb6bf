"""Rows of different lengths: one array of all their steps, padded when a batch is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows that differ in their first axis: ``values`` (steps of all rows, ...), ``starts`` (rows + 1,)."""

    values: NDArray[Any]
    starts: NDArray[np.int64]
    pad: float
    """What fills a shorter row up."""

    @classmethod
    def of(cls, rows: Sequence[NDArray[Any]], pad: float, dtype: str = "") -> Self:
        """Rows that agree in all axes but the first; there must be one."""
        starts = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
        values = np.concatenate(rows)
        return cls(values.astype(dtype, copy=False) if dtype else values, starts, pad)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each row."""
        return np.diff(self.starts)

    def row(self, place: int) -> NDArray[Any]:
        """One row, as long as it is."""
        return self.values[self.starts[place] : self.starts[place + 1]]

    def padded(self, places: NDArray[Any] | None = None, steps: int | None = None) -> NDArray[Any]:
        """These rows (all of them) as one array, filled up to the longest of them or to ``steps``."""
        chosen = np.arange(len(self)) if places is None else places
        lengths = self.lengths[chosen]
        longest = int(lengths.max(initial=0)) if steps is None else steps
        dense = np.full((len(chosen), longest, *self.values.shape[1:]), self.pad, self.values.dtype)
        for at, place in enumerate(chosen.tolist()):
            row = self.row(place)[:longest]
            dense[at, : len(row)] = row
        return dense


def keep(column: "NDArray[Any] | Ragged", places: NDArray[Any]) -> "NDArray[Any] | Ragged":
    """Some rows of a column of either kind."""
    if not isinstance(column, Ragged):
        chosen: NDArray[Any] = column[places]
        return chosen
    rows = [column.row(place) for place in places.tolist()]
    if not rows:
        return Ragged(column.values[:0], np.zeros(1, dtype=np.int64), column.pad)
    return Ragged.of(rows, column.pad)
