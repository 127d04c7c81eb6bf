"""A table as rows: columns stacked into one input of numbers, one of text, or one an input for a function."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.data.rows.columns import Roles, roles
from study.data.rows.named import features_of, read_named
from study.data.source import Column, Rows
from study.errors import InputError
from study.subject import Data
from study.tags import tags_of

STACKED = "x"
"""What the one input of a table is called until a model has a name for it."""
GAP = 1000
"""Positions that are further apart than this are fetched by two slices."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A table whose columns are sorted out; ``broken`` are rows that could not be read, position -> why."""

    table: pl.LazyFrame
    height: int
    roles: Roles
    classes: tuple[str, ...] = ()
    broken: Mapping[int, str] = field(default_factory=dict)
    folder: Path = Path()
    """What paths in the table are relative to."""
    tagged: bool = False
    """The label is a list a row: names, or numbers as many as the words or of which rows differ in number."""

    @classmethod
    def of(
        cls, table: pl.LazyFrame | pl.DataFrame, data: Data, broken: Mapping[int, str] | None = None
    ) -> Self:
        """Sort out a table.

        Raises:
            InputError: it has no rows, or a column is unknown.
        """
        height = table.lazy().select(pl.len()).collect().item()
        if not height:
            raise InputError(f"{data.source or 'The data'} has no rows: give one that has some.")
        found = roles(table, data)
        tagged = _is_tagged(table.lazy(), found)
        return cls(table.lazy(), height, found, (), broken or {}, Path(data.source).parent, tagged)

    def __len__(self) -> int:
        return self.height

    def read(self, positions: NDArray[Any]) -> Rows:
        """The rows at these positions (ascending)."""
        broken = {
            self._id(position): self.broken[position]
            for position in positions.tolist()
            if position in self.broken
        }
        if self.broken:
            positions = positions[[position not in self.broken for position in positions.tolist()]]
        piece = self._fetch(positions)
        label = self.roles.label
        inputs, unread = self._inputs(piece)
        rows = Rows(
            positions=positions,
            ids=self._ids(piece, positions),
            inputs=inputs,
            labels=self._as_labels(piece.select(label)) if label else None,
            metadata=piece.select(self.roles.metadata)
            if self.roles.metadata
            else pl.DataFrame(height=len(piece)),
            broken=broken,
            features=self._features(),
        )
        if not unread:
            return rows
        whole = np.array([row not in unread for row in range(len(rows))])
        return replace(rows.keep(whole), broken=broken | {rows.ids[row]: why for row, why in unread.items()})

    def labels(self) -> NDArray[Any] | None:
        """All labels as given: words are str or None, missing numbers are NaN."""
        return self._as_labels(self.table.select(self.roles.label).collect()) if self.roles.label else None

    def _as_labels(self, labels: pl.DataFrame) -> NDArray[Any]:
        return tags_of(labels.to_series().to_list()) if self.tagged else as_labels(labels)

    def _fetch(self, positions: NDArray[Any]) -> pl.DataFrame:
        """A slice a run of near positions: a scan of Parquet then reads only what these rows lie in."""
        if not len(positions):
            return self.table.slice(0, 0).collect()
        runs = np.split(positions, np.flatnonzero(np.diff(positions) > GAP) + 1)
        slices = [self.table.slice(int(run[0]), int(run[-1] - run[0]) + 1) for run in runs]
        fetched = pl.collect_all(slices)
        whole: pl.DataFrame = pl.concat(
            [piece[run - run[0]] for piece, run in zip(fetched, runs, strict=True)]
        )
        return whole

    def _ids(self, piece: pl.DataFrame, positions: NDArray[Any]) -> tuple[str, ...]:
        if not self.roles.id:
            return tuple(str(position) for position in positions.tolist())
        return tuple(str(value) for value in piece[self.roles.id].to_list())

    def _id(self, position: int) -> str:
        return self._ids(self._fetch(np.array([position])), np.array([position]))[0]

    def _features(self) -> Mapping[str, tuple[str, ...]]:
        if self.roles.named:
            return features_of(self.roles.named)
        return {STACKED: self.roles.inputs} if self.roles.stacked else {}

    def _inputs(self, piece: pl.DataFrame) -> tuple[dict[str, Column], dict[int, str]]:
        """The inputs, and the places of rows that cannot be read with the reason."""
        if self.roles.named:
            return read_named(piece, self.roles.named, self.folder)
        if not self.roles.stacked:
            return {name: piece[name].to_list() for name in self.roles.inputs}, {}
        numbers = piece.select(pl.col(*self.roles.inputs).cast(pl.Float64).fill_null(float("nan")))
        return {STACKED: numbers.to_numpy().astype(np.float32)}, {}


def _is_tagged(table: pl.LazyFrame, roles: Roles) -> bool:
    schema = table.collect_schema()
    kind = schema[roles.label[0]] if len(roles.label) == 1 else None
    if not isinstance(kind, pl.List):
        return False
    lengths = pl.col(roles.label).list.len()
    words = [name for name in roles.inputs if schema[name] == pl.List(pl.String)]
    asked = [lengths.n_unique() > 1, *((lengths == pl.col(name).list.len()).all() for name in words)]
    return kind.inner == pl.String or table.select(pl.any_horizontal(asked)).collect().item()


def as_labels(labels: pl.DataFrame) -> NDArray[Any]:
    """Label columns as an array: one column is 1-D, several (or one of lists of one length) are 2-D."""
    if labels.width > 1:
        return labels.select(pl.all().cast(pl.Float64)).to_numpy()
    column = labels.to_series()
    if isinstance(column.dtype, pl.List | pl.Array):
        return np.asarray(column.to_list())
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int8)
    if column.dtype.is_numeric():
        column = column.cast(pl.Float64) if column.dtype.is_decimal() or column.null_count() else column
        return column.to_numpy()
    return np.array(column.cast(pl.String).to_list(), dtype=object)
