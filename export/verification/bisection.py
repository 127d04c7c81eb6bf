"""Bisection over cuts of a graph: which is the first whose values two models do not agree on?

A cut is all values that cross from the nodes before a place to those behind it. Where a cut agrees, all that
made it is well, so half of what is left is ruled out at a time. At most ``TAPS`` values are read at once,
over one batch after another: reading all of a graph's values at once takes more memory than models have.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.examples import Batch
from export.graphs.cuts import Flow, named
from export.graphs.nodes import Node
from export.verification.agreement import FLOOR, TOLERANCE, mismatch
from export.verification.readers import Read, Reader
from study.errors import SkipError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASKED: Final = 1e30
"""Numbers beyond it are how masks rule scores out; half precision has others of its own for that."""
SILENT: Final = ("Constant", "ConstantOfShape", "Identity")
"""What computes nothing."""
TAPS: Final = 4
"""Values that are read at once."""
MEASURES: Final = 40
"""Cuts that are measured at most."""


@dataclass(frozen=True, slots=True)
class Gap:
    """How far a value is from what it should be.

    ``share`` is the largest difference relative to what is tolerated of an output, ``relative`` the length of
    the difference relative to that of the value (0.1 is an SQNR of 20 dB).
    """

    share: float = 0.0
    relative: float = 0.0
    fault: str = ""

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise; None where there is no noise, or nothing else."""
        return -20 * math.log10(self.relative) if 0 < self.relative < math.inf else None


@dataclass(frozen=True, slots=True)
class Point:
    """One cut that was measured: how far along it is, the layer that it follows, and its largest gap."""

    place: int
    layer: str
    gap: Gap


@dataclass(slots=True)
class Bisection:
    """Two models, the cuts that both have, and what was measured of them so far."""

    flow: Flow
    floats: frozenset[str]
    """The values of the flow that are floating-point numbers."""
    known: frozenset[str]
    """Those that both models have."""
    reference: Reader
    candidate: Reader
    batches: Callable[[], Iterable[Batch]]
    bad: Callable[[Gap], bool]
    cuts: list[tuple[str, ...]] = field(default_factory=list)
    measured: dict[int, dict[str, Gap]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cuts = self.flow.cuts(self.known)
        outputs = tuple(value.name for value in self.flow.graph.graph.output if value.name in self.known)
        if outputs and (not self.cuts or self.cuts[-1] != outputs):
            self.cuts.append(outputs)

    def first(self) -> tuple[int, int] | None:
        """The last cut that agrees (-1: the inputs) and the one behind it, which does not; None if all do."""
        low, high = -1, len(self.cuts) - 1
        if high < 0 or not self.bad(self.worst(high)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self.bad(self.worst(middle)):
                high = middle
            else:
                low = middle
        return low, high

    def steepest(self) -> tuple[int, int] | None:
        """The two neighbouring cuts between which the error grows most, as far as measuring finds them."""
        while True:
            pairs = pairwise([-1, *sorted(self.measured)])
            low, high = max(pairs, key=lambda pair: self._growth(*pair))
            if self._growth(low, high) <= 0:
                return None
            if high - low == 1 or len(self.measured) >= MEASURES:
                return low, high
            self.worst((low + high) // 2)

    def worst(self, place: int) -> Gap:
        """The largest gap of a cut; it is measured once."""
        if place not in self.measured:
            found: dict[str, Gap] = {}
            for start in range(0, len(self.cuts[place]), TAPS):
                values = self.cuts[place][start : start + TAPS]
                found |= _measured(values, self.reference, self.candidate, self.batches())
            self.measured[place] = found
        gaps = self.measured[place].values()
        return max(gaps, key=lambda gap: (bool(gap.fault), gap.relative), default=Gap())

    def nodes(self, low: int, high: int) -> list[Node]:
        """Those that make, out of what a cut has, the first value of a later cut that is wrong."""
        before = set(self.cuts[low]) if low >= 0 else set()
        gaps = self.measured[high]
        wrong = [name for name in self.cuts[high] if name in gaps and self.bad(gaps[name])] or self.cuts[high]
        fresh = [name for name in wrong if name not in before] or list(wrong)
        first = min(fresh, key=lambda name: self.flow.makers.get(name, -1))
        every = self.flow.between(first, before)
        telling = [node for node in every if node.op_type not in SILENT and self.floats & {*node.output}]
        return telling or every

    def points(self) -> tuple[Point, ...]:
        """What was measured, in the order of the graph."""
        return tuple(Point(place, self.layer(place), self.worst(place)) for place in sorted(self.measured))

    def layer(self, place: int) -> str:
        """The layer that a cut follows."""
        makers = [self.flow.makers[name] for name in self.cuts[place] if name in self.flow.makers]
        return named([self.flow.nodes[max(makers)]]) if makers else ""

    def _growth(self, low: int, high: int) -> float:
        before = self.worst(low).relative if low >= 0 else 0.0
        return self.worst(high).relative ** 2 - before**2 if math.isfinite(before) else 0.0


def _measured(
    values: Sequence[str], reference: Reader, candidate: Reader, batches: Iterable[Batch]
) -> dict[str, Gap]:
    """The gap of each value over all batches, of which one is in memory at a time."""
    sums = {value: Sum() for value in values}
    with reference.reading(values) as wanted:
        try:
            with candidate.reading(values) as given:
                for batch in batches:
                    _add(sums, wanted, given, batch)
        except SkipError as error:
            return {value: Gap(math.inf, math.inf, fault=str(error)) for value in values}
    return {value: one.gap() for value, one in sums.items() if one.seen}


def _add(sums: "Mapping[str, Sum]", wanted: Read, given: Read, batch: Batch) -> None:
    should, got = wanted(batch), given(batch)
    for value, one in sums.items():
        (array,) = got[value]
        fitting = [other for other in should[value] if other.shape == array.shape]
        if should[value]:
            one.add((fitting or should[value])[0], array)


@dataclass(slots=True)
class Sum:
    """The gap of one value, batch by batch."""

    seen: bool = False
    far: float = 0.0
    share: float = 0.0
    error: float = 0.0
    size: float = 0.0
    fault: str = ""

    def add(self, wanted: "NDArray[Any]", got: "NDArray[Any]") -> None:
        """One more batch."""
        self.seen = True
        if self.fault or wanted.shape != got.shape:
            self.fault = self.fault or mismatch(wanted, got)
            return
        counted = np.abs(wanted) < MASKED  # neither NaN nor what a mask rules out
        right, other = wanted[counted].astype(np.float64), got[counted].astype(np.float64)
        if not np.isfinite(other).all():
            self.fault = mismatch(np.zeros(1), np.full(1, np.nan))
            return
        wrong = np.abs(other - right)
        if right.size:
            most = float(np.abs(right).max())
            self.share = max(self.share, float(wrong.max()) / (TOLERANCE["float32"] * most + FLOOR))
        self.error += float((wrong**2).sum())
        self.size += float((right**2).sum())

    def gap(self) -> Gap:
        """Of all batches so far."""
        if self.fault:
            return Gap(math.inf, math.inf, self.fault)
        relative = math.sqrt(self.error / self.size) if self.size else (math.inf if self.error else 0.0)
        return Gap(self.share, relative)
