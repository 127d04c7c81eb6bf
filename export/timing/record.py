"""How fast is it, beside what it is compared with: a record of paired rounds, and a verdict that knows noise.

Every contender runs in processes of its own, on the same rows, with the same threads. A round visits each
process once, in random order (after Google Benchmark's random interleaving; percentiles by the early-stopping
counts of MLPerf's loadgen).
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.timing.disturbance import Usage, disturbed
from export.timing.race import RULES, Contender, Raced, Rules, Runner, Track
from export.timing.samples import keep
from export.timing.seats import Window
from export.timing.verdicts import (
    differs,
    median_interval,
    noise_floor,
    of_few,
    percentiles,
    process_floor,
    quantile_intervals,
    ratio,
    refused,
)
from study.errors import counted
from study.progress import Progress
from study.record import JSON, Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.subject import Machine

NOISY = 0.05
"""A noise floor from which on the machine is too noisy to time much on."""
AS_IT_CAME = "as_it_came"
"""The step whose module, run by torch, is what a bare ``speedup`` is against, whoever races beside."""
NO_GAIN = 1.05
"""Times as many rows a second from which on a larger batch is worth it."""


def race(
    contenders: Sequence[Contender],
    machine: Machine,
    batches: Sequence[int],
    progress: Progress,
    rules: Rules = RULES,
    into: Path | None = None,
    environment: dict[str, JSON] | None = None,
) -> Record:
    """The latency record of the last contender, compared with each of those before it.

    The first batch size gives the bare metric names; those of the others end in ``@batch=N``. Every sample
    goes to ``latency.json`` in the folder ``into``.
    """
    before = Usage.now()
    raced = [Track(contenders, machine, batch, rules).run(progress) for batch in batches]
    after = Usage.now()
    if into is not None:
        keep(into, raced, machine, environment or {})
    metrics: dict[str, Metric] = {}
    said: list[str] = []
    findings: list[Finding] = []
    for one in raced:
        own, sentences, found = _told(one, machine.seed, many=len(raced) > 1)
        suffix = "" if one is raced[0] else f"@batch={one.batch}"
        metrics |= {f"{name}{suffix}": metric for name, metric in own.items()}
        said += sentences
        findings += found
    metrics |= _cold_start(raced[0].runners[-1])
    said += [
        _compiling(one, runner)
        for one, runner in zip(raced[0].contenders, raced[0].runners, strict=True)
        if one.way == "compiled"
    ]
    said += [f"{name} is not timed: {reason}".removesuffix(".") for name, reason in _dropped(raced).rows]
    p50 = metrics["latency_p50_ms"]
    own_sentence = (
        f"One call with {counted(batches[0], 'row')} takes {p50.value:.3g} ms (median of {p50.n} calls)"
    )
    tables = [_table(one) for one in raced]
    shown = [
        Picture(table.title, "bars", table.title, "Median latency of each, with its interval.")
        for table in tables
        if len(contenders) > 1
    ]
    return Record(
        by="latency",
        verdict=Verdict.NOTED,
        summary=". ".join([own_sentence, *said, _starting(metrics)]).removesuffix(". ") + ".",
        metrics=metrics,
        findings=(*findings, *_no_gain(raced), *disturbed(before, after, os.cpu_count() or 1)),
        tables=tuple(
            one for one in (*tables, _start_table(raced[0]), _rate_table(raced), _dropped(raced)) if one.rows
        ),
        pictures=tuple(shown),
    )


def compare(
    contenders: Sequence[Contender], raced: Raced, seed: int
) -> tuple[list[str], dict[str, Metric], float]:
    """A sentence and a speed ratio for the last contender against each before it; the largest noise floor."""
    sentences, ratios, floors = [], {}, []
    mine, last = raced.runners[-1], contenders[-1]
    first = contenders[0]
    eager = (
        first.model.format == "pytorch"
        and not first.way
        and (first.name == AS_IT_CAME or all(one.way for one in contenders[1:-1]))
    )
    for other, theirs in zip(contenders[:-1], raced.runners[:-1], strict=True):
        speedup = ratio(theirs.pooled, mine.pooled, seed)
        floors.append(floor_of(raced, (theirs, mine), seed))
        word = differs(speedup, floors[-1])
        ratios["speedup" if eager and other is first else f"speedup@{other.name}"] = speedup
        measured = f"{speedup.value:.3g}x, 95 % interval {speedup.low:.3g} to {speedup.high:.3g}"
        than = "than" if word != "no measurable difference" else "from"
        sentences.append(
            f"{last.name}: {word} {than} {other.name} ({measured}; noise floor {floors[-1]:.1%})"
        )
    return sentences, ratios, max(floors, default=0.0)


def floor_of(raced: Raced, pair: tuple[Runner, Runner], seed: int) -> float:
    """By what the processes of one file differ; of one process each, by a second visit to the first."""
    if raced.control is not None:
        return noise_floor(raced.runners[0].pooled, np.median(raced.control, axis=1), seed)
    several = [one.rounds for one in raced.runners if len(one.rounds) > 1]
    return process_floor(several, (pair[0].rounds, pair[1].rounds))


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


def throughput(windows: Sequence[Window], batch: int, seed: int) -> Metric:
    """Rows a second of all callers together: the median over the windows."""
    rates = np.array(
        [
            sum(batch * calls / (took / 1e9) for calls, took in zip(one.calls, one.nanoseconds, strict=True))
            for one in windows
        ]
    )
    low, high = median_interval(rates, seed)
    value = float(np.median(rates))
    return Metric(value, min(low, value), max(high, value), len(rates), "rows/s", "higher")


def _told(raced: Raced, seed: int, *, many: bool) -> tuple[dict[str, Metric], list[str], list[Finding]]:
    """Metrics under bare names, sentences and findings of the last contender at one batch size."""
    last, batch = raced.runners[-1], raced.batch
    metrics = percentiles(last.calls, seed)
    said = refused(last.calls.size)
    for callers, windows in raced.windows:
        suffix = "" if callers == raced.windows[0][0] else f"@callers={callers}"
        rate = throughput(windows, batch, seed)
        metrics[f"throughput_per_s{suffix}"] = rate
        if raced.inputs.tokens and not suffix:
            per_row = float(np.mean(raced.inputs.tokens)) / batch
            value, low, high = (end * per_row for end in (rate.value, rate.low, rate.high))
            tokens = Metric(value, low, high, rate.n, "tokens/s", "higher")
            metrics["throughput_tokens_per_s"] = tokens
            said.append(f"{value:.4g} tokens a second are scored at batch {batch}")
    if last.peaks:
        metrics["peak_memory_bytes"] = of_few(last.peaks, "bytes")
    sentences, ratios, floor = compare(raced.contenders, raced, seed)
    metrics |= ratios
    if len(raced.contenders) > 1:
        metrics["latency_noise_floor"] = Metric.exact(floor, last.rounds.shape[1], better="lower")
    said += [f"At batch {batch}, {sentence}" if many else sentence for sentence in sentences]
    findings = filled_up(batch, last.started[0].fixed)
    if not raced.steady or floor > NOISY:
        findings.append(_unstable(raced, floor))
    return metrics, said, findings


def _unstable(raced: Raced, floor: float) -> Finding:
    """The time was up, or the machine is restless; the figures stand, with their wide intervals."""
    rounds = raced.runners[-1].rounds.shape[1]
    what = f"timing at batch {raced.batch} is unstable"
    if not raced.steady:
        what += f": after {rounds} rounds an interval is still wider than 2 % on either side"
    if floor > NOISY:
        what += f"{';' if not raced.steady else ':'} processes of one file differ by up to {floor:.0%}"
    return Finding(
        what=what,
        effect=Metric.exact(floor, rounds, better="lower"),
        cause="other work on this machine, or calls so short that where things lie in memory decides",
        do="Measure again on an idle machine, with --threads no more than its free cores.",
    )


def _no_gain(raced: Sequence[Raced]) -> tuple[Finding, ...]:
    """From which batch size on more rows a call gain nothing."""
    sizes = sorted((one for one in raced if one.windows), key=lambda one: one.batch)
    rates = [throughput(one.windows[0][1], one.batch, 0) for one in sizes]
    for small, large, slow, fast in zip(sizes, sizes[1:], rates, rates[1:], strict=False):
        if fast.value < NO_GAIN * slow.value:
            gain = Metric.exact(fast.value / slow.value - 1, min(slow.n, fast.n), better="higher")
            return (
                Finding(
                    what=f"batches of {large.batch} bring {gain.value:+.1%} rows a second over those of "
                    f"{small.batch}: less than {NO_GAIN - 1:.0%}",
                    effect=gain,
                    cause="the processor is busy already",
                    do=f"Serve batches of {small.batch} at most.",
                ),
            )
    return ()


def _cold_start(runner: Runner) -> dict[str, Metric]:
    """From the start of a process to its first answer, and the parts of that."""
    parts = _start_parts(runner)
    metrics = {f"time_cold_start_ms@{name}": of_few(times, "ms") for name, times in parts.items() if times}
    totals = [sum(times) for times in zip(*parts.values(), strict=True)] if all(parts.values()) else []
    return metrics | ({"time_cold_start_ms": of_few(totals, "ms")} if totals else {})


def _start_parts(runner: Runner) -> dict[str, list[float]]:
    """Milliseconds of each start; none where the process is not the model's own."""
    seconds = {
        "process": [one.process_s for one in runner.started],
        "import": [one.import_s for one in runner.started],
        "load": [one.load_s for one in runner.started],
    }
    parts = {name: [1e3 * part for part in each if part is not None] for name, each in seconds.items()}
    return parts | {"first_call": [1e3 * one.first_s for one in runner.warm] if parts["load"] else []}


def _starting(metrics: dict[str, Metric]) -> str:
    cold = metrics.get("time_cold_start_ms")
    if cold is None:
        return ""
    return f"From a process's start to its first answer it takes {cold.value / 1e3:.2g} s"


def _table(raced: Raced) -> Table:
    """One line a contender."""
    rows = []
    for one, runner in zip(raced.contenders, raced.runners, strict=True):
        ((low, high),) = quantile_intervals(runner.calls / 1e6, [0.5], 0)
        median = float(np.median(runner.calls) / 1e6)
        rows.append(
            (
                *(one.name, median, low, high, int(runner.calls.size), len(one.seats)),
                *(one.model.artifact, runner.started[0].provider),
            )
        )
    columns = ("model", "median ms", "low", "high", "calls", "processes", "format", "run by")
    return Table(f"Latency at batch {raced.batch}", columns, tuple(rows))


def _start_table(raced: Raced) -> Table:
    """What starting costs, and memory, of each contender: medians over its processes."""
    rows: list[tuple[Cell, ...]] = []
    for one, runner in zip(raced.contenders, raced.runners, strict=True):
        parts = _start_parts(runner)
        times = [float(np.median(part)) if part else None for part in parts.values()]
        peak = float(np.median(runner.peaks)) / 2**20 if runner.peaks else None
        rows.append((one.name, *times, len(runner.started), peak))
    columns = ("model", "process ms", "import ms", "load ms", "first call ms", "starts", "peak memory MiB")
    return Table("Cold start, and peak memory beyond the imports", columns, tuple(rows))


def _compiling(one: Contender, runner: Runner) -> str:
    first = max(warmed.first_s for warmed in runner.warm)
    return f"{one.name}: compiling takes {first:.2g} s at the first call"


def _dropped(raced: Sequence[Raced]) -> Table:
    """Who could not be run in another way, and why."""
    rows = dict(line for one in raced for line in one.dropped)
    return Table("Not timed", ("model", "reason"), tuple(rows.items()))


def _rate_table(raced: Sequence[Raced]) -> Table:
    """Rows a second of the last contender by batch and callers."""
    rows: list[tuple[Cell, ...]] = []
    for one in raced:
        for callers, windows in one.windows:
            rate = throughput(windows, one.batch, 0)
            seconds = sum(sum(each.nanoseconds) / len(each.nanoseconds) for each in windows) / 1e9
            rows.append((one.batch, callers, rate.value, rate.low, rate.high, rate.n, seconds))
    columns = ("batch", "callers", "rows a second", "low", "high", "windows", "seconds")
    return Table("Throughput, measured with callers that call without pause", columns, tuple(rows))
