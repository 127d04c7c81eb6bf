"""What the inputs of a forecast know of the past of its targets, and how rows depend on each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.probe import Probe
from study.errors import counted
from study.feed import Feed
from study.progress import Progress
from study.series import (
    SAMPLED,
    Column,
    Floats,
    History,
    columns_of,
    continues,
    follow,
    histories,
    season_of,
    shuffled,
)
from study.storage import written
from study.task import Task
from study.view import View

FEWEST_BLOCKS = 10
"""Blocks are cut shorter where there would be fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """What a sample of the rows showed."""

    steps: int
    targets: int
    past: tuple[History, ...]
    seasons: tuple[int, ...]
    windows: tuple[Column, int] | None
    said: str
    dependent: str


@final
@dataclass(frozen=True, slots=True)
class HistoryOfTargets(Probe):
    """Of each row of a forecast: the targets' last values, how much they moved, and a season before.

    ``block`` numbers runs of consecutive windows that overlap: the units that intervals stand on.
    """

    gives: ClassVar[str] = "history"

    rows: int = 256
    """Rows that are in memory at once."""

    def run(self, view: View, progress: Progress) -> None:
        feed, task = view.judged(), view.task
        known = _known(feed, task)
        frames, follows, before = [], [np.zeros(0, dtype=bool)], None
        for piece in progress.over(feed.pieces(self.rows), "history", -(-len(feed) // self.rows)):
            if not len(piece):
                continue
            positions = np.asarray(piece.rows.positions, dtype=np.int64)
            columns: dict[str, Any] = {"position": positions}
            if known.past:
                columns |= _past(known, piece.batch)
            if known.windows:
                windows = known.windows[0].of(piece.batch)
                follows.append(_follows(known.windows[1], positions, windows, before))
                before = positions[-1], windows[-1]
            frames.append(pl.DataFrame(columns))
        table = pl.concat(frames) if frames else pl.DataFrame({"position": []}, schema={"position": pl.Int64})
        dependent = known.dependent
        if known.windows and len(table):
            ours = np.concatenate(follows)
            codes, length = _blocks(table["position"].to_numpy(), ours, known.windows[1], known.steps)
            table = table.with_columns(block=pl.Series(codes))
            dependent += _length_in_words(length, known)
        table = table.with_columns(said=pl.lit(known.said), dependent=pl.lit(dependent))
        with written(view.artifact.folder / f"{self.gives}.parquet") as beside:
            table.write_parquet(beside)


def _known(feed: Feed, task: Task) -> _Known:
    steps, targets = (*task.target_shape, 1)[:2]
    piece = feed.at(feed.positions[:SAMPLED])
    positions = np.asarray(piece.rows.positions, dtype=np.int64)
    batch = {name: array for name, array in piece.batch.items() if name not in piece.ragged}
    columns = columns_of(batch) if len(piece) else []
    windows = follow(batch, columns, positions)
    dependent = ""
    if windows:
        dependent = f"Consecutive rows are windows that move on by {counted(windows[1], 'step')} and overlap"
    elif shuffled(batch, columns):
        dependent = (
            "Rows share parts of their histories and are not consecutive windows: they depend on each other, "
            "which makes the intervals too narrow; give --group, or all windows in the order of time."
        )
    labels = piece.rows.labels
    if labels is None or not columns:
        why = "the rows have no labels" if labels is None else "no input is a series of floats"
        return _Known(steps, targets, (), (), windows, f"There is no naive forecast: {why}.", dependent)
    wanted = labels.astype(np.float64).reshape(len(labels), steps, targets)
    past = histories(batch, wanted, columns, positions, windows[1] if windows else 0)
    if past is None:
        why = "which input holds the past of the target could not be told"
        return _Known(steps, targets, (), (), windows, f"There is no naive forecast: {why}.", dependent)
    seasons = tuple(season_of(one.of(batch)) for one in past)
    said = _in_words(past, seasons, batch)
    return _Known(steps, targets, past, seasons, windows, said, dependent)


def _in_words(past: tuple[History, ...], seasons: tuple[int, ...], batch: Mapping[str, NDArray[Any]]) -> str:
    first = past[0]
    said = f"The past of {'the target' if len(past) == 1 else 'the first target'} is read from "
    said += first.column.in_words(batch)
    if first.scale != 1 or first.shift != 0:
        said += f", times {first.scale:.4g} plus {first.shift:.4g}"
    season = f"a season of {counted(seasons[0], 'step')} shows in it" if seasons[0] else "it shows no season"
    return f"{said}; {season}."


def _past(known: _Known, batch: Mapping[str, NDArray[Any]]) -> dict[str, pl.Series]:
    """The columns of the table, targets within steps as labels have them."""
    windows = [one.of(batch) for one in known.past]
    last = np.column_stack([values[:, -1] for values in windows])
    moved = np.column_stack([np.abs(np.diff(values, axis=1)).mean(axis=1) for values in windows])
    found = {"last": _lists(last), "moved": _lists(moved)}
    if all(known.seasons):
        again = [
            values[:, values.shape[1] - season + np.arange(known.steps) % season]
            for values, season in zip(windows, known.seasons, strict=True)
        ]
        found["seasonal"] = _lists(np.stack(again, axis=2).reshape(len(last), -1))
    return found


def _lists(values: Floats) -> pl.Series:
    return pl.Series(np.ascontiguousarray(values), dtype=pl.Array(pl.Float64, values.shape[1])).arr.to_list()


def _follows(
    stride: int, positions: NDArray[np.int64], windows: Floats, before: tuple[np.int64, Floats] | None
) -> NDArray[np.bool_]:
    """Whether each row is the window after the row before it, of which some may have been left out."""
    if before is not None:
        positions, windows = np.append(before[0], positions), np.vstack([before[1], windows])
    found = np.zeros(len(positions), dtype=bool)
    gaps = np.diff(positions) * stride
    for gap in np.unique(gaps):
        rows = np.flatnonzero(gaps == gap)
        if gap < windows.shape[1]:
            found[rows + 1] = continues(windows[rows], windows[rows + 1], int(gap))
    return found if before is None else found[1:]


def _blocks(
    positions: NDArray[np.int64], follows: NDArray[np.bool_], stride: int, steps: int
) -> tuple[NDArray[np.int64], int]:
    """A number a row, the same for consecutive windows, and how many of these make a block.

    Errors of windows whose forecasts overlap depend on each other, and those of a good forecast no further
    (a moving average of its steps): blocks are twice as long (Carlstein, Annals of Statistics 1986).
    """
    whole = max(-(-2 * steps // stride), round(len(positions) ** (1 / 3)))
    length = max(1, min(whole, len(positions) // FEWEST_BLOCKS))
    run = np.cumsum(~follows)
    starts = np.zeros(int(run.max()) + 1, dtype=np.int64)
    first = np.flatnonzero(~follows)
    starts[run[first]] = positions[first]
    part = (positions - starts[run]) // length
    return np.unique(np.column_stack([run, part]), axis=0, return_inverse=True)[1].astype(np.int64), length


def _length_in_words(length: int, known: _Known) -> str:
    stride = known.windows[1] if known.windows else 1
    said = f": intervals are over blocks of {length} of them."
    if length * stride < 2 * known.steps:
        said += " The rows are too few for blocks as long as they should be: the intervals may be too narrow."
    return said
