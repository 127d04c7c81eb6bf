"""Does a detector still find what the model as it came found?"""

from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np

from diagnose.check import Check
from diagnose.detected import best_score, read_found
from diagnose.found_twice import Flips, FoundTwice, join_finds, object_flips
from study.errors import SkipError, counted
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_difference
from study.statistics import change_of_parts, count_units, ratio_of, share_of_parts
from study.task import Kind
from study.view import View

UNSURE: Final = 0.5
"""The score from which finds are compared where no boxes are known."""
TWO: Final = 2


@final
@dataclass(frozen=True, slots=True)
class DetectionAgreement(Check):
    """What became of the finds of the model as it came, and which objects are newly found or missed."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"detection"})
    compares: ClassVar[bool] = True

    matters: float = 0.01
    """The least drop of the share of objects that are found that is a fault."""
    shown: int = 100

    def check(self, view: View) -> Record:
        if view.origin is None:
            raise SkipError("this is the model as it came: there is nothing to compare it with")
        score, flips = _against_truth(view, view.origin)
        twice = join_finds(view.origin.table("predictions"), view.table("predictions"), score)
        if count_units(len(twice), twice.groups) < TWO:
            raise SkipError("the two tables have fewer than two images (or groups) in common")
        if not twice.before.any():
            raise SkipError(f"the model as it came finds nothing that is as sure as {score:.2f}")
        metrics = _of_finds(twice) | (_of_objects(flips) if flips else {})
        fell = metrics.get("recall@change")
        faults: tuple[Finding, ...] = ()
        if fell is not None and -fell.value >= self.matters and fell.high < 0:
            faults = (_fell(view, metrics, fell, score),)
        moved = int((twice.lost + twice.new + twice.renamed).sum())
        tables = [_table(metrics)]
        if moved:
            tables.append(_images(twice, flips, self.shown))
        title = tables[0].title
        picture = Picture(title, "bars", title, "What became of the finds, as shares.")
        verdict = Verdict.BAD if faults else Verdict.NOTED if moved else Verdict.GOOD
        said = _summary(twice, flips, score)
        return Record("detection-agreement", verdict, said, "", metrics, faults, tuple(tables), (picture,))


def _against_truth(view: View, origin: View) -> tuple[float, Flips | None]:
    """The score at which finds count (that of the best F1 of the model as it came), and the flips at it."""
    try:
        came, now = read_found(origin), read_found(view)
    except SkipError:
        return UNSURE, None
    score = best_score(came)
    flips = object_flips(came, now, score)
    if flips is None or not flips.objects.any() or count_units(len(now), now.groups) < TWO:
        return score, None
    return score, flips


def _of_finds(twice: FoundTwice) -> dict[str, Metric]:
    groups = twice.groups
    metrics = {
        "kept_share@finds": share_of_parts(twice.kept, twice.before, groups=groups, better="higher"),
        "lost_share@finds": share_of_parts(twice.lost, twice.before, groups=groups, better="lower"),
        "changed_class_share@finds": share_of_parts(
            twice.renamed, twice.before, groups=groups, better="lower"
        ),
    }
    if twice.after.any():
        metrics["new_share@finds"] = share_of_parts(twice.new, twice.after, groups=groups, better="lower")
    if twice.kept.any():
        metrics["iou@kept"] = ratio_of(twice.overlap, twice.kept, groups=groups, better="higher")
        metrics["score_shift@kept"] = ratio_of(twice.shift, twice.kept, groups=groups)
    return metrics


def _of_objects(flips: Flips) -> dict[str, Metric]:
    groups, objects = flips.groups, flips.objects
    return {
        "negative_flip_rate@objects": share_of_parts(flips.lost, objects, groups=groups, better="lower"),
        "positive_flip_rate@objects": share_of_parts(flips.won, objects, groups=groups),
        "recall@change": change_of_parts(flips.found_before, flips.found_after, objects, groups=groups),
    }


def _fell(view: View, metrics: dict[str, Metric], change: Metric, score: float) -> Finding:
    shift = metrics.get("score_shift@kept")
    lower = shift is not None and shift.high < 0
    cause = "this step: both models saw the same images"
    if lower and shift is not None:
        cause += f"; it lowered the scores by {-shift.value:.3f} on average"
    return Finding(
        what=f"{-100 * change.value:.1f} points fewer of the objects are found at a score of {score:.2f}",
        rows=change.n,
        effect=change,
        certainty=change.level,
        cause=cause,
        do=("Choose the score from which finds count anew for this artifact, or use" if lower else "Use")
        + " a milder step (a higher precision, more calibration rows).",
        show=show_difference(view),
    )


def _table(metrics: dict[str, Metric]) -> Table:
    words = {
        "kept_share@finds": "kept",
        "changed_class_share@finds": "of another class",
        "lost_share@finds": "lost",
        "new_share@finds": "new (of those now)",
        "negative_flip_rate@objects": "objects now missed",
        "positive_flip_rate@objects": "objects now found",
    }
    rows = tuple(
        (said, metrics[name].value, metrics[name].low, metrics[name].high)
        for name, said in words.items()
        if name in metrics
    )
    return Table("What became of the finds", ("finds", "measured share", "low", "high"), rows)


def _images(twice: FoundTwice, flips: Flips | None, shown: int) -> Table:
    """The images of which most finds changed."""
    moved = twice.lost + twice.new + twice.renamed
    order = np.argsort(-moved, kind="stable")[:shown]
    columns = ["id", "finds", "lost", "new", "of another class"]
    rows: list[tuple[Cell, ...]] = [
        (twice.ids[at], *(int(one[at]) for one in (twice.before, twice.lost, twice.new, twice.renamed)))
        for at in order[moved[order] > 0].tolist()
    ]
    if flips is not None:
        columns += ["objects missed", "objects won"]
        place = {int(position): at for at, position in enumerate(flips.position)}
        at = [place.get(int(position)) for position in twice.position[order[: len(rows)]]]
        rows = [
            (*row, *((None, None) if one is None else (int(flips.lost[one]), int(flips.won[one]))))
            for row, one in zip(rows, at, strict=True)
        ]
    return Table("Images that changed most", tuple(columns), tuple(rows))


def _summary(twice: FoundTwice, flips: Flips | None, score: float) -> str:
    finds = int(twice.before.sum())
    said = f"Of {counted(finds, 'find')} in {counted(len(twice), 'image')} with a score from {score:.2f} on, "
    said += f"{int(twice.kept.sum())} are found again, {int(twice.renamed.sum())} of another class, "
    said += f"{int(twice.lost.sum())} not at all; {int(twice.new.sum())} are new."
    if flips is not None:
        said += f" Objects that were found and are missed now: {int(flips.lost.sum())}; "
        said += f"the other way round: {int(flips.won.sum())}."
    else:
        said += " Without boxes as labels, right cannot be told from wrong."
    if twice.apart:
        said += f" {counted(twice.apart, 'image')} in one of the two tables alone are left out."
    return said
