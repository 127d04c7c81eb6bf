"""Why a detector's mean average precision is not one: the error types of TIDE (Bolya et al. 2020)."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diagnose.average_precision import precisions
from diagnose.detected import HIT, IGNORED, LEAST_SHARED, MISS, OVERLAPS, Found, Matching, Places, match
from study.bootstrap import Floats

HALF: Final = float(OVERLAPS[0])
NONE: Final = -1
TYPES: Final = {
    "cls": "the box is right and the class wrong",
    "loc": "the class is right and the box too far off",
    "both": "the box is off and the class wrong",
    "dupe": "an object that a surer find has already",
    "bkg": "there is nothing",
    "missed": "an object that nothing was near",
}
"""The error types with what they mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """At an overlap of a half: the type of each find (empty: none), its object, and the missed objects."""

    matching: Matching
    type_: NDArray[np.str_]
    object_: Places
    """The object that a find of type ``cls`` or ``loc`` was meant for; else -1."""
    missed: NDArray[np.bool_]

    def count(self, name: str) -> int:
        """How many errors are of this type."""
        return int(self.missed.sum() if name == "missed" else (self.type_ == name).sum())


def errors_of(found: Found) -> Errors:
    """The type of every false find, each of one type alone, in the order of the paper's own code.

    An object is missed that no find matches and no find of type ``cls`` or ``loc`` was meant for.
    """
    matching = match(found, OVERLAPS[:1])
    find, truth, share = found.pairs
    counts = matching.counts[truth]
    is_same = found.class_[find] == found.truth_class[truth]
    same, own = _nearest(found, find, truth, np.where(counts & is_same, share, 0.0))
    other, foreign = _nearest(found, find, truth, np.where(counts & ~is_same, share, 0.0))
    type_ = np.select(
        [
            (same >= LEAST_SHARED) & (same < HALF),
            other >= HALF,
            same >= HALF,
            np.maximum(same, other) < LEAST_SHARED,
        ],
        ["loc", "cls", "dupe", "bkg"],
        "both",
    )
    # What is of a class that the data does not have belongs to no class's average precision.
    type_ = np.where((matching.outcome[0] == MISS) & (found.class_ >= 0), type_, "")
    object_ = np.where(type_ == "loc", own, np.where(type_ == "cls", foreign, NONE))
    missed = matching.counts & ~_used(found, matching)
    missed[object_[object_ != NONE]] = False
    return Errors(matching, type_, object_, missed)


def mended(found: Found, errors: Errors, name: str, weights: Floats) -> Floats:
    """The mean average precision of each look at an overlap of a half, were there no errors of this type.

    The surest find that was meant for a free object hits it; every other error is taken away, and a missed
    object does not count.
    """
    matching, class_ = errors.matching, found.class_
    if name == "missed":
        matching = replace(matching, counts=matching.counts & ~errors.missed)
        mean = precisions(found, matching, weights).mean()
        return np.where(np.isfinite(mean), mean, 1.0)  # no object is left that could be missed
    wrong = np.flatnonzero(errors.type_ == name)
    outcome = matching.outcome.copy()
    outcome[0, wrong] = IGNORED
    meant = wrong[errors.object_[wrong] != NONE]
    meant = meant[~_used(found, matching)[errors.object_[meant]]]
    meant = meant[np.argsort(-found.score[meant], kind="stable")]
    objects, first = np.unique(errors.object_[meant], return_index=True)
    surest = meant[first]
    outcome[0, surest] = HIT
    class_ = class_.copy()
    class_[surest] = found.truth_class[objects]
    return precisions(replace(found, class_=class_), replace(matching, outcome=outcome), weights).mean()


def _used(found: Found, matching: Matching) -> NDArray[np.bool_]:
    used = np.zeros(len(found.truth_class), dtype=bool)
    used[matching.truth[0][matching.outcome[0] == HIT]] = True
    return used


def _nearest(found: Found, find: Places, truth: Places, share: Floats) -> tuple[Floats, Places]:
    """Of each find the largest overlap and its object; 0 and -1 where there is none."""
    overlap = np.zeros(len(found.score))
    object_ = np.full(len(found.score), NONE, dtype=np.int64)
    order = np.argsort(share, kind="stable")  # the last one written is the largest
    order = order[share[order] > 0]
    overlap[find[order]] = share[order]
    object_[find[order]] = truth[order]
    return overlap, object_
