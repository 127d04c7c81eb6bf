"""Which rows an artifact answers otherwise than the model as it came."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.judged import class_name
from study.compare import Both
from study.record import Cell, Table
from study.task import Task


def flipped_rows(task: Task, both: Both, shown: int) -> Table:
    """Rows whose answer changed: lost ones first, the surest of their new answer at the top."""
    severity = np.zeros(len(both))
    severity[both.labelled] = both.was_right.astype(float) - both.is_right
    order = np.lexsort((-_confidence(both, "after"), -severity))
    order = order[both.changed[order]][:shown]
    frame = both.frame[order]
    labels = frame["label"].to_list() if "label" in frame.columns else [None] * frame.height
    answers = zip(
        frame["id"].to_list(),
        labels,
        frame["before"].to_list(),
        frame["after"].to_list(),
        frame["confidence_before"].to_list(),
        frame["confidence_after"].to_list(),
        strict=True,
    )
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            _said(task, label),
            _said(task, first),
            _said(task, second),
            _number(before),
            _number(after),
        )
        for name, label, first, second, before, after in answers
    ]
    columns = ("id", "label", "before", "after", "confidence before", "confidence after")
    return Table("Flipped rows", columns, tuple(rows))


def moved_values(both: Both, shown: int) -> Table:
    """Values that moved, the farthest first; of several targets, each row's farthest."""
    first, second = (_values(both.frame[name]) for name in ("before", "after"))
    gap = np.abs(second - first)
    gap[np.isnan(gap)] = np.inf
    target = gap.argmax(axis=1)
    order = np.argsort(-gap.max(axis=1), kind="stable")
    order = order[both.changed[order]][:shown]
    ids = both.frame["id"].to_list()
    rows: list[tuple[Cell, ...]] = [
        (
            ids[row],
            _number(first[row, target[row]]),
            _number(second[row, target[row]]),
            _number(gap[row, target[row]]),
        )
        for row in order
    ]
    return Table("Values that moved", ("id", "before", "after", "difference"), tuple(rows))


def _values(column: pl.Series) -> NDArray[np.float64]:
    return np.array([np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in column.to_list()])


def _confidence(both: Both, when: str) -> NDArray[np.float64]:
    return both.frame[f"confidence_{when}"].cast(pl.Float64).fill_null(0.0).fill_nan(0.0).to_numpy()


def _said(task: Task, answer: object) -> str | None:
    """A class by name, or the labels that are set."""
    if isinstance(answer, list):
        return ", ".join(class_name(task, one) for one, there in enumerate(answer) if there == 1) or "none"
    return class_name(task, answer) if isinstance(answer, int) else None


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
