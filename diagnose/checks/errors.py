"""The rows that it gets most wrong."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.check import Check
from diagnose.judged import Judged, class_name, read_judged
from diagnose.parted_records import errors_of_parts
from diagnose.worded import shown_texts
from study.errors import are, counted
from study.record import Cell, Finding, Metric, Record, Table, Verdict
from study.show import show_rows
from study.statistics import share_of
from study.task import PARTS, ROWS, VALUES, Kind, Task
from study.view import View

VALUES_SHOWN = 6
"""Of several targets or steps, the first."""


@final
@dataclass(frozen=True, slots=True)
class Errors(Check):
    """The rows that the model gets most wrong, the highest loss first."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = (ROWS | PARTS) - {"language"}

    shown: int = 100
    sure: float = 0.9
    """The confidence from which an error is a confident one."""

    def check(self, view: View) -> Record:
        if view.task.kind in PARTS:
            return errors_of_parts(view, self.shown)
        judged = read_judged(view)
        regression = view.task.kind in VALUES
        wrong = np.ones(len(judged), dtype=bool) if regression else ~judged.hits
        if not wrong.any():
            return Record("errors", Verdict.GOOD, f"None of the {len(judged)} rows is wrong.")
        places = np.flatnonzero(wrong)
        badness = np.where(judged.finite, judged.loss, np.inf)[places]
        worst = places[np.argsort(-badness, kind="stable")[: self.shown]]
        table = self._table(view, judged, worst)
        if regression:
            first = table.rows[0]
            summary = f"Of {len(judged)} rows, '{first[0]}' is missed by most."
            return Record("errors", Verdict.NOTED, summary, tables=(table,))
        findings = self._confident(view, judged, wrong)
        summary = f"{len(places)} of {len(judged)} rows {are(len(places))} wrong"
        summary += f"; the worst {len(worst)} are shown." if len(worst) < len(places) else "."
        return Record("errors", Verdict.NOTED, summary, findings=findings, tables=(table,))

    def _table(self, view: View, judged: Judged, worst: NDArray[np.intp]) -> Table:
        """Rows by their ids, labels and predictions by class names."""
        position = judged.position[worst]
        ids = view.table("predictions").filter(pl.col("position").is_in(position.tolist()))
        names = dict(ids.select("position", "id").collect().iter_rows())
        classification = view.task.kind not in VALUES
        texts = shown_texts(view, position.tolist())
        columns = ("row", "label", "prediction", *(("confidence",) if classification else ()), "loss")
        columns += ("text",) if texts else ()
        rows: list[tuple[Cell, ...]] = []
        for place, where in zip(worst.tolist(), position.tolist(), strict=True):
            finite = bool(judged.finite[place])
            told = _said(view.task, judged.prediction[place]) if finite else "not finite"
            cells: list[Cell] = [names[where], _said(view.task, judged.label[place]), told]
            if classification:
                cells.append(_number(judged.confidence[place]))
            text = (texts[where],) if texts else ()
            rows.append((*cells, _number(judged.loss[place]), *text))
        title = "Worst errors" if classification else "Largest residuals"
        return Table(title, columns, tuple(rows))

    def _confident(self, view: View, judged: Judged, wrong: NDArray[np.bool_]) -> tuple[Finding, ...]:
        # A NaN confidence compares as false: such rows are the accuracy's finding.
        confident = wrong & (judged.confidence >= self.sure)
        if not confident.any():
            return ()
        share: Metric = share_of(confident, groups=judged.groups, better="lower")
        rows = int(confident.sum())
        return (
            Finding(
                f"{counted(rows, 'row')} {are(rows)} wrong "
                f"with a confidence of at least {100 * self.sure:g} %.",
                rows=rows,
                effect=share,
                cause="Wrong labels, rows unlike the training data, or over-confidence.",
                do="Look at these rows first: wrong labels are found here.",
                show=show_rows(view, _worst_first(judged, confident)),
            ),
        )


def _said(task: Task, value: Any) -> Cell:
    """A label or prediction as people call it."""
    if np.ndim(value):
        if task.kind in VALUES:
            told = [f"{number:.6g}" for number in value[:VALUES_SHOWN].tolist()]
            return ", ".join(told) + (f" and {len(value) - len(told)} more" if len(value) > len(told) else "")
        return ", ".join(class_name(task, index) for index in np.flatnonzero(value == 1).tolist()) or "none"
    return float(value) if task.kind in VALUES else class_name(task, int(value))


def _worst_first(judged: Judged, rows: NDArray[np.bool_]) -> list[int]:
    places = np.flatnonzero(rows)
    order: list[int] = judged.position[places[np.argsort(-judged.loss[places], kind="stable")]].tolist()
    return order


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
