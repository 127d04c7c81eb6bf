"""A slice: predicates over the columns of a frame, written ``site = C & age in [18, 30)``, and its rows."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.errors import InputError, did_you_mean

Mask: TypeAlias = NDArray[np.bool_]

LEVELS = 20
"""The most levels of one column that become predicates; rarer ones are left out."""
BINS = 5
FEW_VALUES = 10
"""Whole numbers with at most so many distinct values are levels, not a scale."""
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_BARE = r'(?=\S)[^"&=\[\]]+?'
_PREDICATE = re.compile(
    rf"\s*(?P<column>{_QUOTED}|{_BARE})\s*"
    rf"(?:=\s*(?P<value>{_QUOTED}|{_BARE})|\bin\s*\[(?P<low>[^,&\"]+),(?P<high>[^)&\"]+)\))\s*(?:&|$)"
)


@final
@dataclass(frozen=True, slots=True)
class Equals:
    """``site = C``: the column's value, read as text, is this one; ``site = null`` where it is missing."""

    column: str
    value: str | None

    def __str__(self) -> str:
        return f"{_word(self.column)} = {'null' if self.value is None else _word(self.value)}"

    def rows(self, column: pl.Series) -> Mask:
        """Which rows of the column it holds on."""
        if self.value is None:
            return column.is_null().to_numpy()
        return (column.cast(pl.String) == self.value).fill_null(value=False).to_numpy()


@final
@dataclass(frozen=True, slots=True)
class Within:
    """``age in [18, 30)``: at least ``low`` and below ``high``; either may be infinite, and included."""

    column: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_word(self.column)} in [{_number(self.low)}, {_number(self.high)})"

    def rows(self, column: pl.Series) -> Mask:
        """Which rows of the column it holds on; a missing value or NaN is in no range."""
        if not column.dtype.is_numeric():
            raise InputError(f"The slice '{self}' needs numbers, but '{self.column}' holds {column.dtype}.")
        numbers = column.cast(pl.Float64).fill_null(math.nan).to_numpy()
        below = ~np.isnan(numbers) if self.high == math.inf else numbers < self.high
        return np.asarray((numbers >= self.low) & below)


Predicate: TypeAlias = Equals | Within


@final
@dataclass(frozen=True, slots=True)
class Slice:
    """The rows on which all predicates hold; without any, all rows."""

    predicates: tuple[Predicate, ...]

    def __str__(self) -> str:
        return " & ".join(str(predicate) for predicate in self.predicates)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The slice that is written so; ``str`` of it reads the same.

        Raises:
            InputError: it is not written so.
        """
        predicates: list[Predicate] = []
        place = 0
        while place < len(text):
            found = _PREDICATE.match(text, place)
            if not found or (found.group().endswith("&") and found.end() == len(text)):
                raise InputError(
                    f"'{text}' is no slice: write it like 'site = C & shift = night' or 'age in [18, 30)'."
                )
            predicates.append(_read(found, text))
            place = found.end()
        return cls(tuple(predicates))

    def rows(self, frame: pl.DataFrame) -> Mask:
        """Which rows of the frame are in it.

        Raises:
            InputError: the frame has no such column.
        """
        inside = np.ones(frame.height, dtype=np.bool_)
        for predicate in self.predicates:
            if predicate.column not in frame.columns:
                raise InputError(
                    f"There is no column '{predicate.column}' to slice by."
                    f"{did_you_mean(predicate.column, frame.columns)}"
                )
            inside &= predicate.rows(frame[predicate.column])
        return inside


def predicates_of(frame: pl.DataFrame, *, least: int = 1, adjacent: bool = True) -> list[Predicate]:
    """What can be said of each column in one predicate that holds on ``least`` rows or more, but not on all.

    Text, booleans and few whole numbers give their most frequent levels. Other numbers give quantile bins
    (outer ones open to infinity, edges rounded to a thousandth of the spread) and, with ``adjacent``, the
    unions of neighbouring bins. Missing values are a level of their own. Dates and nested columns give none.
    """
    found: list[Predicate] = []
    for column in frame:
        kind = column.dtype
        if kind in (pl.String, pl.Categorical, pl.Enum, pl.Boolean) or _is_level(column):
            found += _levels(column)
        elif kind.is_numeric():
            found += _ranges(column, adjacent=adjacent)
        else:
            continue
        if column.null_count():
            found.append(Equals(column.name, None))
    counted = ((predicate, int(predicate.rows(frame[predicate.column]).sum())) for predicate in found)
    return [predicate for predicate, count in counted if least <= count < frame.height]


def one_way(frame: pl.DataFrame, *, least: int) -> list[Slice]:
    """The slices of one predicate each that nobody had to search for, bins without their unions."""
    return [Slice((predicate,)) for predicate in predicates_of(frame, least=least, adjacent=False)]


def jaccard(first: Mask, second: Mask) -> float:
    """Rows in both over rows in either."""
    either = int((first | second).sum())
    return int((first & second).sum()) / either if either else 0.0


def _is_level(column: pl.Series) -> bool:
    return column.dtype.is_integer() and column.drop_nulls().n_unique() <= FEW_VALUES


def _levels(column: pl.Series) -> Sequence[Predicate]:
    counts = (
        column.cast(pl.String)
        .drop_nulls()
        .alias("value")
        .value_counts()
        .sort(["count", "value"], descending=[True, False])
        .head(LEVELS)
    )
    return [Equals(column.name, value) for value in sorted(counts["value"], key=_natural)]


def _ranges(column: pl.Series, *, adjacent: bool) -> Sequence[Predicate]:
    numbers = column.cast(pl.Float64).drop_nulls().to_numpy()
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return []
    inner = np.quantile(numbers, np.arange(1, BINS) / BINS)
    edges = [-math.inf, *_rounded(inner, float(inner[-1] - inner[0])), math.inf]
    bins = len(edges) - 1
    widths = range(1, bins) if adjacent else range(1, min(2, bins))
    return [
        Within(column.name, edges[start], edges[start + width])
        for width in widths
        for start in range(bins - width + 1)
    ]


def _rounded(inner: NDArray[Any], spread: float) -> list[float]:
    """Edges without the digits that nobody can tell apart, ascending, each once."""
    if spread > 0:
        inner = np.round(inner, min(15, 3 - math.ceil(math.log10(spread))))
    return [float(edge) + 0.0 for edge in np.unique(inner)]


def _natural(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _word(text: str) -> str:
    """The text, in quotes where it could be read as something else."""
    plain = (
        text == text.strip()
        and text.isprintable()
        and text not in ("", "null")
        and not any(mark in text for mark in '"&=[]')
    )
    return text if plain else json.dumps(text, ensure_ascii=False)


def _unword(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text


def _number(value: float) -> str:
    whole = math.isfinite(value) and value == int(value) and abs(value) < 1e15  # noqa: PLR2004 - repr is short
    return str(int(value)) if whole else repr(value)


def _read(found: "re.Match[str]", text: str) -> Predicate:
    column, value = _unword(found["column"]), found["value"]
    if value is not None:
        return Equals(column, None if value == "null" else _unword(value))
    try:
        return Within(column, float(found["low"]), float(found["high"]))
    except ValueError as error:
        raise InputError(f"'{text}' is no slice: a range has two numbers: 'age in [18, 30)'.") from error
