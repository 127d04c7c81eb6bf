"""The tokens of the texts that judge a language model: losses by place and frequency, the worst spans."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.bootstrap import Floats
from study.record import Cell, Table
from study.statistics import count_units, ratio_of
from study.view import View

ROWS_AT_ONCE: Final = 4096
PLACES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Where a range of places begins; the first token that is predicted has one before it."""
SEEN: Final = (1, 2, 10, 100, 1000, 10_000)
"""Where a range of counts among the judged tokens begins."""
Value: TypeAlias = Callable[[NDArray[Any], NDArray[np.int64]], NDArray[Any]]
"""Labels and places of some tokens -> what decides their bucket."""
SPAN: Final = ("span_from", "span_tokens", "span_loss", "span_text")


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """Of each text and bucket the sum of the losses and the number of tokens: (texts, buckets) each."""

    names: tuple[str, ...]
    losses: Floats
    tokens: Floats


def by_place(view: View, position: NDArray[np.int64]) -> Buckets:
    """By how many tokens stand before a token; of the rows at these positions (ascending)."""
    return _bucketed(view, position, PLACES, lambda _, places: places)


def by_frequency(view: View, position: NDArray[np.int64]) -> Buckets:
    """By how often a token occurs among the judged texts."""
    counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    for piece in _pieces(view, position):
        found = np.bincount(piece["label"].explode().to_numpy())
        wide = max(len(counts), len(found))
        counts = np.pad(counts, (0, wide - len(counts))) + np.pad(found, (0, wide - len(found)))
    return _bucketed(view, position, SEEN, lambda labels, _: counts[labels])


def table_of(title: str, first: str, buckets: Buckets, groups: NDArray[Any] | None) -> Table:
    """One line a bucket: its tokens, their mean loss with its interval, and the perplexity."""
    rows: list[tuple[Cell, ...]] = []
    for place, name in enumerate(buckets.names):
        there = buckets.tokens[:, place] > 0
        chosen = None if groups is None else groups[there]
        if count_units(int(there.sum()), chosen) < 2:  # noqa: PLR2004 - no spread can be seen in one
            continue
        sums = buckets.losses[there, place], buckets.tokens[there, place]
        loss = ratio_of(*sums, groups=chosen, better="lower")
        tokens = int(buckets.tokens[:, place].sum())
        rows.append((name, loss.value, loss.low, loss.high, float(np.exp(min(loss.value, 700.0))), tokens))
    return Table(title, (first, "loss", "low", "high", "perplexity", "tokens"), tuple(rows))


def spans_of(view: View, position: NDArray[np.int64], shown: int) -> Table:
    """The most surprising span of each text, the most surprising first."""
    names = view.table("predictions").collect_schema().names()
    columns = ("text", "from token", "tokens", "mean loss", "span")
    if not set(SPAN) <= set(names):
        return Table("Most surprising spans", columns, ())
    chosen = pl.col("position").is_in(pl.Series(position).implode()) & (pl.col("span_tokens") > 0)
    frame = view.table("predictions").filter(chosen).select("id", *SPAN).sort("span_loss", descending=True)
    return Table("Most surprising spans", columns, tuple(frame.head(shown).collect().iter_rows()))


def _pieces(view: View, position: NDArray[np.int64]) -> Iterator[pl.DataFrame]:
    """Labels and losses of the tokens, some texts at a time, in the order of their positions."""
    table = view.table("predictions").select("position", "label", "part_loss")
    for start in range(0, len(position), ROWS_AT_ONCE):
        wanted = pl.Series(position[start : start + ROWS_AT_ONCE])
        yield table.filter(pl.col("position").is_in(wanted.implode())).sort("position").collect()


def _bucketed(view: View, position: NDArray[np.int64], edges: Sequence[int], value: Value) -> Buckets:
    losses, tokens = [], []
    width = len(edges)
    for piece in _pieces(view, position):
        lengths = piece["label"].list.len().to_numpy().astype(np.int64)
        owner = np.repeat(np.arange(len(piece)), lengths)
        starts = np.cumsum(lengths) - lengths
        places = np.arange(len(owner)) - starts[owner] + 1
        labels, loss = (piece[name].explode().to_numpy() for name in ("label", "part_loss"))
        bucket = np.searchsorted(edges, value(labels, places), side="right") - 1
        cell, size = owner * width + bucket, len(piece) * width
        losses.append(np.bincount(cell, weights=loss, minlength=size).reshape(-1, width))
        tokens.append(np.bincount(cell, minlength=size).reshape(-1, width).astype(np.float64))
    return Buckets(_ranges(edges), np.concatenate(losses), np.concatenate(tokens))


def _ranges(edges: Sequence[int]) -> tuple[str, ...]:
    """``[1, 2)`` and so on; the last one is open."""
    ends = [*(str(edge) for edge in edges[1:]), "∞"]
    return tuple(f"[{low}, {high})" for low, high in zip(edges, ends, strict=True))
