"""The prediction table of a detector as flat arrays, and which finds match which objects."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.judged import codes_of
from study.boxes import Floats, areas_of, shared
from study.errors import SkipError
from study.task import Task
from study.view import View

Places: TypeAlias = NDArray[np.int64]
OVERLAPS: Final = np.linspace(0.5, 0.95, 10)
MOST: Final = 100
"""Finds of one class in one image that are counted, the surest first (COCO's maxDets)."""
AT_ONCE: Final = 4_000_000
KEPT: Final = 2
"""Tables that are kept as read: several checks read that of an artifact and that of the model as it came."""
LEAST_SHARED: Final = 0.1
"""What shares less with an object has nothing to do with it."""
HIT, MISS, IGNORED = 1, 0, -1
TWO: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Images with objects (``truth_*``) and finds, flat, in order of image; ``*_image`` are places of images.

    Finds are the surest first within an image and class, at most 100 of each. A class of -1 is one that the
    data does not have. ``pairs`` are find, object and overlap, of those in one image that share a tenth.
    """

    task: Task
    position: Places
    groups: Places | None
    truth_image: Places
    truth_box: Floats
    truth_class: Places
    truth_area: Floats
    truth_crowd: NDArray[np.bool_]
    image: Places
    box: Floats
    class_: Places
    score: Floats
    area: Floats
    pairs: tuple[Places, Places, Floats]
    lost: Places
    unlabelled: int

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """For each overlap (first axis) what each find is, and the object that it matches (-1: none)."""

    outcome: NDArray[np.int8]
    truth: NDArray[np.int32]
    counts: NDArray[np.bool_]
    """The objects that count: no crowd, and of the size that is asked for."""


def read_found(view: View) -> Found:
    """The labelled images of the view's ``predictions`` table.

    Raises:
        SkipError: there is no table, or no image has a label.
    """
    view.table("predictions")
    path = view.artifact.folder / "predictions.parquet"
    stat = path.stat()
    return _read(path, (stat.st_mtime_ns, stat.st_size), view.task)


@lru_cache(maxsize=KEPT)
def _read(path: Path, _stamp: tuple[int, int], task: Task) -> Found:
    frame = pl.read_parquet(path).sort("position")
    labelled = frame.filter(pl.col("parts").is_not_null())
    if not len(labelled):
        raise SkipError("no image has boxes as its label")
    truth_image, truth_box = owners(labelled["truth_class"]), flat(labelled["truth_box"]).reshape(-1, 4)
    crowd = flat(labelled["truth_crowd"]).astype(bool)
    image, box = owners(labelled["class"]), flat(labelled["box"]).reshape(-1, 4)
    class_, score = flat(labelled["class"]).astype(np.int64), flat(labelled["score"])
    order = np.lexsort((-score, class_, image))
    order = order[_rank(image[order], class_[order]) < MOST]
    image, box = image[order], box[order]
    return Found(
        task=task,
        position=labelled["position"].to_numpy(),
        groups=codes_of(labelled["group"]) if "group" in frame.columns else None,
        truth_image=truth_image,
        truth_box=truth_box,
        truth_class=flat(labelled["truth_class"]).astype(np.int64),
        truth_area=flat(labelled["truth_area"]),
        truth_crowd=crowd,
        image=image,
        box=box,
        class_=class_[order],
        score=score[order],
        area=areas_of(box),
        pairs=pairs_within(len(labelled), image, box, truth_image, truth_box, crowd),
        lost=np.flatnonzero(labelled["lost"].to_numpy()),
        unlabelled=len(frame) - len(labelled),
    )


def require_objects(found: Found) -> None:
    """What average precision with an interval needs.

    Raises:
        SkipError: there is one image (or group) alone, or no object.
    """
    if len(np.unique(found.position if found.groups is None else found.groups)) < TWO:
        raise SkipError("an interval needs two images (or groups) with boxes as labels")
    if not (~found.truth_crowd & (found.truth_class >= 0)).any():
        raise SkipError("no image has an object that could be found")


def match(found: Found, overlaps: Floats = OVERLAPS, sizes: tuple[float, float] = (0.0, np.inf)) -> Matching:
    """Match finds with objects of their class greedily, the surest find first, as COCO's own evaluation does.

    Objects outside ``sizes`` (areas, both ends included) are ignored, as crowds are, and so are finds that
    match ignored objects and finds outside of ``sizes`` that match none.
    """
    low, high = sizes
    ignored = found.truth_crowd | (found.truth_area < low) | (found.truth_area > high)
    find, truth, share = found.pairs
    chosen = (found.class_[find] == found.truth_class[truth]) & (share >= min(overlaps.min(), 1 - 1e-10))
    find, truth, share = find[chosen], truth[chosen], share[chosen]
    # Of one find: objects that count before ignored ones, then the largest overlap, then the last object.
    order = np.lexsort((-truth, -share, ignored[truth], find))
    find, truth, share = find[order], truth[order], share[order]
    matched = np.full((len(overlaps), len(found.score)), -1, dtype=np.int32)
    free = np.ones((len(overlaps), len(found.truth_class)), dtype=bool)
    least = np.minimum(overlaps, 1 - 1e-10)[:, None]
    paired, start = np.unique(find, return_index=True)
    turn = _rank(found.image[paired], found.class_[paired])  # one find of each image and class at a time
    stop = np.append(start[1:], len(find))
    for now in range(int(turn.max(initial=-1)) + 1):
        here = turn == now
        lengths = stop[here] - start[here]
        begins = np.cumsum(lengths) - lengths
        at = np.repeat(start[here] - begins, lengths) + np.arange(lengths.sum())
        open_ = (share[at] >= least) & (free[:, truth[at]] | found.truth_crowd[truth[at]])
        rank = np.where(open_, np.arange(len(at)), len(at))
        first = np.minimum.reduceat(rank, begins, axis=1)
        level, place = np.nonzero(first < len(at))
        taken = truth[at[first[level, place]]]
        matched[level, paired[here][place]] = taken
        free[level, taken] = False
    outside = (found.area < low) | (found.area > high)
    there = matched >= 0
    left_out = np.append(ignored, False)[matched]  # -1 is the last
    outcome = np.where(there, np.where(left_out, IGNORED, HIT), np.where(outside, IGNORED, MISS))
    return Matching(outcome.astype(np.int8), matched, ~ignored)


def only_sure(found: Found, score: float) -> Found:
    """The finds that are at least so sure."""
    sure = found.score >= score
    place = np.cumsum(sure) - 1
    find, truth, share = found.pairs
    kept = sure[find]
    return replace(
        found,
        image=found.image[sure],
        box=found.box[sure],
        class_=found.class_[sure],
        score=found.score[sure],
        area=found.area[sure],
        pairs=(place[find[kept]], truth[kept], share[kept]),
    )


def best_score(found: Found) -> float:
    """The score from which finds together have the best F1 at an overlap of a half.

    Halfway between the last that counts and the next, so that a rounding moves neither over it.
    """
    matching = match(found, OVERLAPS[:1])
    outcome = matching.outcome[0]
    order = np.flatnonzero(outcome != IGNORED)
    order = order[np.argsort(-found.score[order], kind="stable")]
    if not len(order):
        return 0.5
    right = (outcome[order] == HIT).cumsum()
    f1 = 2 * right / (np.arange(1, len(order) + 1) + int(matching.counts.sum()))
    score = found.score[order]
    f1[np.append(score[1:] == score[:-1], False)] = -1.0  # finds of one score are taken together
    last = int(f1.argmax())
    return float(score[last : last + 2].mean())


def pairs_within(
    images: int,
    image: Places,
    box: Floats,
    truth_image: Places,
    truth_box: Floats,
    crowd: NDArray[np.bool_],
) -> tuple[Places, Places, Floats]:
    """Find, object and overlap: every find with every object of its image; those that share a tenth."""
    objects = np.bincount(truth_image, minlength=images)
    begins = np.cumsum(objects) - objects
    each = objects[image]
    parts = []
    piece_of = np.cumsum(each) // AT_ONCE
    for piece in np.unique(piece_of):
        finds = np.flatnonzero(piece_of == piece)
        many = each[finds]
        find = np.repeat(finds, many)
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        truth = begins[image[find]] + within
        share = shared(box[find], truth_box[truth], crowd[truth])
        kept = share >= LEAST_SHARED
        parts.append((find[kept], truth[kept], share[kept]))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    find, truth, share = (np.concatenate(one) for one in zip(*parts, strict=True))
    return find, truth, share


def _rank(image: Places, class_: Places) -> Places:
    """The place of each among its neighbours of the same image and class; sorted by both."""
    if not len(image):
        return np.zeros(0, np.int64)
    new = np.append(True, (image[1:] != image[:-1]) | (class_[1:] != class_[:-1]))
    starts = np.flatnonzero(new)
    return np.arange(len(image)) - np.repeat(starts, np.diff(np.append(starts, len(image))))


def owners(lists: pl.Series) -> Places:
    """The place of the list of each entry."""
    return np.repeat(np.arange(len(lists)), lists.list.len().to_numpy()).astype(np.int64)


def flat(lists: pl.Series) -> NDArray[Any]:
    """All entries, without those that ``explode`` would put in the place of empty lists."""
    values = lists.filter(lists.list.len() > 0).explode().to_numpy()
    return np.asarray(values, dtype=np.float64)
