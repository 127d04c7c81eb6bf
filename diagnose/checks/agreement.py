"""Does it still answer as the model as it came did?"""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import polars as pl

from diagnose.check import Check
from diagnose.flipped import flipped_rows, moved_values
from diagnose.judged import blocks_of, read_judged
from diagnose.parted_agreement import agreement_of_parts
from diagnose.slice_columns import sliceable
from diagnose.slice_search import search
from study.compare import (
    TOLERANCE,
    Apart,
    Both,
    Flips,
    SliceDrop,
    agreement,
    flips,
    join,
    outputs_apart,
    slice_drops,
)
from study.errors import SkipError, counted
from study.record import Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_difference, show_rows
from study.slices import Slice, one_way
from study.statistics import share_of
from study.task import PARTS, ROWS, VALUES, Kind, Task
from study.view import View

CERTAIN = 0.95


@final
@dataclass(frozen=True, slots=True)
class Agreement(Check):
    """Agreement with the model as it came: flipped answers, slices that lost, and outputs that moved."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = ROWS | PARTS
    compares: ClassVar[bool] = True
    matters: float = 0.01
    """The least drop of accuracy that is a fault."""
    slice_matters: float = 0.05
    """The least drop of one slice's accuracy that is a fault."""
    shown: int = 100

    def check(self, view: View) -> Record:
        if view.origin is None:
            raise SkipError("this is the model as it came: there is nothing to compare it with")
        if view.task.kind in PARTS:
            return agreement_of_parts(view, view.origin, self.matters, self.shown)
        before, after = view.origin.table("predictions"), view.table("predictions")
        both = join(before, after, view.task.kind)
        if both.groups is None:
            both = replace(both, groups=blocks_of(view, both.frame["position"]))
        if not len(both):
            raise SkipError("the two tables have no row in common")
        flipped = flips(both) if both.labelled.any() else None
        drops = slice_drops(both, *_slices(view, both)) if flipped else []
        apart = outputs_apart(before, after, view.task)
        metrics = {"agreement": agreement(both)}
        if flipped:
            metrics |= {
                "negative_flip_rate": flipped.negative,
                "positive_flip_rate": flipped.positive,
                "accuracy@change": flipped.change,
            }
        if drops:
            metrics["worst_slice_drop"] = drops[0].drop
        if apart:
            metrics["max_abs_error"] = Metric.exact(apart.max_abs_error, apart.rows, better="lower")
        if apart and apart.sqnr_db is not None:
            metrics["sqnr_db"] = Metric.exact(apart.sqnr_db, apart.rows, unit="dB", better="higher")
        faults = [*_not_finite(view, both), *_lost(view, both, flipped, self.matters)]
        faults += _lost_slices(view, drops, self.slice_matters)
        facts = [] if faults else _changed(view, both)
        moved = bool(both.changed.any()) or both.only_before > 0 or both.only_after > 0
        return Record(
            by="agreement",
            verdict=Verdict.BAD if faults else Verdict.NOTED if moved else Verdict.GOOD,
            summary=_summary(both, flipped, apart),
            metrics=metrics,
            findings=(*faults, *facts),
            tables=tuple(_tables(view.task, both, drops, apart, self.shown)),
            pictures=_pictures(drops),
        )


def _slices(view: View, both: Both) -> tuple[list[Slice], pl.DataFrame]:
    """The slices found on the model as it came, and those that nobody had to search for."""
    assert view.origin is not None
    judged = read_judged(view.origin)
    rows = sliceable(view.origin, judged)
    labelled = both.frame["position"].to_numpy()[both.labelled]
    order = np.argsort(judged.position, kind="stable")
    places = order[np.searchsorted(judged.position, labelled, sorter=order)]
    # What the model predicts differs between the two; what a row is does not.
    frame = rows.frame.drop("predicted", strict=False)
    frame = frame[places]
    if not frame.columns:
        return [], frame
    looked = search(rows.frame, rows.loss, groups=rows.groups, related=rows.related, seed=view.machine.seed)
    found = [one.slice for one in looked.found]
    found = [one for one in found if all(part.column != "predicted" for part in one.predicates)]
    return list(dict.fromkeys([*one_way(frame, least=1), *found])), frame


def _not_finite(view: View, both: Both) -> list[Finding]:
    lost = both.finite_before & ~both.finite_after
    if not lost.any():
        return []
    share = Metric.exact(float(lost.mean()), len(both), better="lower")
    return [
        Finding(
            what=f"NaN or infinite outputs on {lost.sum()} of {len(both)} rows, which were finite before",
            rows=int(lost.sum()),
            effect=share,
            cause="a number that left the range of this precision, or a kernel that divides by zero",
            do="Keep the layers at fault in fp32 (the record of the weights names them where it can), or "
            "quantize with calibration rows that reach these values.",
            show=show_rows(view, both.frame["position"].to_numpy()[lost].tolist()),
        )
    ]


def _lost(view: View, both: Both, flipped: Flips | None, matters: float) -> list[Finding]:
    if flipped is None or -flipped.change.value < matters or flipped.p_value >= 1 - CERTAIN:
        return []
    lost = both.was_right & ~both.is_right
    positions = both.frame["position"].to_numpy()[both.labelled][lost]
    return [
        Finding(
            what=f"accuracy fell by {-100 * flipped.change.value:.1f} points: {_flip_counts(both)}",
            rows=int(lost.sum()),
            effect=flipped.change,
            certainty=1 - flipped.p_value,
            cause="this step: both models saw the same rows (McNemar's exact test)",
            do="Use a milder step (a lower ratio, a higher precision, more calibration rows), or recover "
            "with a short fit on the training data.",
            show=show_rows(view, positions.tolist()),
        )
    ]


def _lost_slices(view: View, drops: list[SliceDrop], matters: float) -> list[Finding]:
    return [
        Finding(
            what=f"accuracy fell from {one.before:.3f} to {one.after:.3f} in this slice",
            where=str(one.slice),
            rows=one.drop.n,
            effect=one.drop,
            certainty=1 - one.q,
            cause="this step: both models saw the same rows; corrected for the number of slices",
            do="Put more rows of this slice among the calibration (or recovery) rows, or keep the step out.",
            show=show_difference(view),
        )
        for one in drops
        if one.drop.value >= matters and one.q <= 1 - CERTAIN
    ][:20]


def _changed(view: View, both: Both) -> list[Finding]:
    """That answers changed, where no fault says so already."""
    changed = int(both.changed.sum())
    if not changed:
        return []
    if both.kind in VALUES:
        what = f"{counted(changed, 'value')} moved by more than {both.tolerance:.3g}"
    else:
        what = f"{counted(changed, 'answer')} changed" + (
            f": {_flip_counts(both)}" if both.labelled.any() else ""
        )
    return [
        Finding(
            what=what,
            rows=changed,
            effect=share_of(both.changed, groups=both.groups, better="lower"),
            cause="rows near a boundary change sides when the outputs move a little",
            do="Look at the flipped rows: nothing is to be done where they are unsure both times.",
            show=show_rows(view, both.frame["position"].to_numpy()[both.changed].tolist()),
        )
    ]


def _flip_counts(both: Both) -> str:
    lost = int((both.was_right & ~both.is_right).sum())
    won = int((both.is_right & ~both.was_right).sum())
    lost_rows = "1 row was right and is wrong" if lost == 1 else f"{lost} rows were right and are wrong"
    return f"{lost_rows}, {'1 was wrong and is right' if won == 1 else f'{won} were wrong and are right'}"


def _summary(both: Both, flipped: Flips | None, apart: Apart | None) -> str:
    parts = []
    if not both.changed.any():
        same = (
            "and the outputs are identical" if apart and apart.identical else "though outputs moved a little"
        )
        parts.append(f"all {len(both)} answers are the same" + (f", {same}" if apart else ""))
    elif both.kind in VALUES:
        parts.append(
            f"{both.changed.sum()} of {len(both)} values moved by more than {both.tolerance:.3g} "
            f"({TOLERANCE:.0%} of their standard deviation)"
        )
    else:
        parts.append(f"{both.changed.sum()} of {len(both)} answers changed")
        parts += [_flip_counts(both)] if flipped else []
    if both.kind in VALUES:
        parts.append("flips are not defined for values")
    elif flipped is None:
        parts.append("without labels, flips cannot be told right from wrong")
    if both.only_before or both.only_after:
        parts.append(
            f"{both.only_before} rows were judged only before and {both.only_after} only now: left out here"
        )
    return "; ".join(parts)


def _tables(task: Task, both: Both, drops: list[SliceDrop], apart: Apart | None, shown: int) -> list[Table]:
    tables = []
    if both.changed.any():
        tables.append(moved_values(both, shown) if both.kind in VALUES else flipped_rows(task, both, shown))
    if drops:
        rows = [(str(one.slice), one.drop.value, one.drop.low, one.drop.high) for one in drops[:40]]
        tables.append(Table("Drop of accuracy by slice", ("slice", "drop", "low", "high"), tuple(rows)))
    if apart:
        measures = {
            "largest absolute difference": apart.max_abs_error,
            "signal to quantization noise, dB": apart.sqnr_db,
            "mean Kullback-Leibler divergence, nats": apart.divergence,
            "mean of the largest change of a probability": apart.shift,
        }
        known = tuple((name, value) for name, value in measures.items() if value is not None)
        tables.append(Table("How far the outputs moved", ("measure", "value"), known))
    return tables


def _pictures(drops: list[SliceDrop]) -> tuple[Picture, ...]:
    if not drops:
        return ()
    title = "Drop of accuracy by slice"
    text = f"The worst slice, {drops[0].slice}, lost {100 * drops[0].drop.value:.1f} points."
    return (Picture(title, "bars", title, text),)
