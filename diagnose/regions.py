"""Figures of segmentations from the sums of the prediction table: overlaps, boundaries, objects."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.parted import Parted, paired_change, read_parted
from study.bootstrap import Floats, bootstrap
from study.record import Metric
from study.view import View

OBJECT: Final = 3
"""Numbers of an object: class, pixels, pixels that are right."""
THIRDS: Final = ("small", "medium", "large")


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Images with masks; everything has one entry an image.

    ``sums`` is (images, 3 x classes): pixels of each class, predicted as it, and both. ``boundary`` is the
    boundary F of each class, NaN where it has none. ``objects`` (n, 3) lie in the image ``owner`` (n,).
    """

    parted: Parted
    sums: Floats
    boundary: Floats
    objects: NDArray[np.int64]
    owner: NDArray[np.int64]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.sums.shape[1]) // 3


def read_regions(view: View) -> Regions:
    """The images of the view's ``predictions`` table that have a mask.

    Raises:
        SkipError: there is no table, or no pixel has a label.
    """
    parted = read_parted(view)
    assert parted.class_sums is not None
    table = view.table("predictions").filter((pl.col("parts") > 0) & pl.col("hits").is_not_null())
    frame = table.select("boundary", "objects").collect()
    counts = frame["objects"].list.len().to_numpy() // OBJECT
    flat = frame["objects"].explode(empty_as_null=False).drop_nulls().to_numpy()
    width = parted.class_sums.shape[1] // 3
    return Regions(
        parted,
        parted.class_sums,
        frame["boundary"].list.to_array(width).to_numpy().astype(np.float64),
        flat.reshape(-1, OBJECT).astype(np.int64),
        np.repeat(np.arange(len(frame)), counts),
    )


def overlaps(totals: Floats) -> tuple[Floats, Floats]:
    """(m, 3 x classes) sums -> intersection over union and Dice of each class, NaN where it has no pixel."""
    support, predicted, both = np.split(totals, 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return both / (support + predicted - both), 2 * both / (support + predicted)


def mean_overlaps(totals: Floats) -> Floats:
    """(m, 2): intersection over union and Dice, the means over the classes that occur."""
    return np.column_stack([_mean(one) for one in overlaps(totals)])


def region_metrics(regions: Regions) -> dict[str, Metric]:
    """``miou``, ``dice`` and ``boundary_f1``: means over the classes, with intervals over images."""
    groups = regions.parted.groups
    values = mean_overlaps(regions.sums.sum(axis=0, keepdims=True))[0]
    low, high = bootstrap(regions.sums, mean_overlaps, groups=groups)
    found = {
        name: _metric(values[at], low[at], high[at], len(regions.parted))
        for at, name in enumerate(("miou", "dice"))
    }
    there = np.isfinite(regions.boundary)
    if there.any():
        sums = np.hstack([np.where(there, regions.boundary, 0.0), there.astype(np.float64)])
        value = _boundary(sums.sum(axis=0, keepdims=True))[0, 0]
        least, most = bootstrap(sums, _boundary, groups=groups)
        found["boundary_f1"] = _metric(value, least[0], most[0], int(there.any(axis=1).sum()))
    return found


def class_overlaps(regions: Regions) -> tuple[Floats, Floats, Floats, Floats]:
    """Intersection over union of each class with its ends, and Dice; NaN where a class does not occur."""
    low, high = bootstrap(regions.sums, lambda totals: overlaps(totals)[0], groups=regions.parted.groups)
    iou, dice = overlaps(regions.sums.sum(axis=0, keepdims=True))
    return iou[0], np.fmin(low, iou[0]), np.fmax(high, iou[0]), dice[0]


def miou_change(before: Regions, after: Regions) -> Metric | None:
    """The paired change of the mean intersection over union, on the images that both have."""
    return paired_change(
        before.parted, after.parted, (before.sums, after.sums), lambda totals: mean_overlaps(totals)[:, :1]
    )


def by_size(regions: Regions) -> list[tuple[str, int, NDArray[np.bool_]]]:
    """The thirds of the objects by their pixels: what each is called, its number, and which they are."""
    sizes = regions.objects[:, 1]
    if len(sizes) < len(THIRDS):
        return []
    ends = np.quantile(sizes, [1 / 3, 2 / 3]).tolist()
    third = np.searchsorted(ends, sizes, side="left")
    found = []
    for at, name in enumerate(THIRDS):
        inside: NDArray[Any] = third == at
        if inside.any():
            found.append((f"{name} ({sizes[inside].min()} to {sizes[inside].max()})", at, inside))
    return found


def _boundary(totals: Floats) -> Floats:
    scores, images = np.split(totals, 2, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _mean(scores / images)[:, None]


def _mean(values: Floats) -> Floats:
    """Over what is a number; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis=1)
    total = np.where(there, values, 0.0).sum(axis=1)
    means: Floats = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return means


def _metric(value: float, low: float, high: float, n: int) -> Metric:
    return Metric(float(value), float(min(value, low)), float(max(value, high)), n, better="higher")
