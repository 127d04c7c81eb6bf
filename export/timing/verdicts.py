"""When is one faster? Paired ratios with intervals, the noise floor of this machine now, and three words.

Two models differ when the interval of their paired ratio lies wholly beyond 1 by more than the noise floor.
How fast a model runs depends on where its process put things in memory: one file in several processes differs
by some percent, for each of them always alike, so that no number of rounds averages it away. Each contender
therefore runs in several processes, and what those of one file differ by is the floor.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from study.record import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

Comparison: TypeAlias = Literal["faster", "slower", "no measurable difference"]

ENOUGH_FOR: tuple[tuple[str, float, int], ...] = (
    ("latency_p50_ms", 0.5, 1),
    ("latency_p90_ms", 0.9, 64),
    ("latency_p99_ms", 0.99, 662),
)
"""A percentile, and the calls below which it is not told (MLPerf loadgen's early stopping)."""
RESAMPLES = 1000
LEAST_FLOOR = 0.01
"""Less than 1 % is no difference whatever the interval says: memory layouts and clocks differ by as much."""
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Quantiles of Student's t at 97.5 %, of 1, 2, … degrees of freedom."""


def ratio(slow: "NDArray[np.float64]", fast: "NDArray[np.float64]", seed: int) -> Metric:
    """How many times faster: the median of the paired ratios of the rounds."""
    ratios = slow / fast
    low, high = median_interval(ratios, seed)
    return Metric(float(np.median(ratios)), low, high, len(ratios), "x", "higher")


def noise_floor(first: "NDArray[np.float64]", again: "NDArray[np.float64]", seed: int) -> float:
    """How far from 1 the interval of a model's ratio to itself reaches, here and now, in one process."""
    control = ratio(first, again, seed)
    return max(LEAST_FLOOR, abs(control.low - 1), abs(control.high - 1))


def process_floor(
    contenders: "Sequence[NDArray[np.float64]]", pair: "tuple[NDArray[np.float64], NDArray[np.float64]]"
) -> float:
    """How much two means of processes of one file may differ by, at 95 % (Student's t, variances pooled).

    ``contenders`` are the times (process, round) of each, ``pair`` the two of them that are compared.
    """
    squares, freedom = 0.0, 0
    for times in contenders:
        logs = np.log(times)
        effects = np.median(logs - logs.mean(axis=0), axis=1)
        squares += float(((effects - effects.mean()) ** 2).sum())
        freedom += len(times) - 1
    spread = np.sqrt(squares / freedom * sum(1 / len(times) for times in pair))
    return max(LEAST_FLOOR, float(np.expm1(STUDENT[min(freedom, len(STUDENT)) - 1] * spread)))


def differs(speedup: Metric, floor: float) -> Comparison:
    """The verdict, in the words that others look for."""
    if speedup.low > 1 + floor:
        return "faster"
    if speedup.high < 1 / (1 + floor):
        return "slower"
    return "no measurable difference"


def percentiles(nanoseconds: "NDArray[np.int64]", seed: int = 0) -> dict[str, Metric]:
    """Those that n allows, of calls by round; intervals by resampling whole rounds."""
    metrics = {}
    milliseconds = nanoseconds / 1e6
    told = [(name, share) for name, share, enough in ENOUGH_FOR if milliseconds.size >= enough]
    intervals = quantile_intervals(milliseconds, [share for _, share in told], seed)
    for (name, share), (low, high) in zip(told, intervals, strict=True):
        value = float(np.quantile(milliseconds, share))
        metrics[name] = Metric(value, min(low, value), max(high, value), milliseconds.size, "ms", "lower")
    return metrics


def refused(calls: int) -> list[str]:
    """Of each percentile that so many calls do not allow: how many it needs, in words."""
    return [
        f"p{100 * share:.0f} needs {enough} calls and {calls} were made"
        for _, share, enough in ENOUGH_FOR
        if calls < enough
    ]


def own_metrics(nanoseconds: "NDArray[np.int64]", batch: int, seed: int = 0) -> dict[str, Metric]:
    """Percentiles that n allows, and rows a second of the calls themselves."""
    by_round = batch * nanoseconds.shape[1] / (nanoseconds.sum(axis=1) / 1e9)
    low, high = median_interval(by_round, seed)
    rate = Metric(float(np.median(by_round)), low, high, nanoseconds.size, "rows/s", "higher")
    return {**percentiles(nanoseconds, seed), "throughput_per_s": rate}


def median_interval(values: "NDArray[np.float64]", seed: int) -> tuple[float, float]:
    """The percentile bootstrap of the median over rounds."""
    generator = np.random.default_rng(seed)
    picked = generator.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[picked], axis=1), [0.025, 0.975])
    return float(low), float(high)


def quantile_intervals(
    milliseconds: "NDArray[np.float64]", shares: Sequence[float], seed: int
) -> list[tuple[float, float]]:
    """The percentile bootstrap of quantiles over whole rounds: calls of one visit depend on each other."""
    generator = np.random.default_rng(seed)
    rounds = len(milliseconds)
    quantiles = [
        np.quantile(milliseconds[generator.integers(0, rounds, rounds)], shares)
        for _ in range(RESAMPLES // 4)
    ]
    lows, highs = np.quantile(quantiles, [0.025, 0.975], axis=0)
    return list(zip(lows.tolist(), highs.tolist(), strict=True))


def of_few(values: Sequence[float], unit: str) -> Metric:
    """The median of a few measurements; their range, and how sure it is that it holds the true median.

    The median of n independent ones lies beyond all of them with probability 2^(1-n).
    """
    level = 1 - 2.0 ** (1 - len(values))
    return Metric(
        float(np.median(values)), min(values), max(values), len(values), unit, "lower", level=level or 0.95
    )
