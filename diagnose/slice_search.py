"""Where a loss is higher: conjunctions of up to three predicates, held to rows that did not propose them.

One half of the rows proposes: all conjunctions are counted by matrix products of their predicates'
indicators, and it may be overfitted as much as it likes. What it proposes has to hold again on the other
half, by an exact or clustered test, with the share of false reports held at ``LEVEL`` (Benjamini and
Hochberg). The search is SliceLine's (Sagadeeva and Boehm, SIGMOD 2021), the control of false reports Slice
Finder's (Chung et al., ICDE 2019); held-out rows are in neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.slice_candidates import Candidates, Loss, candidates
from study.record import Metric
from study.slices import Mask, Predicate, Slice, jaccard, predicates_of
from study.statistics import benjamini_hochberg, mean_of, share_of

Floats: TypeAlias = NDArray[np.float64]

LEVEL = 0.01
"""Stricter than .05, because every step of a run is searched again: of 100 searches in noise, 1 reports."""
LEAST = 10
"""The fewest rows of a slice, in each half."""
FEWEST_ROWS = 4 * LEAST
PICKS = 50
EVIDENCE = 6.0
"""Twice the log-likelihood that a proposal gains over what earlier ones explain: p of about .007."""
SEARCH_ROWS = 100_000
SEARCH_CELLS = 100_000_000
"""Rows times predicates of the search half: 400 MB. All other rows confirm."""
SAME = 0.5
"""Two slices with more than this Jaccard index are one."""
MOSTLY = 0.8


@dataclass(frozen=True, slots=True)
class Found:
    """A slice that was confirmed.

    ``mean`` is its mean loss on the confirming half, ``rest`` that of the half's other rows; both halves
    are in ``rows``. ``q`` bounds the share of false reports among those as certain as this one.
    """

    slice: Slice
    rows: int
    mean: Metric
    rest: float
    q: float

    @property
    def excess(self) -> float:
        """The loss, summed over rows, that would go away if the slice were like the rest."""
        return (self.mean.value - self.rest) * self.rows


@dataclass(frozen=True, slots=True)
class Search:
    """What was confirmed, the greatest excess first, and how hard was looked."""

    found: tuple[Found, ...]
    candidates: int
    tried: int
    """How many proposals were put to the test."""
    searched: int
    confirming: int
    """Rows of the two halves."""


def search(
    frame: pl.DataFrame,
    loss: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    related: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Search:
    """Slices of the frame's rows with a higher mean loss than the rest.

    Args:
        frame: the columns to slice by, one line a row.
        loss: one finite number a row; 0 and 1 are errors and counted exactly.
        groups: rows of one group stay in one half and count as one observation in the tests.
        related: column -> the column with which it must not be conjoined.
        seed: of the split.
    """
    values = np.asarray(loss, dtype=np.float64)
    # Twice the rows that a proposal needs in its own half: a slice must have a chance in both.
    predicates = predicates_of(frame, least=2 * LEAST)
    seeking, confirming = _halves(frame.height, groups, len(predicates), seed)
    if frame.height < FEWEST_ROWS or not predicates or values.min() == values.max():
        return Search((), 0, 0, len(seeking), len(confirming))
    proposals, counted = _propose(frame[seeking], values[seeking], predicates, related or {})
    held = _Held(frame[confirming], values[confirming], None if groups is None else groups[confirming], seed)
    inside = [one.rows(held.frame) for one in proposals]
    q = benjamini_hochberg(np.array(_p_values(held, inside)))
    found: list[tuple[Found, Mask]] = []
    for place in np.argsort(q, kind="stable"):
        everywhere = proposals[place].rows(frame)
        if q[place] <= LEVEL and all(jaccard(everywhere, other) <= SAME for _, other in found):
            found.append(
                (held.found(proposals[place], inside[place], everywhere, float(q[place])), everywhere)
            )
    kept = sorted((one for one, _ in found), key=lambda one: -one.excess)
    return Search(tuple(kept), counted, len(proposals), len(seeking), len(confirming))


def _halves(
    rows: int, groups: NDArray[Any] | None, predicates: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places to search and places to confirm on; whole groups in either."""
    _, unit = np.unique(np.arange(rows) if groups is None else groups, return_inverse=True)
    units = int(unit.max(initial=-1)) + 1
    most = min(SEARCH_ROWS, SEARCH_CELLS // max(1, predicates))
    share = min(0.5, most / max(1, rows))
    order = np.random.default_rng((seed, rows)).permutation(units)
    chosen = np.isin(unit, order[: round(units * share)])
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def _propose(
    frame: pl.DataFrame, loss: Floats, predicates: list[Predicate], related: Mapping[str, str]
) -> tuple[list[Slice], int]:
    """At most ``PICKS`` slices, each with a loss that those before it do not explain."""
    binary = bool(np.isin(loss, (0.0, 1.0)).all())
    # One outlying loss must not lift every small slice that it happens to be in.
    seen = Loss.of(loss if binary else np.minimum(loss, np.quantile(loss, 0.99)), binary=binary)
    if seen.spread == 0:
        return [], 0
    masks = np.array([predicate.rows(frame[predicate.column]) for predicate in predicates])
    subjects = [related.get(predicate.column, predicate.column) for predicate in predicates]
    variable = np.unique(subjects, return_inverse=True)[1]
    every = candidates(masks, seen, variable, least=LEAST)
    picks = _cover(every, masks, seen)
    return [Slice(tuple(predicates[one] for one in every.members[pick] if one >= 0)) for pick in picks], (
        every.counted
    )


def _cover(every: Candidates, masks: Mask, loss: Loss) -> list[int]:
    """Greedily, the candidates whose losses are not what the slices picked before make one expect.

    A picked slice's rows are expected to lose what the slice loses on average, so that neither its
    sub-slices nor the wider slices that merely contain it are picked for its sake.
    """
    inside = np.array([masks[[one for one in names if one >= 0]].all(axis=0) for names in every.members])
    expected = np.full(masks.shape[1], loss.mean)
    sums = every.rows * loss.mean
    picks: list[int] = []
    while len(picks) < min(PICKS, len(inside)):
        evidence = loss.evidence(every.rows, every.sums, sums / every.rows)
        evidence[picks] = -np.inf
        best = int(evidence.argmax())
        if evidence[best] < EVIDENCE:
            break
        picks.append(best)
        mean = every.sums[best] / every.rows[best]
        raised = np.flatnonzero(inside[best] & (expected < mean))
        sums = sums + inside[:, raised] @ (mean - expected[raised])
        expected[raised] = mean
    return picks


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """The confirming half."""

    frame: pl.DataFrame
    loss: Floats
    groups: NDArray[Any] | None
    seed: int

    def p_value(self, inside: Mask, outside: Mask) -> float:
        """One-sided: that the mean loss inside is above the one outside."""
        first, second = self.loss[inside], self.loss[outside]
        if min(len(first), len(second)) < LEAST or first.mean() <= second.mean():
            return 1.0
        if self.groups is not None:
            return _clustered(first, second, self.groups[inside], self.groups[outside])
        if np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all():
            from scipy.stats import hypergeom

            errors = int(first.sum() + second.sum())
            return float(hypergeom.sf(first.sum() - 1, len(first) + len(second), errors, len(first)))
        from scipy.stats import ttest_ind

        if first.var() + second.var() == 0:
            return 1.0
        return float(ttest_ind(first, second, equal_var=False, alternative="greater").pvalue)

    def found(self, one: Slice, inside: Mask, everywhere: Mask, q: float) -> Found:
        loss, groups = self.loss[inside], None if self.groups is None else self.groups[inside]
        if np.isin(self.loss, (0.0, 1.0)).all():
            mean = share_of(loss, groups=groups, better="lower")
        else:
            mean = mean_of(loss, groups=groups, better="lower", seed=self.seed)
        return Found(one, int(everywhere.sum()), mean, float(self.loss[~inside].mean()), q)


def _p_values(held: _Held, inside: list[Mask]) -> list[float]:
    """Of each proposal, that it loses more than the rest, and still does beside each stronger proposal.

    The greatest p-value of tests that must all hold is a valid one (an intersection-union test).
    """
    p_values: list[float] = []
    stronger: list[Mask] = []
    for mask in inside:
        p = held.p_value(mask, ~mask)
        for other in stronger if p <= LEVEL else ():
            both = mask & other
            if both.sum() >= MOSTLY * mask.sum():
                p = max(p, held.p_value(both, other & ~mask))
            else:
                p = max(p, held.p_value(mask & ~other, ~(mask | other)))
        p_values.append(p)
        if p <= LEVEL:
            stronger.append(mask)
    return p_values


def _clustered(
    first: Floats, second: Floats, first_groups: NDArray[Any], second_groups: NDArray[Any]
) -> float:
    """Difference of two means with the variance of its groups' sums, one-sided, Student's t."""
    from scipy.stats import t as student

    influence = np.concatenate([(first - first.mean()) / len(first), -(second - second.mean()) / len(second)])
    _, code = np.unique(np.concatenate([first_groups, second_groups]), return_inverse=True)
    sums = np.bincount(code, weights=influence)
    # As many degrees of freedom as the side with fewer groups has: a slice of one group proves nothing.
    count = min(len(np.unique(first_groups)), len(np.unique(second_groups)))
    spread = float(np.sqrt((sums**2).sum() * len(sums) / max(1, len(sums) - 1)))
    if count < 2 or spread == 0:  # noqa: PLR2004 - one group has no spread
        return 1.0
    return float(student.sf((first.mean() - second.mean()) / spread, count - 1))
