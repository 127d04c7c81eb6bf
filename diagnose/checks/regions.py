"""How well the regions of a segmentation are met."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from diagnose.check import Check
from diagnose.fallen import points_fallen
from diagnose.judged import class_name
from diagnose.parted_confusion import confusion_of_parts
from diagnose.regions import (
    Regions,
    by_size,
    class_overlaps,
    miou_change,
    read_regions,
    region_metrics,
)
from study.errors import SkipError, counted
from study.record import Cell, Finding, Picture, Record, Table, Verdict
from study.statistics import share_of_parts
from study.task import Kind
from study.view import View


@final
@dataclass(frozen=True, slots=True)
class RegionsOfClasses(Check):
    """How well the regions of each class are met: intersection over union, boundaries, objects by size."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"segmentation"})

    drop: float = 0.01
    """A drop of the mean intersection over union since the model as it came that matters."""
    shown: int = 20
    """Classes in the confusion: the most confused ones where there are more."""

    def check(self, view: View) -> Record:
        regions = read_regions(view)
        if regions.parted.units < 2:  # noqa: PLR2004 - an interval needs two
            raise SkipError("an interval needs two images (or groups)")
        metrics = region_metrics(regions)
        miou = metrics["miou"]
        summary = f"The mean intersection over union is {100 * miou.value:.2f} % "
        summary += (
            f"[{100 * miou.low:.2f}, {100 * miou.high:.2f}] over {counted(len(regions.parted), 'image')}"
        )
        if "boundary_f1" in metrics:
            summary += (
                f"; boundaries are met with an F of {100 * metrics['boundary_f1'].value:.1f} % (a boundary "
                "may be off by 0.75 % of the diagonal, and a pixel at least)"
            )
        verdict, findings = Verdict.NOTED, list[Finding]()
        change = None if view.origin is None else miou_change(read_regions(view.origin), regions)
        if change is not None:
            metrics["miou@change"] = change
            summary += f". Against the model as it came: {100 * change.value:+.2f} points"
            summary += f" [{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
            if change.high < 0 and change.value <= -self.drop:
                fault = points_fallen(
                    view, "The mean intersection over union", change, change.n, recovers=False
                )
                verdict, findings = Verdict.BAD, [fault]
            elif change.low > -self.drop:
                verdict = Verdict.GOOD
        classes, sizes, confusion = (
            _classes(regions),
            _sizes(regions),
            confusion_of_parts(view, regions.classes, self.shown),
        )
        pictures = [Picture(classes.title, "bars", classes.title, "The classes, the worst first.")]
        if sizes.rows:
            pictures.append(
                Picture(sizes.title, "bars", sizes.title, "Whether small objects are found as well.")
            )
        told = "Rows are what the pixels are, columns what they are taken for, as shares of the row."
        pictures.append(Picture(confusion.title, "heatmap", confusion.title, told))
        tables = tuple(table for table in (classes, sizes, confusion) if table.rows)
        return Record(
            "regions", verdict, f"{summary}.", "", metrics, tuple(findings), tables, tuple(pictures)
        )


def _classes(regions: Regions) -> Table:
    """A line a class that occurs, the worst first."""
    iou, low, high, dice = class_overlaps(regions)
    there = np.isfinite(regions.boundary)
    images = there.sum(axis=0)
    totals = np.where(there, regions.boundary, 0.0).sum(axis=0)
    support = regions.sums.sum(axis=0)[: regions.classes]
    rows: list[tuple[Cell, ...]] = []
    for index in np.argsort(np.where(np.isfinite(iou), iou, np.inf), kind="stable").tolist():
        if not np.isfinite(iou[index]):
            continue
        boundary = float(totals[index] / images[index]) if images[index] else None
        name = class_name(regions.parted.task, index)
        ends = (float(iou[index]), float(low[index]), float(high[index]))
        rows.append((name, *ends, float(dice[index]), boundary, int(support[index])))
    columns = ("class", "IoU", "low", "high", "Dice", "boundary F", "pixels")
    return Table("Intersection over union of each class", columns, tuple(rows))


def _sizes(regions: Regions) -> Table:
    """How many pixels of the objects are right, by thirds of their size."""
    groups = regions.parted.groups
    owner = regions.owner if groups is None else groups[regions.owner]
    rows: list[tuple[Cell, ...]] = []
    for name, _, inside in by_size(regions):
        pixels, right = regions.objects[inside, 1], regions.objects[inside, 2]
        share = share_of_parts(right, pixels, groups=owner[inside], better="higher")
        rows.append((name, share.value, share.low, share.high, int(inside.sum())))
    title = "Share of the pixels that are right, by size of the object"
    return Table(title, ("pixels of the object", "right", "low", "high", "objects"), tuple(rows))
