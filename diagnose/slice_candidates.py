"""All conjunctions of up to three predicates, counted by matrix products."""

from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from study.slices import Mask

Floats: TypeAlias = NDArray[np.float64]
Halves: TypeAlias = NDArray[np.float32]

KEPT = 600
"""The most candidates that are handed on, the strongest evidence first."""
ADDS = 6.0
"""Twice the log-likelihood that a conjunction must gain over each of its parents: p of about .007."""
TRIPLED = 300
"""The most predicates whose triples are counted (all triples of 30 columns with 10 levels)."""


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """The losses of the search half; for any but 0 and 1, evidence is by the normal law."""

    values: Floats
    binary: bool
    mean: float
    spread: float

    @classmethod
    def of(cls, values: Floats, *, binary: bool) -> Self:
        """The losses with their mean and standard deviation."""
        return cls(values, binary, float(values.mean()), float(values.std()))

    def evidence(self, rows: NDArray[Any], sums: NDArray[Any], expected: NDArray[Any] | float) -> Floats:
        """Twice the log-likelihood ratio of a mean above the expected one; 0 where it is not above.

        ``exp(-evidence / 2)`` bounds the binomial tail (Chernoff), so its order is the tail's.
        """
        mean = sums / rows
        if not self.binary:
            return np.asarray(np.where(mean > expected, rows * ((mean - expected) / self.spread) ** 2, 0.0))
        chance = np.clip(expected, 1e-9, 1 - 1e-9)
        share = np.clip(mean, 1e-12, 1 - 1e-12)
        gain = share * np.log(share / chance) + (1 - share) * np.log((1 - share) / (1 - chance))
        return np.asarray(np.where(mean > chance, 2 * rows * gain, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The strongest: predicate numbers (k, 3) with -1 for none, their rows and summed losses.

    ``counted`` is how many conjunctions had rows enough.
    """

    members: NDArray[np.int64]
    rows: Floats
    sums: Floats
    counted: int


def candidates(masks: Mask, loss: Loss, variable: NDArray[Any], *, least: int) -> Candidates:
    """Conjunctions of up to three predicates (predicates, rows) with ``least`` rows and a raised mean loss.

    Predicates of one ``variable`` are not conjoined. A conjunction is handed on only when it says more
    than each of its parents.
    """
    ones = masks.astype(np.float32)
    hit = np.flatnonzero(loss.values)
    weighted = (ones[:, hit] * loss.values[hit]).astype(np.float32)
    rows = (ones @ ones.T).astype(np.float64)
    sums = (weighted @ ones[:, hit].T).astype(np.float64)
    allowed = (rows >= least) & (variable[:, None] != variable[None, :])
    mean = np.divide(sums, rows, out=np.zeros_like(sums), where=rows > 0)
    own = np.diagonal(mean)
    kept = _Kept(loss)
    single = np.flatnonzero(np.diagonal(rows) >= least)
    nothing = np.full(len(single), -1)
    kept.add((single, nothing, nothing), np.diagonal(rows)[single], np.diagonal(sums)[single], None)
    first, second = np.nonzero(np.triu(allowed, 1))
    counted = len(single) + len(first)
    parents = np.maximum(own[first], own[second])
    kept.add((first, second, np.full(len(first), -1)), rows[first, second], sums[first, second], parents)
    for one in _worth_tripling(rows, sums, allowed, loss):
        counted += _triples(one, ones, loss, allowed, mean, least, kept)
    members, n, total = kept.best()
    return Candidates(members, n, total, counted)


def _worth_tripling(rows: Floats, sums: Floats, allowed: Mask, loss: Loss) -> NDArray[np.int64]:
    """All predicates or, of too many, those with the strongest pair; the others leave ``allowed``."""
    if len(rows) > TRIPLED:
        evidence = np.where(allowed, loss.evidence(np.maximum(rows, 1), sums, loss.mean), 0.0).max(axis=1)
        weak = np.argsort(-evidence, kind="stable")[TRIPLED:]
        allowed[weak] = False
        allowed[:, weak] = False
    return np.flatnonzero(allowed.any(axis=1))


def _triples(
    one: int, ones: Halves, loss: Loss, allowed: Mask, mean: Floats, least: int, kept: "_Kept"
) -> int:
    """Count all triples whose first predicate is ``one``; they go to ``kept``."""
    others = one + 1 + np.flatnonzero(allowed[one, one + 1 :])
    if len(others) < 2:  # noqa: PLR2004 - a triple needs two more
        return 0
    inside = np.flatnonzero(ones[one])
    part = ones[np.ix_(others, inside)]
    rows = part @ part.T
    values = loss.values[inside]
    hit = np.flatnonzero(values)
    sums = (part[:, hit] * values[hit].astype(np.float32)) @ part[:, hit].T
    possible = np.triu(allowed[np.ix_(others, others)] & (rows >= least), 1)
    first, second = np.nonzero(possible & (sums > loss.mean * rows))
    pair = mean[one, others]
    parents = np.maximum(np.maximum(pair[first], pair[second]), mean[others[first], others[second]])
    where = (np.full(len(first), one), others[first], others[second])
    n, total = rows[first, second].astype(np.float64), sums[first, second].astype(np.float64)
    kept.add(where, n, total, parents)
    return int(possible.sum())


class _Kept:
    """The strongest candidates so far."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._evidence = np.zeros(0)
        self._numbers = np.zeros((0, 2))
        self._members = np.zeros((0, 3), dtype=np.int64)

    def add(
        self, members: tuple[NDArray[Any], ...], rows: Floats, sums: Floats, parents: Floats | None
    ) -> None:
        evidence = self._loss.evidence(rows, sums, self._loss.mean)
        strong = evidence > max(ADDS, self._evidence.min() if len(self._evidence) >= KEPT else 0.0)
        if parents is not None:
            strong[strong] = self._loss.evidence(rows[strong], sums[strong], parents[strong]) >= ADDS
        if not strong.any():
            return
        evidence = np.concatenate([self._evidence, evidence[strong]])
        numbers = np.concatenate([self._numbers, np.column_stack([rows[strong], sums[strong]])])
        names = np.concatenate([self._members, np.column_stack([one[strong] for one in members])])
        order = np.argsort(-evidence, kind="stable")[:KEPT]
        self._evidence, self._numbers, self._members = evidence[order], numbers[order], names[order]

    def best(self) -> tuple[NDArray[np.int64], Floats, Floats]:
        return self._members, self._numbers[:, 0], self._numbers[:, 1]
