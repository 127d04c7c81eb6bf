"""Each label of a multi-label task for itself: how well it is found, and where its threshold should lie."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diagnose.judged import Judged, Scores
from diagnose.ranking import average_precision
from study.bootstrap import Floats
from study.record import Metric
from study.statistics import count_units, from_influence, mean_interval, wilson

TWO: Final = 2
HALF: Final = 0.5
LEAST: Final = 20
"""Rows with a label, and without, from which a threshold is chosen on one half and judged on the other."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """A label's threshold: chosen on all rows, and what thresholds of halves gain on the other half.

    ``before`` is the F1 at a probability of a half, ``gain`` what it rises by. ``influence`` is the
    derivative of the gain by each row's weight.
    """

    label: int
    threshold: float
    before: float
    gain: Metric
    influence: Floats


def f1(positive: Flags, said: Flags) -> tuple[float, Floats]:
    """F1, and its derivative by each row's weight; zero where the label is neither there nor said."""
    whole = float(positive.sum() + said.sum())
    if not whole:
        return 0.0, np.zeros(len(positive))
    value = 2 * float((positive & said).sum()) / whole
    return value, (2.0 * (positive & said) - value * (positive.astype(np.float64) + said)) / whole


def f1_of(positive: Flags, said: Flags, groups: NDArray[Any] | None) -> Metric | None:
    """F1 with its interval; None where the label is neither there nor said."""
    if not (positive | said).any():
        return None
    value, influence = f1(positive, said)
    return from_influence(value, influence, groups=groups, better="higher")


def average_precision_of(positive: Flags, score: NDArray[Any], groups: NDArray[Any] | None) -> Metric | None:
    """Average precision with its interval; None where all rows have the label, or none has."""
    if not 0 < positive.sum() < len(positive):
        return None
    value, influence = average_precision(positive, score)
    return from_influence(value, influence, groups=groups, better="higher")


def best_threshold(positive: Flags, score: NDArray[Any]) -> float:
    """The threshold on these rows' scores with the highest F1; of equal ones the nearest to a half.

    It lies half-way between two scores that occur. What is above it is said.
    """
    values, tied = np.unique(score, return_inverse=True)
    hits = np.bincount(tied, weights=positive, minlength=len(values))
    counts = np.bincount(tied, minlength=len(values))
    caught, said = np.cumsum(hits[::-1])[::-1], np.cumsum(counts[::-1])[::-1]
    scores = 2 * caught / (said + positive.sum())
    under = values[0] / 2 if values[0] > 0 else np.nextafter(0.0, -1.0)  # below all, a probability of 0 too
    below = np.concatenate([[under], (values[:-1] + values[1:]) / 2])
    best = np.flatnonzero(np.isclose(scores, scores.max(), rtol=0, atol=1e-12))
    return float(below[best[np.argmin(np.abs(below[best] - HALF))]])


def chosen_thresholds(judged: Judged, scores: Scores, level: float = 0.95) -> list[Chosen]:
    """Each label's threshold with the highest F1, and its honest gain over a half.

    Each half of the rows (or groups) is decided by the threshold that was chosen on the other. The
    intervals hold for all labels at once (Bonferroni). Labels that fewer than ``LEAST`` rows have, or have
    not, are left out, and so are those that a half of the rows or groups lacks.
    """
    finite = judged.finite[scores.places]
    part, chance = judged.only(scores.places[finite]), scores.probabilities[finite]
    second = _second_half(part)
    found = []
    if part.units < TWO:
        return []
    for label in range(part.label.shape[1]):
        known = part.known[:, label]
        positive, score = part.label[known, label] == 1, chance[known, label]
        if min(positive.sum(), (~positive).sum()) < LEAST:
            continue
        halves = [second[known], ~second[known]]
        if not all(positive[half].any() and not positive[half].all() for half in halves):
            continue
        found.append((label, known, positive, score, halves))
    each = 1 - (1 - level) / max(1, len(found))
    return [_chosen(part, *one, level=each) for one in found]


def _chosen(
    part: Judged, label: int, known: Flags, positive: Flags, score: Floats, halves: list[Flags], level: float
) -> Chosen:
    said = np.zeros(len(score), dtype=np.bool_)
    for own, other in (halves, halves[::-1]):
        said[own] = score[own] > best_threshold(positive[other], score[other])
    before, was = f1(positive, score > HALF)
    after, now = f1(positive, said)
    groups = None if part.groups is None else part.groups[known]
    gain = change_of(after - before, now - was, groups=groups, level=level)
    influence = np.zeros(len(known))
    influence[known] = now - was
    return Chosen(label, best_threshold(positive, score), before, gain, influence)


def change_of(value: float, influence: Floats, *, groups: NDArray[Any] | None, level: float) -> Metric:
    """A change of a score with Student's interval; where no row adds to it, Wilson's of as many units.

    There must be two rows, or groups.
    """
    n = len(influence)
    if influence.any():
        low, high = mean_interval(value + n * influence, groups, level)
    else:
        high = wilson(0, count_units(n, groups), level)[1]
        low = -high
    return Metric(value, max(-1.0, low), min(1.0, high), n, "", "higher", level)


def _second_half(part: Judged) -> Flags:
    """Half of the rows, or groups, drawn by a fixed seed."""
    unit = np.arange(len(part)) if part.groups is None else np.unique(part.groups, return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(int(unit.max(initial=-1)) + 1)
    half: Flags = (order % 2 == 1)[unit]
    return half
