"""How fast is it, beside what it is compared with: paired rounds in random order, a verdict that knows noise.

Every model runs in the worker of its framework. A round visits each contender once, in random order, and the
first one twice: the second visit is the A/A control, whose interval is the noise floor of this machine now.
Two models differ when the interval of their paired ratio lies wholly beyond 1 by more than that floor (after
Google Benchmark's random interleaving, and the early-stopping counts of MLPerf's loadgen for percentiles).
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from export.disturbance import Usage, disturbed
from export.timing import Entry, Warm, block, release, warm
from study.errors import counted
from study.progress import Progress
from study.record import Finding, Metric, Picture, Record, Table, Verdict
from study.subject import Machine, Model, Subject
from study.worker import Worker

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


@dataclass(frozen=True, slots=True)
class Contender:
    """One model in the race, and the worker that runs it."""

    name: str
    model: Model
    subject: Subject
    worker: Worker


@dataclass(frozen=True, slots=True)
class Rules:
    """How long to measure: rounds, seconds of one visit, of warming, and of a whole race at most."""

    rounds: int = 25
    visit_s: float = 0.02
    warm_s: float = 0.2
    warm_at_most_s: float = 2.0
    at_most_s: float = 8.0
    least_calls: int = 3
    most_calls: int = 200


@dataclass(frozen=True, slots=True)
class Raced:
    """Nanoseconds by round and call of each contender, and of the first one's second visits."""

    nanoseconds: tuple["NDArray[np.int64]", ...]
    control: "NDArray[np.int64]"
    warm: tuple[Warm, ...]


def race(
    contenders: Sequence[Contender],
    machine: Machine,
    batches: Sequence[int],
    progress: Progress,
    rules: Rules = Rules(),
) -> Record:
    """The latency record of the last contender, compared with each of those before it.

    The first batch size gives the bare metric names; those of the others end in ``@batch=N``.
    """
    metrics: dict[str, Metric] = {}
    tables: list[Table] = []
    pictures: list[Picture] = []
    said: list[str] = []
    findings: list[Finding] = []
    before = Usage.now()
    for number, batch in enumerate(batches):
        raced = _raced(contenders, machine, batch, rules, progress)
        suffix = f"@batch={batch}" if number else ""
        findings += filled_up(batch, raced.warm[-1].fixed)
        metrics |= {
            f"{name}{suffix}": metric for name, metric in own_metrics(raced.nanoseconds[-1], batch).items()
        }
        if raced.warm[-1].tokens:
            rate = _tokens_per_s(metrics[f"throughput_per_s{suffix}"], raced.warm[-1].tokens / batch)
            metrics[f"throughput_tokens_per_s{suffix}"] = rate
            said.append(f"{rate.value:.4g} tokens a second are scored at batch {batch}")
        sentences, ratios = compare(contenders, raced, machine.seed)
        metrics |= {f"{name}{suffix}": ratio for name, ratio in ratios.items()}
        said.extend(
            f"At batch {batch}, {sentence}" if len(batches) > 1 else sentence for sentence in sentences
        )
        table = _table(contenders, raced, batch)
        tables.append(table)
        if len(contenders) > 1:
            pictures.append(
                Picture(table.title, "bars", table.title, "Median latency of each, with its interval.")
            )
    p50 = metrics["latency_p50_ms"]
    own = f"One call with {batches[0]} row{'s' if batches[0] > 1 else ''} takes {p50.value:.3g} ms (median)"
    return Record(
        by="latency",
        verdict=Verdict.NOTED,
        summary=". ".join([own, *said]) + ".",
        metrics=metrics,
        findings=(*findings, *disturbed(before, Usage.now(), os.cpu_count() or 1)),
        tables=tuple(tables),
        pictures=tuple(pictures),
    )


def filled_up(batch: int, fixed: int) -> list[Finding]:
    """What a batch size that the model fixes costs at this one; nothing where it fits."""
    if not fixed or not batch % fixed:
        return []
    calls = -(-batch // fixed)
    spare = calls * fixed - batch
    rows = f"{counted(batch, 'row')} cost{'s' if batch == 1 else ''}"
    return [
        Finding(
            what=f"the batch is fixed at {fixed} rows: {rows} as much as {calls * fixed}",
            effect=Metric.exact(spare / (calls * fixed), batch, better="lower"),
            cause="the file says so, and what is missing is filled up with rows that nobody asks for",
            do="Export it with a dynamic batch axis (dynamic_shapes; dynamic_axes of the older exporter).",
        )
    ]


def own_metrics(nanoseconds: "NDArray[np.int64]", batch: int, seed: int = 0) -> dict[str, Metric]:
    """Percentiles that n allows, and rows a second of one caller; intervals by resampling whole rounds."""
    metrics = {}
    milliseconds = nanoseconds / 1e6
    told = [(name, share) for name, share, enough in ENOUGH_FOR if milliseconds.size >= enough]
    intervals = _quantile_intervals(milliseconds, [share for _, share in told], seed)
    for (name, share), (low, high) in zip(told, intervals, strict=True):
        value = float(np.quantile(milliseconds, share))
        metrics[name] = Metric(value, min(low, value), max(high, value), milliseconds.size, "ms", "lower")
    by_round = batch * nanoseconds.shape[1] / (nanoseconds.sum(axis=1) / 1e9)
    low, high = _median_interval(by_round, seed)
    value = float(np.median(by_round))
    metrics["throughput_per_s"] = Metric(value, low, high, milliseconds.size, "rows/s", "higher")
    return metrics


def _tokens_per_s(rows: Metric, tokens: float) -> Metric:
    """Tokens a second, of rows that have so many."""
    value, low, high = (end * tokens for end in (rows.value, rows.low, rows.high))
    return Metric(value, low, high, rows.n, "tokens/s", "higher", rows.level)


def compare(contenders: Sequence[Contender], raced: Raced, seed: int) -> tuple[list[str], dict[str, Metric]]:
    """A sentence and a speed ratio for the last contender against each before it."""
    medians = [np.median(one, axis=1) for one in raced.nanoseconds]
    floor = noise_floor(medians[0], np.median(raced.control, axis=1), seed)
    sentences, ratios = [], {}
    last = contenders[-1]
    for other, times in zip(contenders[:-1], medians[:-1], strict=True):
        speedup = ratio(times, medians[-1], seed)
        word = differs(speedup, floor)
        eager = other is contenders[0] and other.model.format == "pytorch" and len(contenders) == 2  # noqa: PLR2004
        ratios["speedup" if eager else f"speedup@{other.name}"] = speedup
        measured = f"{speedup.value:.3g}x, 95 % interval {speedup.low:.3g} to {speedup.high:.3g}"
        than = "than" if word != "no measurable difference" else "from"
        sentences.append(f"{last.name}: {word} {than} {other.name} ({measured}; noise floor {floor:.1%})")
    return sentences, ratios


def ratio(slow: "NDArray[np.float64]", fast: "NDArray[np.float64]", seed: int) -> Metric:
    """How many times faster: the median of the paired ratios of the rounds."""
    ratios = slow / fast
    low, high = _median_interval(ratios, seed)
    return Metric(float(np.median(ratios)), low, high, len(ratios), "x", "higher")


def noise_floor(first: "NDArray[np.float64]", again: "NDArray[np.float64]", seed: int) -> float:
    """How far from 1 the interval of a model's ratio to itself reaches, here and now."""
    control = ratio(first, again, seed)
    return max(LEAST_FLOOR, abs(control.low - 1), abs(control.high - 1))


def differs(speedup: Metric, floor: float) -> Comparison:
    """The verdict, in the words that others look for."""
    if speedup.low > 1 + floor:
        return "faster"
    if speedup.high < 1 / (1 + floor):
        return "slower"
    return "no measurable difference"


def _raced(
    contenders: Sequence[Contender], machine: Machine, batch: int, rules: Rules, progress: Progress
) -> Raced:
    entries = [Entry(one.model, one.subject, machine, batch) for one in contenders]
    warmed: list[Warm] = []
    for one, entry in zip(contenders, entries, strict=True):
        progress.tell(f"warming {one.name}", len(warmed), len(contenders))
        warmed.append(one.worker.call(warm, entry, rules.warm_s, rules.warm_at_most_s, progress=Progress()))
    calls = [_calls(one, rules) for one in warmed]
    visits = [*range(len(contenders)), 0]
    round_s = sum(warmed[index].call_s * (calls[index] + 1) for index in visits)
    rounds = max(5, min(rules.rounds, int(rules.at_most_s / round_s)))
    taken: list[list[tuple[int, ...]]] = [[] for _ in visits]
    order = random.Random(machine.seed)  # noqa: S311  # an order, no secret
    for _ in progress.over(range(rounds), f"timing at batch {batch}", rounds):
        for visit in order.sample(range(len(visits)), len(visits)):
            index = visits[visit]
            timed = contenders[index].worker.call(block, entries[index], calls[index], progress=Progress())
            taken[visit].append(timed)
    for worker in {id(one.worker): one.worker for one in contenders}.values():
        worker.call(release, progress=Progress())
    arrays = [np.array(rows, dtype=np.int64) for rows in taken]
    return Raced(tuple(arrays[:-1]), arrays[-1], tuple(warmed))


def _calls(warmed: Warm, rules: Rules) -> int:
    """The calls of one visit: enough to fill its time."""
    return max(rules.least_calls, min(rules.most_calls, int(rules.visit_s / max(warmed.call_s, 1e-9))))


def _median_interval(values: "NDArray[np.float64]", seed: int) -> tuple[float, float]:
    """The percentile bootstrap of the median over rounds."""
    generator = np.random.default_rng(seed)
    picked = generator.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[picked], axis=1), [0.025, 0.975])
    return float(low), float(high)


def _quantile_intervals(
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


def _table(contenders: Sequence[Contender], raced: Raced, batch: int) -> Table:
    """One line a contender, the fastest and slowest round beside the median."""
    rows = []
    for one, times, warmed in zip(contenders, raced.nanoseconds, raced.warm, strict=True):
        ((low, high),) = _quantile_intervals(times / 1e6, [0.5], 0)
        rows.append(
            (
                one.name,
                float(np.median(times) / 1e6),
                low,
                high,
                warmed.first_s * 1e3,
                int(times.size),
                one.subject.model.artifact,
                warmed.provider,
            )
        )
    columns = ("model", "median ms", "low", "high", "first call ms", "calls", "format", "run by")
    return Table(f"Latency at batch {batch}", columns, tuple(rows))
