"""The worker's part of a latency race: a bound call, warmed until it is stable, and blocks of timed calls."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from export.examples import Batch, examples_of
from study.batches import fixed_batch
from study.progress import Progress
from study.runtime import of_this_process
from study.subject import Machine, Model, Subject

_BOUND: dict[tuple[Model, Machine, int], Callable[[], None]] = {}
"""The calls that are ready to be timed, in this process."""

COLD_S = 0.003
WARM_WINDOW = 5
STABLE_WITHIN = 0.05


@dataclass(frozen=True, slots=True)
class Entry:
    """One model at one batch size, on its rows."""

    model: Model
    subject: Subject
    machine: Machine
    batch: int


@dataclass(frozen=True, slots=True)
class Warm:
    """What warming showed: the first call and one call when stable, in seconds, and how many it took."""

    first_s: float
    call_s: float
    calls: int
    stable: bool
    provider: str
    tokens: int = 0
    """Of one call, without what fills shorter texts up; 0 where rows are no texts."""
    fixed: int = 0
    """The only number of rows that the model takes; 0: any."""


def warm(entry: Entry, at_least_s: float, at_most_s: float, _progress: Progress) -> Warm:
    """Bind real rows where there are any, and call until the medians of two windows differ little."""
    runtime = of_this_process().get(entry.model, entry.machine)
    shown = entry.subject
    rows = examples_of(replace(shown, calibration=shown.judged or shown.calibration), entry.batch)
    batch = rows.take(entry.batch)
    call = runtime.bind(batch)
    _BOUND[entry.model, entry.machine, entry.batch] = call
    began = time.perf_counter()
    call()
    first_s = time.perf_counter() - began
    before, calls, stable = float("inf"), 1, False
    while (spent := time.perf_counter() - began) < at_most_s:
        window = [_time(call) for _ in range(WARM_WINDOW)]
        calls += WARM_WINDOW
        now = median(window)
        stable = abs(now - before) <= STABLE_WITHIN * before
        before = now
        if stable and spent >= at_least_s:
            break
    task = shown.task
    tokens = tokens_of(batch) if task is not None and task.kind == "language" else 0
    return Warm(
        first_s, before / 1e9, calls, stable, runtime.provider, tokens, fixed_batch(runtime.inputs) or 0
    )


def tokens_of(batch: Batch) -> int:
    """Those that a mask shows, else every one."""
    mask = next((array for name, array in batch.items() if "mask" in name), None)
    steps = next((array.size for array in batch.values() if array.dtype.kind in "iu"), 0)
    return int(steps if mask is None else mask.sum())


def block(entry: Entry, calls: int, _progress: Progress) -> tuple[int, ...]:
    """Nanoseconds of each of ``calls`` calls in a row, after some that are not counted.

    Those bring back the caches that another contender used meanwhile: a model that races alone and one that
    races beside others are timed alike.
    """
    call = _BOUND[entry.model, entry.machine, entry.batch]
    back = time.perf_counter() + COLD_S
    call()
    while time.perf_counter() < back:
        call()
    collecting = gc.isenabled()
    gc.disable()
    try:
        return tuple(_time(call) for _ in range(calls))
    finally:
        if collecting:
            gc.enable()


def release(_progress: Progress) -> None:
    """Forget the bound calls: they hold input and output buffers."""
    _BOUND.clear()


def _time(call: Callable[[], None]) -> int:
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began
