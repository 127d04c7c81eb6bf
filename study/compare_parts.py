"""Agreement and flips of two prediction tables whose answers have parts: counted a part, summed a row."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.compare import groups_of

PARTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class BothParts:
    """Rows that are in both tables, in order of position; every array has one entry a row.

    ``same`` parts have the same answer twice, ``lost`` ones were right and are wrong, ``won`` ones the
    other way round; ``labelled`` ones have a label. Parts without one are only in ``same``.
    """

    position: NDArray[np.int64]
    ids: tuple[str, ...]
    parts: NDArray[np.int64]
    same: NDArray[np.int64]
    right_before: NDArray[np.int64]
    lost: NDArray[np.int64]
    won: NDArray[np.int64]
    labelled: NDArray[np.int64]
    groups: NDArray[Any] | None
    only_before: int
    only_after: int

    def __len__(self) -> int:
        return len(self.position)

    @property
    def right_after(self) -> NDArray[np.int64]:
        """Parts that are right in the later table."""
        return self.right_before - self.lost + self.won


def join_parts(before: pl.LazyFrame, after: pl.LazyFrame) -> BothParts:
    """Compare the ``prediction`` lists, never more than some millions of parts at once."""
    names = after.collect_schema().names()
    kept = [name for name in ("id", "group") if name in names]
    first = before.filter(pl.col("parts") > 0).select("position", "parts").collect()
    second = after.filter(pl.col("parts") > 0).select("position", *kept, parts_after="parts").collect()
    frame = first.join(second, on="position", how="inner").sort("position")
    frame = frame.filter(pl.col("parts") == pl.col("parts_after"))
    position, parts = frame["position"].to_numpy(), frame["parts"].to_numpy()
    counts = [_counted(piece) for piece in _pieces(before, after, position, parts)]
    same, right, lost, won, labelled = (
        (np.concatenate(one) for one in zip(*counts, strict=True)) if counts else (np.zeros(0, np.int64),) * 5
    )
    return BothParts(
        position=position,
        ids=tuple(frame["id"].to_list()),
        parts=parts,
        same=same,
        right_before=right,
        lost=lost,
        won=won,
        labelled=labelled,
        groups=groups_of(frame),
        only_before=first.height - frame.height,
        only_after=second.height - frame.height,
    )


def _pieces(
    before: pl.LazyFrame, after: pl.LazyFrame, position: NDArray[np.int64], parts: NDArray[np.int64]
) -> Iterator[pl.DataFrame]:
    """The predictions of both and the labels, of so many rows as fit."""
    piece_of = np.cumsum(parts) // PARTS_AT_ONCE
    wanted = before.select("position", "label", before="prediction")
    other = after.select("position", after="prediction")
    for number in np.unique(piece_of):
        inside = position[piece_of == number]
        between = pl.col("position").is_between(int(inside[0]), int(inside[-1]))
        joined = wanted.filter(between).join(other.filter(between), on="position", maintain_order="left")
        yield joined.filter(pl.col("position").is_in(pl.Series(inside).implode())).sort("position").collect()


def _counted(piece: pl.DataFrame) -> tuple[NDArray[np.int64], ...]:
    """(same, right before, lost, won, labelled) of each row."""
    lengths = piece["before"].list.len().to_numpy()
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    was, now, label = (piece[name].explode().to_numpy() for name in ("before", "after", "label"))
    right, still = was == label, now == label
    masks = (was == now, right, right & ~still, still & ~right, label >= 0)
    return tuple(np.add.reduceat(mask.astype(np.int64), starts) for mask in masks)
