"""Slices on which the model errs more."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from diagnose.check import Check
from diagnose.judged import Judged, class_name, read_judged
from diagnose.parted import read_parted
from diagnose.slice_columns import LANGUAGE_LOSS, Sliceable, sliceable, sliceable_parts
from diagnose.slice_search import FEWEST_ROWS, Found, Search, search
from study.errors import SkipError
from study.record import Finding, Metric, Picture, Record, Table, Verdict
from study.show import ROWS_SHOWN, show_rows
from study.slices import Mask, Slice, one_way
from study.statistics import count_units, mean_interval, share_of
from study.task import PARTS, ROWS, VALUES, Kind
from study.view import View


@final
@dataclass(frozen=True, slots=True)
class Slices(Check):
    """Slices of the rows on which the model errs more than on the rest."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = ROWS | PARTS
    least: int = 20
    """Fewer rows than this make no line in the table."""
    shown: int = 40

    def check(self, view: View) -> Record:
        judged: Judged | None = None
        if view.task.kind in PARTS:
            rows = sliceable_parts(view, read_parted(view))
        else:
            every = read_judged(view)
            rows = sliceable(view, every)
            judged = every.only(rows.kept)
        if not rows.frame.columns:
            raise SkipError("there is nothing to slice by: neither classes nor metadata columns")
        if rows.units < FEWEST_ROWS:
            raise SkipError(
                f"{rows.units} rows or groups are too few to find a slice on one half and confirm it "
                f"on the other: {FEWEST_ROWS} are needed"
            )
        looked = search(
            rows.frame, rows.loss, groups=rows.groups, related=rows.related, seed=view.machine.seed
        )
        measured = _measured(rows, [one.slice for one in looked.found], self.least)
        metrics = {}
        if rows.whole:
            metrics = {f"accuracy@{one}": _accuracy(error) for one, error in measured[: self.shown]}
        title = f"{rows.measure.capitalize()} by slice"
        drawn = tuple((str(one), error.value, error.low, error.high) for one, error in measured[: self.shown])
        tables = [Table(title, ("slice", rows.measure, "low", "high"), drawn)] if drawn else []
        pictures = [Picture(title, "bars", title, _caption(rows, measured))] if drawn else []
        if looked.found:
            tables.insert(0, _confirmed(looked, rows))
        return Record(
            by="slices",
            verdict=Verdict.NOTED if looked.found else Verdict.GOOD,
            summary=_summary(looked, rows),
            metrics=metrics,
            findings=tuple(_finding(one, rows, judged, view) for one in looked.found),
            tables=tuple(tables),
            pictures=tuple(pictures),
        )


def _measured(rows: Sliceable, found: list[Slice], least: int) -> list[tuple[Slice, Metric]]:
    """The mean loss of the slices found and of those that nobody had to search for, the worst first."""
    measured = []
    for one in dict.fromkeys([*found, *one_way(rows.frame, least=least)]):
        inside = one.rows(rows.frame)
        groups = None if rows.groups is None else rows.groups[inside]
        loss = rows.loss[inside]
        if rows.whole:
            measured.append((one, share_of(loss, groups=groups, better="lower")))
        elif count_units(len(loss), groups) > 1:
            low, high = mean_interval(loss, groups)
            measured.append((one, Metric(float(loss.mean()), low, high, len(loss), better="lower")))
    return sorted(measured, key=lambda pair: -pair[1].value)


def _accuracy(error: Metric) -> Metric:
    return Metric(1 - error.value, 1 - error.high, 1 - error.low, error.n, better="higher", level=error.level)


def _confirmed(looked: Search, rows: Sliceable) -> Table:
    columns = ("slice", "rows", rows.measure, "low", "high", "elsewhere", "certainty")
    return Table(
        "Slices that err more, measured on the half that did not propose them",
        columns,
        tuple(
            (str(one.slice), one.rows, one.mean.value, one.mean.low, one.mean.high, one.rest, 1 - one.q)
            for one in looked.found
        ),
    )


def _finding(one: Found, rows: Sliceable, judged: Judged | None, view: View) -> Finding:
    inside = one.slice.rows(rows.frame)
    worst = np.argsort(-np.where(inside, rows.loss, -1.0), kind="stable")
    shown = rows.position[worst[: min(ROWS_SHOWN, int((inside & (rows.loss > 0)).sum()))]]
    return Finding(
        what=f"{rows.measure} {_shown(one.mean.value, rows)}, against {_shown(one.rest, rows)} elsewhere",
        where=str(one.slice),
        rows=one.rows,
        effect=one.mean,
        certainty=1 - one.q,
        cause="" if judged is None else _commonest_mistake(judged, inside),
        do="Look at these rows. More of them in the training data, or a higher weight on them, is what helps "
        "where they are not simply harder or wrongly labelled.",
        show=show_rows(view, shown),
    )


def _commonest_mistake(judged: Judged, inside: Mask) -> str:
    """Which class is taken for which, where one confusion is at least a quarter of the errors."""
    if judged.label.ndim > 1 or judged.task.kind in VALUES:
        return ""
    wrong = inside & ~judged.hits & judged.finite
    if not wrong.any():
        return ""
    pairs, counts = np.unique(
        np.column_stack([judged.label[wrong], judged.prediction[wrong]]), axis=0, return_counts=True
    )
    best = int(counts.argmax())
    if counts[best] < max(2, wrong.sum() / 4):
        return ""
    label, said = (class_name(judged.task, int(index)) for index in pairs[best])
    return f"'{label}' is taken for '{said}' in {counts[best]} of {wrong.sum()} errors"


def _summary(looked: Search, rows: Sliceable) -> str:
    if not rows.loss.any():
        return "no slice errs more: there are no errors at all"
    tested = (
        f"{looked.candidates} conjunctions counted on {looked.searched} rows, {looked.tried} of them tested "
        f"on {looked.confirming} others"
    )
    if not looked.found:
        return f"no slice survives ({tested})"
    first = looked.found[0]
    more = f", and {len(looked.found) - 1} more" if len(looked.found) > 1 else ""
    return (
        f"{first.slice}: {rows.measure} {_shown(first.mean.value, rows)} against "
        f"{_shown(first.rest, rows)} elsewhere{more} ({tested})"
    )


def _caption(rows: Sliceable, measured: list[tuple[Slice, Metric]]) -> str:
    worst, error = measured[0]
    return f"The highest {rows.measure} is {_shown(error.value, rows)}, where {worst}."


def _shown(value: float, rows: Sliceable) -> str:
    plain = rows.measure in ("mean absolute error", LANGUAGE_LOSS)
    return f"{value:.3g}" if plain else f"{100 * value:.1f} %"
