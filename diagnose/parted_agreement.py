"""Does an artifact still answer as the model as it came did, part by part?"""

import numpy as np

from diagnose.parted import NOUNS, read_parted
from diagnose.slice_columns import sliceable_parts
from study.compare_parts import BothParts, join_parts
from study.errors import SkipError
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_rows
from study.slices import Slice, one_way
from study.statistics import change_of_parts, share_of_parts
from study.view import View

LEAST = 20
"""The fewest rows of a slice whose accuracy is compared."""
LEVEL = 0.95


def agreement_of_parts(view: View, origin: View, matters: float, shown: int) -> Record:
    """The record: agreement, flips both ways, the slice that lost most, the rows that changed most.

    Raises:
        SkipError: the tables have no row in common.
    """
    both = join_parts(origin.table("predictions"), view.table("predictions"))
    if len(both) < 2:  # noqa: PLR2004 - an interval needs two
        raise SkipError("the two tables have fewer than two rows in common")
    noun = NOUNS.get(view.task.kind, "part")
    if not both.labelled.any():
        return _unlabelled(both, noun, shown)
    change = change_of_parts(both.right_before, both.right_after, both.parts, groups=both.groups)
    drops = _drops(origin, both)
    metrics = {
        "agreement": _agreement(both),
        "negative_flip_rate": share_of_parts(both.lost, both.parts, groups=both.groups, better="lower"),
        "positive_flip_rate": share_of_parts(both.won, both.parts, groups=both.groups),
        "accuracy@change": change,
    }
    if drops:
        metrics["worst_slice_drop"] = drops[0][1]
    fell = -change.value >= matters and change.high < 0
    findings = (_fell(view, both, change, noun),) if fell else ()
    changed = int((both.parts - both.same).sum())
    verdict = Verdict.BAD if fell else Verdict.NOTED if changed else Verdict.GOOD
    tables = [_table(both, noun, shown)] if changed else []
    pictures: tuple[Picture, ...] = ()
    if drops:
        title = "Drop of accuracy by slice"
        rows = tuple((str(one), drop.value, drop.low, drop.high) for one, drop in drops[:40])
        tables.append(Table(title, ("slice", "drop", "low", "high"), rows))
        said = f"The worst slice, {drops[0][0]}, lost {100 * drops[0][1].value:.1f} points."
        pictures = (Picture(title, "bars", title, said),)
    flips = f"; {int(both.lost.sum())} were right and are wrong, {int(both.won.sum())} the other way round"
    summary = _summary(both, noun, flips)
    return Record("agreement", verdict, summary, "", metrics, findings, tuple(tables), pictures)


def _unlabelled(both: BothParts, noun: str, shown: int) -> Record:
    """Where no part has a label: how many are answered otherwise, and in which rows."""
    changed = bool((both.same < both.parts).any())
    summary = _summary(both, noun, "; there are no labels to say which answer is right")
    verdict = Verdict.NOTED if changed else Verdict.GOOD
    tables = (_table(both, noun, shown),) if changed else ()
    return Record("agreement", verdict, summary, metrics={"agreement": _agreement(both)}, tables=tables)


def _agreement(both: BothParts) -> Metric:
    return share_of_parts(both.same, both.parts, groups=both.groups, better="higher")


def _summary(both: BothParts, noun: str, flips: str) -> str:
    changed = int((both.parts - both.same).sum())
    said = f"{changed} of {int(both.parts.sum())} {noun}s in {len(both)} rows are answered otherwise{flips}"
    if both.only_before or both.only_after:
        said += f"; {both.only_before} rows were judged only before and {both.only_after} only now"
    return said


def _drops(origin: View, both: BothParts) -> list[tuple[Slice, Metric]]:
    """How much accuracy each slice of the metadata lost, the most first; intervals hold for all at once."""
    rows = sliceable_parts(origin, read_parted(origin))
    if not rows.frame.columns:
        return []
    _, place, at = np.intersect1d(both.position, rows.position, return_indices=True)
    frame = rows.frame[at]
    masks = [(one, place[one.rows(frame)]) for one in one_way(frame, least=LEAST)]
    masks = [(one, inside) for one, inside in masks if len(inside) >= LEAST]
    level = 1 - (1 - LEVEL) / max(1, len(masks))
    drops = []
    for one, inside in masks:
        groups = None if both.groups is None else both.groups[inside]
        if groups is not None and len(np.unique(groups)) < 2:  # noqa: PLR2004 - an interval needs two
            continue
        drop = change_of_parts(
            both.right_after[inside],
            both.right_before[inside],
            both.parts[inside],
            groups=groups,
            better="lower",
            level=level,
        )
        drops.append((one, Metric(drop.value, drop.low, drop.high, drop.n, "", "lower", LEVEL)))
    return sorted(drops, key=lambda pair: -pair[1].value)


def _fell(view: View, both: BothParts, change: Metric, noun: str) -> Finding:
    worst = np.argsort(both.won - both.lost, kind="stable")
    return Finding(
        what=f"accuracy over {noun}s fell by {-100 * change.value:.1f} points",
        rows=int((both.lost > both.won).sum()),
        effect=change,
        certainty=change.level,
        cause="this step: both models saw the same rows",
        do="Use a milder step (a lower ratio, a higher precision, more calibration rows), or recover with a "
        "short fit on the training data.",
        show=show_rows(view, both.position[worst]),
    )


def _table(both: BothParts, noun: str, shown: int) -> Table:
    """The rows of which most parts changed."""
    changed = both.parts - both.same
    order = np.argsort(-(changed / both.parts), kind="stable")[:shown]
    rows: list[tuple[Cell, ...]] = [
        (both.ids[at], int(both.parts[at]), int(changed[at]), int(both.lost[at]), int(both.won[at]))
        for at in order.tolist()
        if changed[at]
    ]
    return Table("Rows that changed most", ("id", f"{noun}s", "changed", "lost", "won"), tuple(rows))
