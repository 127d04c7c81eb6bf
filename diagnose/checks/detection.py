"""How well objects are found: mean average precision, and precision and recall at one score."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
from numpy.typing import NDArray

from diagnose.average_precision import LEVELS, Precisions, change, interval, precisions, weights_of
from diagnose.check import Check
from diagnose.detected import (
    HIT,
    IGNORED,
    Found,
    Matching,
    best_score,
    match,
    read_found,
    require_objects,
)
from diagnose.fallen import points_fallen
from study.bootstrap import Floats
from study.errors import counted
from study.record import Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_figures
from study.statistics import share_of_parts
from study.task import Kind
from study.view import View

SIZES: Final = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Areas in pixels, as COCO has them."""
FEW_OBJECTS: Final = 10
"""Of fewer, none may be found by bad luck."""


@final
@dataclass(frozen=True, slots=True)
class Detection(Check):
    """How well objects are found (mean average precision, as COCO measures it)."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"detection"})

    drop: float = 0.01
    """A drop of the mean average precision since the model as it came that matters."""
    shown: int = 100

    def check(self, view: View) -> Record:
        found = read_found(view)
        require_objects(found)
        weights = weights_of(len(found), found.groups)
        matching = match(found)
        whole = precisions(found, matching, weights)
        metrics = _means(whole) | _by_size(found, weights)
        score = best_score(read_found(view.origin) if view.origin else found)
        metrics |= _at_score(found, matching, score)
        table = _by_class(found, whole, self.shown)
        findings = [*_not_finite(view, found), *_nothing(view, found, matching)]
        verdict = Verdict.BAD if findings else Verdict.NOTED
        summary = _summary(found, metrics)
        if view.origin is not None:
            compared = self._compared(view, found, whole, weights)
            metrics |= compared.metrics
            summary, findings = f"{summary} {compared.summary}", [*findings, *compared.findings]
            verdict = Verdict.BAD if findings else compared.verdict
        title = "Average precision by class"
        picture = Picture(title, "bars", title, "The average precision of each class, the lowest first.")
        return Record("detection", verdict, summary, "", metrics, tuple(findings), (table,), (picture,))

    def _compared(self, view: View, now: Found, whole: Precisions, weights: Floats) -> Record:
        """The change on the images that both tables have, drawn alike for both."""
        assert view.origin is not None
        came = read_found(view.origin)
        if not np.array_equal(now.position, came.position):
            said = "The model as it came was judged on other images."
            return Record("detection", Verdict.NOTED, said)
        before = precisions(came, match(came), weights).mean()
        moved = change(before, whole.mean(), len(now))
        metrics = {"map@change": moved}
        said = f"Against the model as it came: {100 * moved.value:+.2f} points"
        said += f" [{100 * moved.low:+.2f}, {100 * moved.high:+.2f}]."
        if not (moved.high < 0 and moved.value <= -self.drop):
            sure = moved.low > -self.drop
            said += "" if sure else f" A drop of {100 * self.drop:g} points cannot be excluded."
            return Record("detection", Verdict.GOOD if sure else Verdict.NOTED, said, metrics=metrics)
        fault = points_fallen(view, "The mean average precision", moved, len(now))
        return Record("detection", Verdict.BAD, said, metrics=metrics, findings=(fault,))


def _means(whole: Precisions) -> dict[str, Metric]:
    metrics = {"map": interval(whole.mean(), whole.images)}
    for name, level in LEVELS.items():
        metrics[name] = interval(whole.mean(slice(level, level + 1)), whole.images)
    return metrics


def _by_size(found: Found, weights: Floats) -> dict[str, Metric]:
    """Objects of other sizes are ignored; a size without objects has no metric."""
    metrics = {}
    for name, sizes in SIZES.items():
        part = precisions(found, match(found, sizes=sizes), weights)
        if np.isfinite(part.values[..., 0]).any():
            metrics[f"map@{name}"] = interval(part.mean(), part.images)
    return metrics


def _at_score(found: Found, matching: Matching, score: float) -> dict[str, Metric]:
    """Precision and recall at an overlap of a half, of the finds that are at least as sure as this."""
    outcome = matching.outcome[0]
    taken = (found.score >= score) & (outcome != IGNORED)
    images = len(found)
    hits = np.bincount(found.image[taken & (outcome == HIT)], minlength=images)
    finds = np.bincount(found.image[taken], minlength=images)
    objects = np.bincount(found.truth_image[matching.counts], minlength=images)
    metrics = {"score@best_f1": Metric.exact(score, images)}
    for name, parts in (("precision@best_f1", finds), ("recall@best_f1", objects)):
        if parts.any():
            metrics[name] = share_of_parts(hits, parts, groups=found.groups, better="higher")
    return metrics


def _by_class(found: Found, whole: Precisions, shown: int) -> Table:
    objects = _counts(found.truth_class[~found.truth_crowd], len(found.task.classes))
    rows = []
    for class_ in np.flatnonzero(np.isfinite(whole.values[0, :, 0])).tolist():
        one = interval(whole.mean(classes=slice(class_, class_ + 1)), whole.images)
        name = found.task.classes[class_]
        half = float(whole.values[0, class_, 0])
        rows.append((name, one.value, one.low, one.high, half, int(objects[class_])))
    rows.sort(key=lambda row: row[1])
    columns = ("class", "average precision", "low", "high", "at overlap 0.5", "objects")
    return Table("Average precision by class", columns, tuple(rows[:shown]))


def _counts(classes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.bincount(classes[classes >= 0], minlength=count)


def _summary(found: Found, metrics: dict[str, Metric]) -> str:
    one = metrics["map"]
    objects = counted(int((~found.truth_crowd).sum()), "object")
    said = f"The mean average precision is {100 * one.value:.2f} %"
    said += f" [{100 * one.low:.2f}, {100 * one.high:.2f}] on {objects} in {len(found)} images"
    said += f"; at an overlap of a half it is {100 * metrics['map50'].value:.2f} %."
    other = int((found.class_ < 0).sum())
    said += (
        f" {counted(other, 'find')} of classes that the data does not have are left aside." if other else ""
    )
    said += f" {counted(found.unlabelled, 'image')} without boxes as a label." if found.unlabelled else ""
    return said


def _nothing(view: View, found: Found, matching: Matching) -> list[Finding]:
    """Where not one object is found, boxes or classes are seldom what they are taken for."""
    objects = np.bincount(found.truth_image[matching.counts], minlength=len(found))
    if objects.sum() < FEW_OBJECTS or (matching.outcome[0] == HIT).any():
        return []
    return [
        Finding(
            f"Not one of {objects.sum()} objects is found: no box of the right class overlaps one by a half.",
            rows=len(found),
            effect=share_of_parts(np.zeros(len(found)), objects, groups=found.groups, better="higher"),
            cause="Boxes in another unit or order, classes numbered otherwise, images fed otherwise than in "
            "training, or a model that has not learnt it.",
            do="Read above how the outputs were taken, and give --classes in the order of the model's.",
            show=show_figures(view),
        )
    ]


def _not_finite(view: View, found: Found) -> list[Finding]:
    if not len(found.lost):
        return []
    return [
        Finding(
            f"In {counted(len(found.lost), 'image')} boxes or scores are NaN or infinite; they are left out.",
            rows=len(found.lost),
            effect=Metric.exact(len(found.lost) / len(found), len(found), better="lower"),
            cause="NaN or overflow in the weights or on the way to the output.",
            do="Look at the health of the weights; in half precision, at what exceeds 65504.",
            show=show_figures(view),
        )
    ]
