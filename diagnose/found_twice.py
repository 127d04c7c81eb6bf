"""What became of a detector's finds: those of two prediction tables, paired image by image."""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.detected import HIT, OVERLAPS, Found, Places, flat, match, only_sure, owners, pairs_within
from study.boxes import Floats
from study.compare import groups_of

Counts: TypeAlias = NDArray[np.int64]
HALF: Final = float(OVERLAPS[0])


@dataclass(frozen=True, slots=True, eq=False)
class FoundTwice:
    """Images that are in both tables, in order of position; every array has one entry an image.

    Of the finds ``before``, ``kept`` ones have one ``after`` of their class on them, ``renamed`` ones one of
    another class; the others are lost, and those after that are paired with none are new. ``overlap`` and
    ``shift`` are sums over kept finds: of the overlap, and of the score after less that before.
    """

    position: Places
    ids: tuple[str, ...]
    before: Counts
    after: Counts
    kept: Counts
    renamed: Counts
    overlap: Floats
    shift: Floats
    groups: NDArray[Any] | None
    apart: int
    """Images that are in one table alone."""

    def __len__(self) -> int:
        return len(self.position)

    @property
    def lost(self) -> Counts:
        """Finds that nothing is on any more."""
        return self.before - self.kept - self.renamed

    @property
    def new(self) -> Counts:
        """Finds where nothing was."""
        return self.after - self.kept - self.renamed


def join_finds(before: pl.LazyFrame, after: pl.LazyFrame, score: float) -> FoundTwice:
    """Pair the finds that are at least so sure: greedy, the largest overlap first, from a half on.

    First among finds of one class, then what is left of any class.
    """
    names = after.collect_schema().names()
    more = [name for name in ("id", "group") if name in names]
    finds = ("class", "score", "box")
    first = before.select("position", *finds).collect()
    second = after.select("position", *more, **{f"{name}_after": name for name in finds}).collect()
    frame = first.join(second, on="position").sort("position")
    count = frame.height
    one = _Finds.of(frame["class"], frame["score"], frame["box"], score)
    two = _Finds.of(frame["class_after"], frame["score_after"], frame["box_after"], score)
    no_crowd = np.zeros(len(two.image), dtype=bool)
    left, right, share = pairs_within(count, one.image, one.box, two.image, two.box, no_crowd)
    near = share >= HALF
    left, right, share = left[near], right[near], share[near]
    same = one.class_[left] == two.class_[right]
    paired = _greedy(left, right, share, same)
    kept, renamed = paired & same, paired & ~same

    def summed(pairs: NDArray[np.bool_], values: Floats | None = None) -> Floats:
        return np.bincount(one.image[left[pairs]], values, count).astype(np.float64)

    return FoundTwice(
        position=frame["position"].to_numpy(),
        ids=tuple(frame["id"].to_list()),
        before=np.bincount(one.image, minlength=count),
        after=np.bincount(two.image, minlength=count),
        kept=summed(kept).astype(np.int64),
        renamed=summed(renamed).astype(np.int64),
        overlap=summed(kept, share[kept]),
        shift=summed(kept, two.score[right[kept]] - one.score[left[kept]]),
        groups=groups_of(frame),
        apart=first.height + second.height - 2 * count,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Flips:
    """Of each image: its objects, those found before, and found after. ``position`` is in order."""

    position: Places
    objects: Counts
    found_before: Counts
    found_after: Counts
    lost: Counts
    won: Counts
    groups: Places | None


def object_flips(came: Found, now: Found, score: float) -> Flips | None:
    """Which objects were found, at an overlap of a half and at least so sure, and are not now, or conversely.

    None where the two were judged on other images.
    """
    if not np.array_equal(came.position, now.position) or len(came.truth_class) != len(now.truth_class):
        return None
    was, counts = _hit(came, score)
    has, _ = _hit(now, score)

    def summed(objects: NDArray[np.bool_]) -> Counts:
        return np.bincount(now.truth_image[objects & counts], minlength=len(now))

    return Flips(
        now.position,
        summed(counts),
        summed(was),
        summed(has),
        summed(was & ~has),
        summed(has & ~was),
        now.groups,
    )


def _hit(found: Found, score: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which objects are found, and which of them count."""
    matching = match(only_sure(found, score), OVERLAPS[:1])
    hit = np.zeros(len(found.truth_class), dtype=bool)
    hit[matching.truth[0][matching.outcome[0] == HIT]] = True
    return hit, matching.counts


@dataclass(frozen=True, slots=True, eq=False)
class _Finds:
    """Of all images, flat."""

    image: Places
    class_: Places
    score: Floats
    box: Floats

    @classmethod
    def of(cls, class_: pl.Series, score: pl.Series, box: pl.Series, least: float) -> "_Finds":
        sure = flat(score)
        there = sure >= least
        image, boxes = owners(score)[there], flat(box).reshape(-1, 4)[there]
        return cls(image, flat(class_)[there].astype(np.int64), sure[there], boxes)


def _greedy(left: Places, right: Places, share: Floats, same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pairs that are taken: each find once, those of one class first, then by their overlap."""
    taken = np.zeros(len(left), dtype=bool)
    of_left, of_right = set[int](), set[int]()
    for at in np.lexsort((right, left, -share, ~same)).tolist():
        if left[at] not in of_left and right[at] not in of_right:
            taken[at] = True
            of_left.add(left[at])
            of_right.add(right[at])
    return taken
