"""From what range of an activation its eight bits are taken: by its extremes, a percentile or its entropy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS: Final = 2048
"""Of a histogram over ``(-reach, reach)``; onnxruntime's calibrators have as many."""
LEVELS: Final = 256
PERCENTILE: Final = 99.99
"""Per cent of the numbers that stay in range."""
SMOOTH: Final = 1e-4
"""What an empty bin counts when two distributions are compared."""
STRIDE: Final = 8
"""Bins by which the ranges grow that entropy compares: a 128th of the whole."""

Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""Lowest and highest number, by tensor."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """The numbers of one tensor on all rows: the extremes, and how many fall into each of the bins."""

    lowest: float
    highest: float
    counts: "NDArray[np.int64]"
    """Empty where only the extremes were wanted."""

    @property
    def reach(self) -> float:
        """The end of the last bin, and of the first with a minus."""
        return max(abs(self.lowest), abs(self.highest))

    def edges(self) -> "NDArray[np.float64]":
        """The bounds of the bins."""
        return np.linspace(-self.reach, self.reach, len(self.counts) + 1)


def minmax_range(histogram: Histogram) -> tuple[float, float]:
    """All that was seen."""
    return histogram.lowest, histogram.highest


def percentile_range(histogram: Histogram, percentile: float = PERCENTILE) -> tuple[float, float]:
    """Without the outermost numbers, as many on each side."""
    shares = np.cumsum(histogram.counts) / max(1, histogram.counts.sum())
    cut = (100 - percentile) / 200
    edges = histogram.edges()
    low, high = edges[np.searchsorted(shares, cut)], edges[np.searchsorted(shares, 1 - cut)]
    return max(float(low), histogram.lowest), min(float(high), histogram.highest)


def entropy_range(
    histogram: Histogram, levels: int | None = None, stride: int = STRIDE
) -> tuple[float, float]:
    """The range, symmetric about 0 and then cut to what was seen, that loses least information.

    "Least" is by the Kullback-Leibler divergence between the clipped histogram and itself in so many levels
    (Migacz, "8-bit inference with TensorRT", 2017). A tensor of one sign has all its 256 levels on that side.
    """
    counts, edges = histogram.counts, histogram.edges()
    width = histogram.highest - min(0.0, histogram.lowest)
    if levels is None:
        levels = round(LEVELS * min(2.0, max(1.0, 2 * histogram.reach / width))) if width else LEVELS
    middle = len(counts) // 2
    best, chosen = np.inf, middle
    for half in range(levels // 2, middle + 1, stride):
        start, stop = middle - half, min(middle + half + 1, len(counts))
        divergence = _divergence(counts, start, stop, levels)
        if divergence < best:
            best, chosen = divergence, half
    low, high = edges[middle - chosen], edges[min(middle + chosen + 1, len(counts))]
    return max(float(low), histogram.lowest), min(float(high), histogram.highest)


def _divergence(counts: "NDArray[np.int64]", start: int, stop: int, levels: int) -> float:
    """Between the counts clipped to these bins, and the same with every so many bins made equal."""
    inside = counts[start:stop]
    clipped = inside.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[stop:].sum()
    merged = len(inside) // levels
    even = inside[: levels * merged].reshape(levels, merged)
    filled = (clipped[: levels * merged] != 0).reshape(levels, merged).sum(axis=1)
    sums = even.sum(axis=1)
    sums[-1] += inside[levels * merged :].sum()
    level = np.divide(sums, filled, out=np.zeros(levels), where=filled > 0).astype(np.int64)
    flat = np.zeros(len(inside), dtype=np.int64)
    flat[: levels * merged] = np.repeat(level, merged)
    first, second = _smoothed(clipped), _smoothed(flat)
    if first is None or second is None:
        return float("inf")
    first, second = first / first.sum(), second / second.sum()
    return float((first * np.log(first / second)).sum())


def _smoothed(counts: "NDArray[Any]") -> "NDArray[np.float64] | None":
    """No empty bins, at the cost of the others; None where all are empty."""
    empty = counts == 0
    if empty.all():
        return None
    taken = SMOOTH * empty.sum() / (~empty).sum()
    return np.where(empty, SMOOTH, counts - taken)


METHODS: Final = {"minmax": minmax_range, "percentile": percentile_range, "entropy": entropy_range}
