"""What a changed model costs on some rows: the task's metric, the decisions, and the noise in the output.

The rows pass in pieces, and of each only sums and one line a row are kept. Pieces that take little are kept
with the answers of the model before; all others are read, and answered, again for each model.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from export.quantization.calibration import PIECE
from study.bootstrap import bootstrap
from study.compare import agreement, groups_of, join
from study.compare_parts import join_parts
from study.errors import InputError, SkipError
from study.feed import Feed, Piece
from study.reading import READINGS
from study.record import Metric
from study.runtime import Batch, Runtimes, open_runtime, to_numpy
from study.statistics import (
    change_of_parts,
    count_units,
    mean_of,
    paired_difference,
    ratio_of,
    share_of_parts,
)
from study.subject import Machine, Model, Subject
from study.task import PARTS, ROWS, VALUES, Task, scored_output

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS_AT_MOST = 256
KEPT_BYTES = 1 << 28
"""Of pieces with their answers: 256 MB."""
KEPT_COLUMNS = ("position", "id", "group", "label", "prediction", "confidence", "parts", "loss")
METRICS: Mapping[str, str] = {
    **dict.fromkeys(("binary", "multiclass", "multilabel"), "accuracy"),
    **dict.fromkeys(("regression", "forecasting"), "mean absolute error"),
    "language": "loss a token",
    "tokens": "share of words that are right",
    "segmentation": "share of pixels that are right",
}
"""The metric whose drop (or rise, of an error) is told, by kind of task."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a model costs against the one before it, on the same rows.

    ``drop`` is the loss of the task's metric, positive when worse, None without labels; ``changed`` the share
    of decisions that are others, None where there are none to compare. ``noise`` is the sum of squared
    differences of the outputs over the sum of squares before, and ``sqnr_db`` the same in dB; None where the
    outputs are the same, or cannot be compared.
    """

    rows: int
    drop: Metric | None
    changed: Metric | None
    sqnr_db: Metric | None
    noise: float


@dataclass(slots=True)
class _Sums:
    """What is kept of the rows that one model has answered: one line a row, whatever the outputs are."""

    power: "list[NDArray[np.float64]]" = field(default_factory=list)
    """(rows, 2): squares of the outputs before, and of the differences."""
    before: list[pl.DataFrame] = field(default_factory=list)
    after: list[pl.DataFrame] = field(default_factory=list)
    parts: list[pl.DataFrame] = field(default_factory=list)
    apart: bool = False
    """The outputs have other shapes, so they have no difference."""


class Rows:
    """Some calibration rows, and what the model before a change says of them."""

    def __init__(
        self, subject: Subject, machine: Machine, *, rows: int = ROWS_AT_MOST, kept: int = KEPT_BYTES
    ) -> None:
        """Choose the rows, evenly over the calibration split.

        Raises:
            SkipError: there are no calibration rows, or nothing says what the outputs mean.
        """
        if subject.calibration is None:
            raise SkipError("it needs calibration rows, and there are none")
        if subject.task is None:
            raise SkipError("there is no data to say what the outputs mean")
        self.task, self.machine = subject.task, machine
        self._model, self._group = subject.model, subject.calibration.data.group
        self._feed = Feed.open(subject.calibration, subject.inputs)
        every, rows = self._feed.positions, min(rows, len(self._feed))
        self._positions = every[np.arange(rows) * len(every) // max(1, rows)]
        self._left = kept
        self._kept: dict[int, tuple[Piece, Batch]] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def first(self, count: int) -> "list[dict[str, NDArray[Any]]]":
        """Single rows as the model takes them.

        Raises:
            SkipError: not one could be read.
        """
        for places in self._chunks():
            piece = self._feed.at(places[:count])
            if len(piece):
                every = range(len(piece))
                return [{k: array[row : row + 1] for k, array in piece.batch.items()} for row in every]
        raise SkipError("not one calibration row could be read")

    def effect(self, model: Model) -> Effect:
        """Run a changed model on the rows.

        Raises:
            SkipError: it cannot be run, or no row could be read.
        """
        sums = _Sums()
        try:
            with open_runtime(model, self.machine) as after, closing(Runtimes()) as opened:
                for piece, answers in self._answered(opened):
                    self._add(sums, piece, answers, after(piece.batch))
        except InputError as error:
            raise SkipError(f"a quantized model does not run: {error}") from error
        return self._reduced(sums)

    def _chunks(self) -> "list[NDArray[np.int64]]":
        return [self._positions[start : start + PIECE] for start in range(0, len(self), PIECE)]

    def _answered(self, opened: Runtimes) -> Iterator[tuple[Piece, Batch]]:
        """Every piece with what the model before says of it, which is opened where that is not known."""
        for number, places in enumerate(self._chunks()):
            if number in self._kept:
                yield self._kept[number]
                continue
            piece = self._feed.at(places)
            if not len(piece):
                continue
            before = opened.get(self._model, self.machine)
            answers = {name: to_numpy(array) for name, array in before(piece.batch).items()}
            size = sum(array.nbytes for array in (*piece.batch.values(), *answers.values()))
            if size <= self._left:
                self._left -= size
                self._kept[number] = (piece, answers)
            yield piece, answers

    def _add(self, sums: _Sums, piece: Piece, before: Batch, after: Batch) -> None:
        was, now = (to_numpy(scored_output(self.task, one)) for one in (before, after))
        sums.apart |= was.shape != now.shape
        if not sums.apart:
            sums.power.append(_power(was, now, len(piece)))
        if self.task.kind not in ROWS | PARTS:
            return
        frames = [self._lines(piece, one) for one in (before, after)]
        if self.task.kind in PARTS:
            sums.parts.append(_parted(*frames))
            frames = [frame.drop("label", "prediction", strict=False) for frame in frames]
        sums.before.append(frames[0])
        sums.after.append(frames[1])

    def _lines(self, piece: Piece, outputs: Batch) -> pl.DataFrame:
        """The lines of the prediction table that the comparison needs."""
        columns = {
            "position": pl.Series(np.asarray(piece.rows.positions), dtype=pl.Int64),
            "id": pl.Series(list(piece.rows.ids), dtype=pl.String),
            **READINGS.get(self.task.kind).columns(self.task, piece, outputs),
        }
        if self._group:
            columns["group"] = piece.rows.metadata[self._group].cast(pl.String)
        kept = {name: column for name, column in columns.items() if name in KEPT_COLUMNS}
        return pl.DataFrame([column.alias(name) for name, column in kept.items()])

    def _reduced(self, sums: _Sums) -> Effect:
        before, after = (
            pl.concat(frames) if frames else pl.DataFrame() for frames in (sums.before, sums.after)
        )
        groups = groups_of(after) if "group" in after.columns else None
        drop = changed = None
        if self.task.kind in PARTS and sums.parts:
            parts = pl.concat(sums.parts)
            changed = share_of_parts(
                parts["changed"].to_numpy(),
                parts["parts"].to_numpy(),
                groups=groups_of(parts),
                better="lower",
            )
            drop = _parted_drop(self.task, parts, before, after, groups)
        elif self.task.kind in ROWS and len(after):
            both = join(before.lazy(), after.lazy(), self.task.kind)
            same = agreement(both)
            changed = Metric(1 - same.value, 1 - same.high, 1 - same.low, same.n, better="lower")
            if both.labelled.any():
                own = None if both.groups is None else both.groups[both.labelled]
                drop = paired_difference(both.is_right, both.was_right, groups=own, better="lower")
            elif self.task.kind in VALUES:
                drop = _error_rise(before, after, groups)
        power = np.concatenate(sums.power) if sums.power and not sums.apart else np.zeros((0, 2))
        rows = len(power) or len(after)
        if not rows:
            raise SkipError("not one calibration row could be read")
        noise, ratio = _sqnr(power, groups)
        return Effect(rows, drop, changed, ratio, noise)


def _power(was: "NDArray[Any]", now: "NDArray[Any]", rows: int) -> "NDArray[np.float64]":
    """(rows, 2) sums of squares, of the outputs before and of the differences, where both are finite."""
    before, after = (array.reshape(rows, -1).astype(np.float64) for array in (was, now))
    both = np.isfinite(before) & np.isfinite(after)
    before, after = np.where(both, before, 0.0), np.where(both, after, 0.0)
    return np.stack([np.square(before).sum(axis=1), np.square(before - after).sum(axis=1)], axis=1)


def _sqnr(power: "NDArray[np.float64]", groups: "NDArray[Any] | None") -> tuple[float, Metric | None]:
    """The noise as a share of the signal, and the ratio in dB where there is both."""
    signal, noise = power.sum(axis=0)
    if signal <= 0 or noise <= 0:
        return 0.0, None
    value = 10 * float(np.log10(signal / noise))
    low = high = value
    if count_units(len(power), groups) > 1:

        def decibels(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
            with np.errstate(divide="ignore", invalid="ignore"):
                return 10 * np.log10(sums[:, :1] / sums[:, 1:])

        lows, highs = bootstrap(power, decibels, groups=groups)
        low, high = min(value, float(lows[0])), max(value, float(highs[0]))
    return float(noise / signal), Metric(value, low, high, len(power), "dB", "higher")


def _parted(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """One line a row: its parts, and how many are answered otherwise, were right, are lost and won."""
    both = join_parts(before.lazy(), after.lazy())
    columns = {
        "position": both.position,
        "parts": both.parts,
        "changed": both.parts - both.same,
        "was": both.right_before,
        "is": both.right_after,
        "labelled": both.labelled,
    }
    made = pl.DataFrame({name: pl.Series(array, dtype=pl.Int64) for name, array in columns.items()})
    return made.join(after.select("position", *_named(after, "group")), on="position", maintain_order="left")


def _named(frame: pl.DataFrame, name: str) -> list[str]:
    return [name] if name in frame.columns else []


def _parted_drop(
    task: Task, parts: pl.DataFrame, before: pl.DataFrame, after: pl.DataFrame, groups: "NDArray[Any] | None"
) -> Metric | None:
    """Of a language model the rise of its loss a token, of others the drop of the share that is right."""
    if count_units(len(parts), groups_of(parts)) < 2:  # noqa: PLR2004 -- no spread can be seen in one
        return None
    if task.kind == "language":
        weights = after["parts"].to_numpy().astype(np.float64)
        rise = (after["loss"] - before["loss"]).fill_null(0.0).to_numpy() * weights
        return ratio_of(rise, weights, groups=groups, better="lower")
    if not parts["labelled"].sum():
        return None
    was, now, labelled = (parts[name].to_numpy() for name in ("was", "is", "labelled"))
    return change_of_parts(now, was, labelled, groups=groups_of(parts), better="lower")


def _error_rise(before: pl.DataFrame, after: pl.DataFrame, groups: "NDArray[Any] | None") -> Metric | None:
    """The rise of the mean absolute error over rows and targets."""
    if before["label"].null_count() == len(before) or count_units(len(before), groups) < 2:  # noqa: PLR2004
        return None
    label, was, now = (
        np.array(column.to_list(), dtype=np.float64).reshape(len(before), -1)
        for column in (before["label"], before["prediction"], after["prediction"])
    )
    rise = (np.abs(now - label) - np.abs(was - label)).mean(axis=1)
    return mean_of(rise, groups=groups, better="lower")
