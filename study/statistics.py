"""Intervals and tests on plain arrays; units that belong together (``groups``) are kept together.

Everything is deterministic: what draws, draws from a seeded generator.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.bootstrap import Floats, bootstrap
from study.record import Better, Metric


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; [0, 1] of no units.

    It keeps its level better than Clopper-Pearson's at small n, which is too wide (Brown, Cai and DasGupta,
    Statistical Science 2001).
    """
    if n <= 0:
        return 0.0, 1.0
    z = _normal(level)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    low = 0.0 if successes <= 0 else min(max(0.0, centre - half), share)
    high = 1.0 if successes >= n else max(min(1.0, centre + half), share)
    return low, high


def proportion(
    successes: float,
    n: int,
    *,
    better: Better = "neither",
    unit: str = "",
    effective: float | None = None,
    level: float = 0.95,
) -> Metric:
    """A proportion of counts with Wilson's interval, of ``effective`` units where those depend on each other.

    Raises:
        ValueError: there are no units.
    """
    if n <= 0:
        raise ValueError("a proportion of no units")
    share = successes / n
    count = n if effective is None else effective
    low, high = wilson(share * count, count, level)
    return Metric(share, low, high, n, unit, better, level)


def share_of(
    hits: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    better: Better = "neither",
    unit: str = "",
    level: float = 0.95,
) -> Metric:
    """The share of units that are hits (a boolean or a number in [0, 1] a unit), clustered by ``groups``."""
    values = np.asarray(hits, dtype=np.float64)
    count = None if groups is None else effective_units(values, groups, level)
    return proportion(
        float(values.sum()), len(values), better=better, unit=unit, effective=count, level=level
    )


def effective_units(values: Floats, groups: NDArray[Any], level: float = 0.95) -> float:
    """How many independent units tell as much about the mean as these, which depend on each other in groups.

    Units over the design effect, as Korn and Graubard (Survey Methodology 1998) do, the few groups' wider
    Student quantile included; never more than there are units. Without any variation: the groups.
    """
    from scipy.stats import t as student

    n = len(values)
    sums, sizes = _group_sums(values, groups)
    count = len(sizes)
    if count < 2:  # noqa: PLR2004 - one group tells nothing about how groups differ
        return 1.0
    mean = values.mean()
    apart = count / (count - 1) * float(((sums - mean * sizes) ** 2).sum()) / n**2
    alone = float(values.var()) / n
    if alone == 0 or apart == 0:
        return float(count)
    shrink = (_normal(level) / float(student.ppf((1 + level) / 2, count - 1))) ** 2
    return float(min(n, max(1.0, n * alone / apart * shrink)))


def count_units(n: int, groups: NDArray[Any] | None) -> int:
    """How many units there are to resample: the groups where there are any."""
    return n if groups is None else len(np.unique(groups))


def mean_of(
    values: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    better: Better = "neither",
    unit: str = "",
    level: float = 0.95,
    seed: int = 0,
) -> Metric:
    """The mean of one number a unit with its bootstrap interval, which need not be symmetric.

    Raises:
        ValueError: there are not two units, or groups, whose spread could be seen.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if count_units(len(numbers), groups) < 2:  # noqa: PLR2004 - no spread can be seen in one
        raise ValueError("no interval from one unit")
    sums = np.column_stack([numbers, np.ones(len(numbers))])
    low, high = bootstrap(sums, _mean, groups=groups, level=level, seed=seed)
    value = float(numbers.mean())
    return Metric(
        value, min(value, float(low[0])), max(value, float(high[0])), len(numbers), unit, better, level
    )


def ratio_of(
    above: NDArray[Any],
    below: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    better: Better = "neither",
    unit: str = "",
    level: float = 0.95,
    seed: int = 0,
) -> Metric:
    """The sum of one number a unit over the sum of another (losses over tokens), units kept whole.

    With its bootstrap interval; ``n`` are the units. A share of parts that are right or wrong is better
    served by ``share_of_parts``.

    Raises:
        ValueError: there are not two units, or groups, or nothing to divide by.
    """
    sums = np.column_stack([above, below]).astype(np.float64)
    total = sums.sum(axis=0)
    if count_units(len(sums), groups) < 2 or not total[1]:  # noqa: PLR2004 - no spread can be seen in one
        raise ValueError("no interval from one unit")
    low, high = bootstrap(sums, _mean, groups=groups, level=level, seed=seed)
    value = float(total[0] / total[1])
    return Metric(
        value, min(value, float(low[0])), max(value, float(high[0])), len(sums), unit, better, level
    )


def share_of_parts(
    hits: NDArray[Any],
    parts: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    better: Better = "neither",
    level: float = 0.95,
) -> Metric:
    """The share of all parts that are hits, where each unit has some of both.

    The interval is that of the ratio's infinitesimal jackknife over units, on the logit scale; Wilson's of
    as many units where all parts, or none, are hits.

    Raises:
        ValueError: there are no parts.
    """
    total = float(np.sum(parts))
    if total <= 0:
        raise ValueError("a share of no parts")
    value = float(np.sum(hits)) / total
    influence = (np.asarray(hits, dtype=np.float64) - value * np.asarray(parts, dtype=np.float64)) / total
    return from_influence(value, influence, groups=groups, better=better, level=level)


def change_of_parts(
    before: NDArray[Any],
    after: NDArray[Any],
    parts: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    better: Better = "higher",
    level: float = 0.95,
) -> Metric:
    """The change of a share of parts between two looks at the same units, each with its hits in both.

    Where no unit changed the interval is not empty: Wilson's of as many units says what may have been missed.

    Raises:
        ValueError: there are not two units, or groups.
    """
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    change = ratio_of(difference, parts, groups=groups, better=better, level=level)
    if difference.any():
        return change
    most = wilson(0, count_units(len(difference), groups), level)[1]
    return Metric(0.0, -most, most, len(difference), "", better, level)


def mean_interval(
    values: NDArray[Any], groups: NDArray[Any] | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Student's interval of a mean; over the groups' residual sums where units come in groups.

    Infinite where one unit, or group, is all there is.
    """
    from scipy.stats import t as student

    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    sums, sizes = (numbers, np.ones(len(numbers))) if groups is None else _group_sums(numbers, groups)
    count = len(sizes)
    if count < 2:  # noqa: PLR2004 - no spread can be seen in one
        return -np.inf, np.inf
    spread = np.sqrt(count / (count - 1) * ((sums - mean * sizes) ** 2).sum()) / len(numbers)
    half = float(student.ppf((1 + level) / 2, count - 1) * spread)
    return mean - half, mean + half


def from_influence(
    value: float,
    influence: Floats,
    *,
    groups: NDArray[Any] | None = None,
    better: Better = "neither",
    level: float = 0.95,
) -> Metric:
    """A metric within [0, 1] with the interval of its infinitesimal jackknife, on the logit scale.

    ``influence`` is the metric's derivative by each unit's weight, at weights of one; for the area under the
    ROC curve that is DeLong's interval. At 0 or 1 exactly, where it would have no width: Wilson's interval
    of as many units (or groups).
    """
    from scipy.stats import t as student

    sums = influence if groups is None else _group_sums(influence, groups)[0]
    count = len(sums)
    variance = float((sums**2).sum()) * count / max(1, count - 1)
    if variance == 0 or not 0 < value < 1:
        low, high = wilson(value * count, count, level)
    else:
        odds = np.log(value / (1 - value))
        quantile = float(student.ppf((1 + level) / 2, max(1, count - 1)))
        half = quantile * np.sqrt(variance) / (value * (1 - value))
        low, high = (float(1 / (1 + np.exp(-end))) for end in np.clip((odds - half, odds + half), -700, 700))
    return Metric(value, min(low, value), max(high, value), len(influence), "", better, level)


def mcnemar_exact(lost: int, won: int) -> float:
    """The two-sided exact p-value that ``lost`` and ``won`` discordant pairs come from a fair coin."""
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def paired_difference(
    before: NDArray[Any],
    after: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    better: Better = "higher",
    level: float = 0.95,
) -> Metric:
    """The change of a share between two looks at the same units (one boolean a unit each).

    Tango's score interval (Statistics in Medicine 1998), which keeps its level when all flips go one way, and
    by which no flips at all do not pretend to certainty. Clustered by ``groups``.
    """
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    n = len(difference)
    value = float(difference.mean())
    units = float(n) if groups is None else effective_units(difference, groups, level)
    won, lost = (float((difference == sign).mean()) * units for sign in (1, -1))
    low, high = _tango(won, lost, units, _normal(level))
    return Metric(value, min(low, value), max(high, value), n, "", better, level)


def benjamini_hochberg(p_values: NDArray[Any]) -> Floats:
    """q-values: reporting those at most q keeps the expected share of false reports at q.

    Benjamini and Hochberg (1995); holds for independent and positively dependent tests.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return p
    order = np.argsort(p, kind="stable")[::-1]
    ranks = np.arange(len(p), 0, -1)
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(p[order] * len(p) / ranks)
    return np.minimum(q, 1.0)


def _normal(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def _tango(won: float, lost: float, n: float, z: float) -> tuple[float, float]:
    """The differences (won - lost) / n that a score test does not reject."""

    def too_far(change: float) -> bool:
        # The most likely share of losses if the true difference is ``change``.
        b = (2 * n - won + lost) * change - won - lost
        root = np.sqrt(max(0.0, b * b + 8 * n * lost * change * (1 - change)))
        share = max(0.0, (root - b) / (4 * n))
        variance = max(0.0, n * (2 * share + change * (1 - change)))
        return bool((won - lost - n * change) ** 2 > z * z * variance)

    found = (won - lost) / n
    ends = []
    for edge in (-1.0, 1.0):
        inside, outside = found, edge
        if not too_far(edge):
            inside = edge
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if too_far(middle) else (middle, outside)
        ends.append(inside)
    return ends[0], ends[1]


def _mean(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):  # where few units have parts, some draws have none
        return sums[:, :1] / sums[:, 1:]


def _group_sums(values: Floats, groups: NDArray[Any]) -> tuple[Floats, Floats]:
    _, code = np.unique(groups, return_inverse=True)
    return (
        np.bincount(code, weights=values).astype(np.float64),
        np.bincount(code).astype(np.float64),
    )
