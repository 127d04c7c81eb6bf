"""Entities of tagged sentences, as seqeval finds them in its default mode, and what is counted of them."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.parted import Parted, paired_change, read_parted
from study.bootstrap import Floats, bootstrap
from study.errors import SkipError, few
from study.record import Metric
from study.statistics import wilson
from study.view import View

OUTSIDE: Final = "O"
NO_TYPE: Final = "_"
"""The type of a tag that is a prefix alone, as seqeval calls it."""
SAME: Final = {"L": "E", "U": "S"}
"""What BILOU calls the last word and the only one of an entity."""
SCHEMES: Final = (("IO", {"I"}), ("BIO", {"B", "I"}), ("BIOES", {"B", "I", "E", "S"}))
SUMS: Final = 3
"""Of each type: entities there, found, and both."""
COUNTS: Final = ("entity_precision", "entity_recall", "entity_f1")


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """What each class says: ``prefix`` and ``kind`` have one entry a class, -1 the type of ``O``."""

    name: str
    types: tuple[str, ...]
    prefix: NDArray[np.str_]
    kind: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Entities, in their order: the row, the first and the last word, the type."""

    row: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    kind: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def keys(self) -> NDArray[np.void]:
        """One thing an entity: equal where row, words and type are."""
        table = np.ascontiguousarray(np.stack([self.row, self.first, self.last, self.kind], axis=1))
        return table.view([("", table.dtype)] * table.shape[1]).reshape(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Entities:
    """Sentences with tags, their entities, and those that the model finds.

    ``sums`` is (rows, 3 x types): entities of each type there, found, and both.
    """

    parted: Parted
    scheme: Scheme
    there: Spans
    found: Spans
    sums: Floats


def scheme_of(classes: tuple[str, ...]) -> Scheme:
    """The scheme of these tags: ``B-``, ``I-``, ``E-``, ``S-`` before a type, and ``O``; or BILOU.

    Raises:
        SkipError: they are no such scheme (parts of speech).
    """
    cut = [_cut(name) for name in classes]
    plain = [name for name, (prefix, _) in zip(classes, cut, strict=True) if not prefix]
    prefixes = {prefix for prefix, _ in cut} - {OUTSIDE, ""}
    if plain or not prefixes:
        odd = f"'{plain[0]}' is none" if plain else f"there are only {few(classes)}"
        raise SkipError(f"the tags name no entities (B-, I-, E-, S- before a type, and O; {odd})")
    types = tuple(dict.fromkeys(kind for prefix, kind in cut if prefix != OUTSIDE))
    number = {kind: at for at, kind in enumerate(types)}
    name = next((name for name, known in SCHEMES if prefixes <= known), "BIOES")
    kinds = [-1 if prefix == OUTSIDE else number[kind] for prefix, kind in cut]
    return Scheme(name, types, np.array([prefix for prefix, _ in cut]), np.array(kinds, dtype=np.int64))


def _cut(name: str) -> tuple[str, str]:
    """Prefix and type of a tag; no prefix where it is none. A padding tag is outside."""
    if name == OUTSIDE or name.lower() in ("<pad>", "[pad]", "pad"):
        return OUTSIDE, NO_TYPE
    prefix, _, kind = name.partition("-")
    known = SAME.get(prefix, prefix)
    return (known, kind or NO_TYPE) if known in ("B", "I", "E", "S") else ("", "")


def spans_of(scheme: Scheme, tags: NDArray[np.int64], lengths: NDArray[np.int64]) -> Spans:
    """The entities of rows of tags that lie one behind the other, ``lengths`` (rows,) of each.

    As ``seqeval.metrics.sequence_labeling.get_entities`` of 1.2.2 has it: an ``I-`` that follows no entity of
    its type begins one.
    """
    rows = len(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if rows else lengths
    # an O before every row, and one behind the last
    at = np.arange(len(tags)) + np.repeat(np.arange(rows), lengths) + 1
    prefix = np.full(len(tags) + rows + 1, OUTSIDE)
    kind = np.full(len(prefix), -1, dtype=np.int64)
    prefix[at], kind[at] = scheme.prefix[tags], scheme.kind[tags]
    was, now = prefix[:-1], prefix[1:]
    other = kind[:-1] != kind[1:]
    ends = np.isin(was, ("E", "S")) | (np.isin(was, ("B", "I")) & np.isin(now, ("B", "S", "O")))
    ends |= (was != OUTSIDE) & other
    begins = np.isin(now, ("B", "S")) | (np.isin(was, ("E", "S", "O")) & np.isin(now, ("E", "I")))
    begins |= (now != OUTSIDE) & other
    first, last = np.flatnonzero(begins) + 1, np.flatnonzero(ends)
    owner = np.repeat(np.arange(rows), lengths)
    word = np.arange(len(tags)) - np.repeat(starts, lengths)
    back = np.full(len(prefix), -1, dtype=np.int64)
    back[at] = np.arange(len(tags))
    return Spans(owner[back[first]], word[back[first]], word[back[last]], kind[last])


def read_entities(view: View) -> Entities:
    """The sentences of the view's ``predictions`` table.

    Raises:
        SkipError: there is no table, no word has a tag, or the tags name no entities.
    """
    scheme = scheme_of(view.task.classes)
    parted = read_parted(view)
    table = view.table("predictions").filter((pl.col("parts") > 0) & pl.col("hits").is_not_null())
    frame = table.select("label", "prediction").collect()
    lengths = frame["label"].list.len().to_numpy().astype(np.int64)
    label, said = (frame[name].explode().to_numpy().astype(np.int64) for name in ("label", "prediction"))
    there, found = spans_of(scheme, label, lengths), spans_of(scheme, said, lengths)
    return Entities(parted, scheme, there, found, sums_of(scheme, there, found, len(frame)))


def sums_of(scheme: Scheme, there: Spans, found: Spans, rows: int) -> Floats:
    """(rows, 3 x types): entities of each type there, found, and both."""
    width = len(scheme.types)
    hits = np.isin(found.keys, there.keys)
    pieces = [
        np.bincount(one.row[kept] * width + one.kind[kept], minlength=rows * width).reshape(rows, width)
        for one, kept in ((there, slice(None)), (found, slice(None)), (found, hits))
    ]
    return np.hstack(pieces).astype(np.float64)


def scores(totals: Floats) -> tuple[Floats, Floats, Floats]:
    """(m, 3 x types) sums -> precision, recall, F1 of each type; NaN where it has no such entity."""
    there, found, both = np.split(totals, SUMS, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return both / found, both / there, 2 * both / (there + found)


def over_types(totals: Floats) -> Floats:
    """(m, 3): precision, recall and F1 of all entities, and no type more than another."""
    summed = totals.reshape(len(totals), SUMS, -1).sum(axis=2)
    return np.hstack(scores(summed))


def entity_metrics(entities: Entities) -> dict[str, Metric]:
    """``entity_precision``, ``entity_recall`` and ``entity_f1``, with intervals over rows.

    Raises:
        SkipError: there is no entity, and none is found.
    """
    total = entities.sums.sum(axis=0, keepdims=True)
    values = over_types(total)[0]
    if not np.isfinite(values[-1]):
        raise SkipError("no entity is tagged, and none is found")
    low, high = bootstrap(entities.sums, over_types, groups=entities.parted.groups)
    metrics = {}
    for at, name in enumerate(COUNTS):
        if np.isfinite(values[at]):
            metrics[name] = share(values[at], low[at], high[at], entities.parted)
    return metrics


def share(value: float, low: float, high: float, parted: Parted) -> Metric:
    """A share with the ends of its bootstrap; where no replicate differs, with those of as many units."""
    if not low < high:
        low, high = wilson(float(value) * parted.units, parted.units)
    ends = float(min(value, low)), float(max(value, high))
    return Metric(float(value), *ends, len(parted), better="higher")


def f1_change(before: Entities, after: Entities) -> Metric | None:
    """The paired change of the F1 of entities, on the rows that both have."""
    found = paired_change(
        before.parted, after.parted, (before.sums, after.sums), lambda totals: over_types(totals)[:, 2:]
    )
    if found is None or found.value or found.low < found.high:
        return found
    end = wilson(0, after.parted.units)[1]
    return replace(found, low=-end, high=end)
