"""Average precision as COCO defines it, of the images as they are and of images drawn again."""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diagnose.detected import HIT, IGNORED, OVERLAPS, Found, Matching
from study.bootstrap import Floats
from study.record import Metric
from study.statistics import wilson

Counts: TypeAlias = NDArray[Any]
"""Whole numbers as floats, of 32 bits where these hold them."""
RECALLS: Final = np.linspace(0.0, 1.0, 101)
"""Precision is averaged over these."""
REPLICATES: Final = 200
EXACT: Final = 2**24
"""Whole numbers below it are exact in float32."""
NORMAL: Final = 1.959963984540054


@dataclass(frozen=True, slots=True, eq=False)
class Precisions:
    """Average precision (overlaps, classes, looks), NaN where a look has no object of a class.

    The first look is the images as they are, the others are images drawn again.
    """

    values: Floats
    images: int

    def mean(self, overlaps: "NDArray[Any] | slice" = slice(None), classes: Any = slice(None)) -> Floats:
        """Of each look over overlaps and classes that it has objects of."""
        part = self.values[overlaps][:, classes].reshape(-1, self.values.shape[2])
        there = np.isfinite(part)
        with np.errstate(invalid="ignore"):
            means: Floats = np.where(there, part, 0.0).sum(axis=0) / there.sum(axis=0)
        return means


def weights_of(images: int, groups: NDArray[np.int64] | None, seed: int = 0) -> Floats:
    """How often each image is in each look (looks, images); whole groups are drawn where there are any."""
    random = np.random.default_rng(seed)
    units = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max(initial=-1)) + 1
    drawn = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(REPLICATES)]
    return np.vstack([np.ones((1, images)), np.array(drawn, dtype=np.float64)[:, units]])


def precisions(found: Found, matching: Matching, weights: Floats) -> Precisions:
    """Of every class of the task, at each overlap of the matching."""
    overlaps, looks = len(matching.outcome), len(weights)
    values = np.full((overlaps, len(found.task.classes), looks), np.nan)
    counted = matching.counts
    for class_ in range(values.shape[1]):
        own = counted & (found.truth_class == class_)
        objects = weights[:, found.truth_image[own]].sum(axis=1)
        if not own.any():
            continue
        finds = np.flatnonzero((found.class_ == class_) & (matching.outcome != IGNORED).any(axis=0))
        finds = finds[np.argsort(-found.score[finds], kind="stable")]
        exact = weights.max() * len(finds) < EXACT
        drawn = weights[:, found.image[finds]].astype(np.float32 if exact else np.float64)
        every = drawn.cumsum(axis=1)
        for level in range(overlaps):
            outcome = matching.outcome[level, finds]
            values[level, class_] = _average(outcome, drawn, every, objects)
    return Precisions(values, len(found))


def _average(outcome: NDArray[np.int8], drawn: Counts, every: Counts, objects: Floats) -> Floats:
    """Of each look (its weights a row): the mean over 101 recalls of the best precision from there on."""
    hits, left_out = np.flatnonzero(outcome == HIT), np.flatnonzero(outcome == IGNORED)
    right = drawn[:, hits].cumsum(axis=1).astype(np.float64)
    if 2 * len(left_out) > len(outcome):
        counts = np.flatnonzero(outcome != IGNORED)
        counted = _up_to(counts, hits, drawn)
    else:
        counted = every[:, hits].astype(np.float64) - _up_to(left_out, hits, drawn)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = right / objects[:, None]
        precision = np.where(right > 0, right / counted, 0.0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, np.nan_to_num(recall), side="right")
    first = np.diff(np.where(recall > 0, reached, 0), axis=1, prepend=0)
    return np.where(objects > 0, (best * first).sum(axis=1) / len(RECALLS), np.nan)


def _up_to(finds: NDArray[np.int64], places: NDArray[np.int64], drawn: Counts) -> Floats:
    """How many of these finds each look has up to each of the places."""
    sums = drawn[:, finds].cumsum(axis=1)
    before = np.searchsorted(finds, places, side="right")
    return np.where(before > 0, sums[:, before - 1] if len(finds) else 0.0, 0.0).astype(np.float64)


def interval(looks: Floats, images: int, level: float = 0.95) -> Metric:
    """The value of the first look with the spread of the others, on the logit scale.

    Centred on the value, since the mean of the looks is off by what drawing images twice does to a ranking.
    """
    value, others = float(looks[0]), looks[1:][np.isfinite(looks[1:])]
    spread = float(others.std(ddof=1)) if len(others) > 1 else 0.0
    if spread == 0 or not 0 < value < 1:
        low, high = wilson(value * images, images, level)
    else:
        odds, half = np.log(value / (1 - value)), NORMAL * spread / (value * (1 - value))
        low, high = (float(1 / (1 + np.exp(-end))) for end in np.clip((odds - half, odds + half), -700, 700))
    return Metric(value, min(low, value), max(high, value), images, "", "higher", level)


def change(before: Floats, after: Floats, images: int) -> Metric:
    """What the first look changed by, with the spread over looks that drew the same images for both."""
    value = float(after[0] - before[0])
    apart = (after - before)[1:]
    apart = apart[np.isfinite(apart)]
    half = NORMAL * float(apart.std(ddof=1)) if len(apart) > 1 else 1.0
    if half == 0:
        half = wilson(0, images)[1]
    return Metric(value, max(-1.0, value - half), min(1.0, value + half), images, "", "higher")


LEVELS: Final = {"map50": 0, "map75": int(np.flatnonzero(np.isclose(OVERLAPS, 0.75))[0])}
"""Places in ``OVERLAPS``."""
