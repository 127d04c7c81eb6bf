"""Rows as a model takes them: a source's pieces, prepared, in batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from study.boxes import is_truths
from study.data.opening import open_source
from study.data.source import Reader, Rows
from study.preparation import Preparation, Prepared
from study.ragged import Ragged
from study.subject import InputSpec, Split
from study.tags import faults, is_tags
from study.tokens import Tokens

WINDOW = 1024
"""Rows among which those of like length are brought together."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows, raw and as named model inputs. ``broken`` rows (id -> why) are in neither."""

    rows: Rows
    batch: Mapping[str, NDArray[Any]]
    broken: Mapping[str, str]
    tokens: tuple[Tokens, ...] = ()
    """Of each row, where its text became tokens."""
    ragged: frozenset[str] = frozenset()
    """The inputs that are filled up to the longest row."""
    encoded: frozenset[str] = frozenset()
    """The inputs that were made of texts."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Feed:
    """The rows of one split, prepared for the model's inputs."""

    source: Reader
    preparation: Preparation
    positions: NDArray[np.int64]
    """Of the split in the source, ascending."""
    gaps: bool = False
    """A row of several labels may lack some of them."""

    @classmethod
    def open(cls, split: Split, inputs: tuple[InputSpec, ...], optional: tuple[str, ...] = ()) -> Self:
        """Open the source and set up the preparation for these model inputs, and those that may be left out.

        Raises:
            InputError: the source cannot be read.
        """
        source = open_source(split.data)
        chosen = split.positions
        positions = np.arange(len(source)) if chosen is None else np.array(chosen, dtype=np.int64)
        preparation = Preparation.open(split.data, inputs, optional)
        return cls(source, preparation, positions, split.data.gaps)

    def __len__(self) -> int:
        """The number of rows, those included that will turn out to be broken."""
        return len(self.positions)

    def pieces(self, size: int) -> Iterator[Piece]:
        """All rows in order, at most ``size`` a piece.

        Every broken row is named by one piece. A piece without rows comes only at the very end, where it
        names the last broken ones.
        """
        before: dict[str, str] = {}
        for start in range(0, len(self.positions), size):
            piece = self._prepare(self.positions[start : start + size])
            before |= piece.broken
            if len(piece):
                yield replace(piece, broken=before)
                before = {}
        if before:
            yield replace(piece, broken=before)

    def at(self, positions: NDArray[Any]) -> Piece:
        """The rows at these positions of the source, in ascending order, each once."""
        return self._prepare(np.unique(np.asarray(positions, dtype=np.int64)))

    def batches(self, positions: NDArray[Any], size: int, steps: int = 0) -> Iterator[Piece]:
        """The rows at these positions (ascending), at most ``size`` a piece; not all are in order.

        Rows of like length come together, so that little is filled up; ``steps`` is the most that a piece may
        have, the filling included (0: any number; one row may have more).
        """
        if not self.preparation.ragged:
            for start in range(0, len(positions), size):
                yield self._prepare(positions[start : start + size])
            return
        window = max(WINDOW, size)
        for start in range(0, len(positions), window):
            rows, prepared, broken = self._read(positions[start : start + window])
            lengths = prepared.steps
            order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
            for places in _cut(order, lengths, size, steps):
                yield self._piece(rows, prepared, np.sort(places), broken)
                broken = {}
            if broken:
                yield self._piece(rows, prepared, order[:0], broken)

    def labels(self) -> NDArray[Any] | None:
        """The labels of the split as given, those of broken rows included; None where there are none."""
        labels = self.source.labels()
        return None if labels is None else labels[self.positions]

    def _prepare(self, positions: NDArray[np.int64]) -> Piece:
        rows, prepared, broken = self._read(positions)
        return self._piece(rows, prepared, np.arange(len(rows)), broken)

    def _read(self, positions: NDArray[np.int64]) -> tuple[Rows, Prepared, dict[str, str]]:
        """The whole rows among these, and the broken ones."""
        rows = self.source.read(positions)
        broken = dict(rows.broken)
        if rows.labels is not None:
            given = has_label(rows.labels, gaps=self.gaps)
            broken |= {rows.ids[row]: "has no label" for row in np.flatnonzero(~given)}
            faulty = _faults(rows.labels, rows)
            broken |= {rows.ids[row]: fault for row, fault in faulty.items()}
            given[list(faulty)] = False
            rows = rows.keep(given)
        prepared = self.preparation(rows)
        return rows.keep(prepared.whole), prepared, broken | dict(prepared.broken)

    def _piece(
        self, rows: Rows, prepared: Prepared, places: NDArray[np.int64], broken: Mapping[str, str]
    ) -> Piece:
        chosen = np.zeros(len(rows), dtype=bool)
        chosen[places] = True
        tokens = tuple(prepared.tokens[place] for place in places) if prepared.tokens else ()
        batch = self.preparation.padded(prepared.inputs, places)
        ragged = frozenset(name for name, column in prepared.inputs.items() if isinstance(column, Ragged))
        return Piece(rows.keep(chosen), batch, broken, tokens, ragged, prepared.encoded)


def _cut(
    order: NDArray[np.int64], lengths: NDArray[np.int64] | None, size: int, steps: int
) -> Iterator[NDArray[np.int64]]:
    """Rows, the shortest first, in pieces of at most ``size`` rows and ``steps`` steps."""
    start = 0
    while start < len(order):
        stop = min(start + size, len(order))
        if steps and lengths is not None:
            filled = lengths[order[start:stop]] * np.arange(1, stop - start + 1)
            stop = start + max(1, int(np.searchsorted(filled, steps, side="right")))
        yield order[start:stop]
        start = stop


def _faults(labels: NDArray[Any], rows: Rows) -> dict[int, str]:
    """The rows whose label cannot be used, with the reason."""
    if is_truths(labels):
        return {row: label.fault for row, label in enumerate(labels) if label is not None and label.fault}
    return faults(labels, rows.inputs) if is_tags(labels) else {}


def has_label(labels: NDArray[Any], *, gaps: bool = False) -> NDArray[np.bool_]:
    """Which rows have one: not None, and no NaN in it; with ``gaps``, not NaN alone."""
    if labels.dtype.kind == "O":
        return np.array([label is not None for label in labels], dtype=bool)
    if labels.dtype.kind == "f":
        missing = np.isnan(labels.reshape(len(labels), -1))
        present: NDArray[np.bool_] = ~(missing.all(axis=1) if gaps else missing.any(axis=1))
        return present
    return np.ones(len(labels), dtype=bool)
