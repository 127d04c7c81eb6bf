"""What is wrong with the entities that a tagger finds or misses: the kind of each error, and its cost."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diagnose.entities import Entities, Spans, over_types
from study.bootstrap import Floats, bootstrap
from study.record import Metric

NONE: Final = -1
KINDS: Final = {
    "missed": "nothing is found where an entity is tagged",
    "spurious": "an entity is found where none is tagged",
    "type": "the words are right, and the type is another",
    "boundary": "the type is right, and some of the words are",
    "both": "some of the words are right, and the type is another",
}
NUMBERS: Final = {name: at for at, name in enumerate(KINDS)}


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Every entity that is missed or wrongly found, once; all arrays have one entry an error.

    ``there`` and ``found`` are places among the entities that are tagged and found, ``NONE`` where the error
    has none; ``row`` counts within the sentences.
    """

    kind: NDArray[np.int64]
    row: NDArray[np.int64]
    there: NDArray[np.int64]
    found: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kind)

    def of(self, name: str) -> NDArray[np.bool_]:
        """Which ones are of this kind."""
        return np.asarray(self.kind == NUMBERS[name])


def errors_of(entities: Entities) -> Errors:
    """Each tagged entity that is not found goes with one that overlaps it and is found wrongly, if any.

    Of several the one with the same words goes first, then one of its type, then the one that shares most
    words with it.
    """
    there, found = entities.there, entities.found
    lost = np.flatnonzero(~np.isin(there.keys, found.keys))
    wrong = np.flatnonzero(~np.isin(found.keys, there.keys))
    kinds: list[int] = []
    places: list[tuple[int, int]] = []
    free_lost, free_wrong = set(lost.tolist()), set(wrong.tolist())
    for kind, one, other in _pairs(there, found, lost, wrong):
        if one in free_lost and other in free_wrong:
            free_lost.remove(one)
            free_wrong.remove(other)
            kinds.append(kind)
            places.append((one, other))
    kinds += [NUMBERS["missed"]] * len(free_lost) + [NUMBERS["spurious"]] * len(free_wrong)
    places += [(one, NONE) for one in sorted(free_lost)] + [(NONE, other) for other in sorted(free_wrong)]
    pairs = np.array(places, dtype=np.int64).reshape(-1, 2)
    row = np.where(pairs[:, 0] != NONE, _taken(there.row, pairs[:, 0]), _taken(found.row, pairs[:, 1]))
    order = np.lexsort((pairs[:, 1], pairs[:, 0], row))
    return Errors(np.array(kinds, dtype=np.int64)[order], row[order], pairs[order, 0], pairs[order, 1])


def _pairs(
    there: Spans, found: Spans, lost: NDArray[np.int64], wrong: NDArray[np.int64]
) -> list[tuple[int, int, int]]:
    """(kind, tagged, found) of those that share words, the best first."""
    if not len(lost) or not len(wrong):
        return []
    long = int(max(there.last.max(), found.last.max())) + 1
    first, last = (found.row[wrong] * long + one[wrong] for one in (found.first, found.last))
    begins, ends = (there.row[lost] * long + one[lost] for one in (there.first, there.last))
    low, high = np.searchsorted(last, begins), np.searchsorted(first, ends, side="right")
    counts = np.maximum(high - low, 0)
    at = np.repeat(np.arange(len(lost)), counts)
    other = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    one, two = lost[at], wrong[other]
    same_words = (begins[at] == first[other]) & (ends[at] == last[other])
    same_type = there.kind[one] == found.kind[two]
    shared = np.minimum(ends[at], last[other]) - np.maximum(begins[at], first[other])
    kind = np.where(same_words, NUMBERS["type"], np.where(same_type, NUMBERS["boundary"], NUMBERS["both"]))
    order = np.lexsort((two, one, -shared, kind))
    return list(zip(kind[order].tolist(), one[order].tolist(), two[order].tolist(), strict=True))


def _taken(values: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values at these places; anything at ``NONE``."""
    return values[places] if len(values) else np.full(len(places), NONE)


def costs_of(entities: Entities, errors: Errors) -> dict[str, Metric]:
    """How far the F1 of entities would rise were there no errors of a kind, with intervals over rows.

    A missed entity would be found, a spurious one not, and what is wrong in type or words would be right.
    """
    rows = len(entities.sums)
    totals = entities.sums.reshape(rows, 3, -1).sum(axis=2)
    counts = [np.bincount(errors.row[errors.of(name)], minlength=rows) for name in KINDS]
    sums = np.column_stack([totals, *counts]).astype(np.float64)
    value = _gains(sums.sum(axis=0, keepdims=True))[0]
    low, high = bootstrap(sums, _gains, groups=entities.parted.groups)
    return {
        name: Metric(
            float(value[at]),
            float(np.fmin(low[at], value[at])),
            float(np.fmax(high[at], value[at])),
            rows,
            better="lower",
        )
        for at, name in enumerate(KINDS)
    }


def _gains(sums: Floats) -> Floats:
    """(m, 3 + kinds) sums -> (m, kinds): the F1 without the errors of each kind, less the F1."""
    totals = sums[:, :3]
    now = over_types(totals)[:, 2]
    gains = []
    for name, number in NUMBERS.items():
        wrong = sums[:, 3 + number]
        mended = totals.copy()
        if name == "spurious":
            mended[:, 1] -= wrong
        else:
            mended[:, 2] += wrong
            mended[:, 1] += wrong * (name == "missed")
        gains.append(over_types(mended)[:, 2] - now)
    return np.column_stack(gains)


def frequent(entities: Entities, errors: Errors, most: int) -> list[tuple[str, str, str, NDArray[Any]]]:
    """The most frequent confusions: the type that is tagged, the one that is found, the kind, the errors."""
    names = np.array([*entities.scheme.types, "none"], dtype=object)
    one, two = (
        np.where(places == NONE, len(names) - 1, _taken(spans.kind, places))
        for places, spans in ((errors.there, entities.there), (errors.found, entities.found))
    )
    table = np.stack([one, two, errors.kind], axis=1)
    cases, which, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    kinds = list(KINDS)
    return [
        (
            str(names[cases[at, 0]]),
            str(names[cases[at, 1]]),
            kinds[cases[at, 2]],
            np.flatnonzero(which.reshape(-1) == at),
        )
        for at in order.tolist()
    ]
