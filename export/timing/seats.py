"""The worker's part of a latency race: started cold, warmed until stable, then blocks of timed calls.

A process that races holds one model. It sleeps while others work: ONNX Runtime's threads do not spin between
calls, and torch's stop to after some milliseconds, less than a visit begins with.
"""

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final, Literal, TypeAlias

from export.examples import Batch
from study.batches import fixed_batch
from study.host import to_numpy
from study.progress import Progress
from study.runtime import Runtime, open_runtime, runtime_of
from study.subject import Machine, Model

COLD_S: Final = 0.003
WARM_WINDOW: Final = 5
STABLE_WITHIN: Final = 0.05
Way: TypeAlias = Literal["", "compiled", "copies", "graph"]
"""How a model is run: as it is, its rows in place; by torch.compile; with rows and outputs copied from and to
the host in each call; as a CUDA graph."""
EACH_SHAPE: Final = 2
"""Calls of each further batch while warming: its own shape may need memory of its own."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One process's place in the race: which model it runs, and whether the process is all its own."""

    model: Model
    machine: Machine
    number: int = 0
    """Of the processes of this contender."""
    own: bool = True
    way: Way = ""


@dataclass(frozen=True, slots=True)
class Started:
    """What starting cost, in seconds, and what came of it; None where it cannot be told here."""

    process_s: float | None
    import_s: float | None
    load_s: float | None
    provider: str
    fixed: int
    """The only number of rows that the model takes; 0: any."""


@dataclass(frozen=True, slots=True)
class Warm:
    """What warming showed: the first call and one call when stable, in seconds, and how many it took."""

    first_s: float
    call_s: float
    calls: int
    stable: bool


@dataclass(frozen=True, slots=True)
class Window:
    """Calls that some callers made side by side, and nanoseconds of each from its first to its last."""

    calls: tuple[int, ...]
    nanoseconds: tuple[int, ...]


@dataclass(slots=True)
class _Open:
    started: Started
    runtime: Runtime
    baseline: int
    """Bytes in memory when the framework was imported and no model was open."""
    first_s: float = 0.0
    peaks: dict[int, int] = field(default_factory=dict)
    """Of memory in bytes, by rows of a batch."""
    batches: Sequence[Batch] = ()
    calls: Sequence[Callable[[], None]] = ()

    @property
    def rows(self) -> int:
        """Of a batch."""
        return len(next(iter(self.batches[0].values())))


_OPEN: dict[Seat, _Open] = {}
"""What races in this process."""


def start(seat: Seat, _progress: Progress) -> Started:
    """Import the framework, load the model; once a process.

    Raises:
        InputError: the model cannot be opened, or not on the device or provider that was asked for.
    """
    if seat in _OPEN:
        return _OPEN[seat].started
    process_s = _since_birth() if seat.own and not _OPEN else None
    began = time.perf_counter()
    if runtime_of(seat.model.format) == "onnxruntime":
        import onnxruntime  # noqa: F401
    else:
        import torch  # noqa: F401
    import_s = time.perf_counter() - began
    baseline = _status("VmRSS") if seat.own else 0
    if seat.own:
        _forget_peak()
    began = time.perf_counter()
    runtime = _opened(seat)
    load_s = time.perf_counter() - began
    started = Started(
        process_s,
        import_s if seat.own else None,
        load_s if seat.own else None,
        runtime.provider,
        fixed_batch(runtime.inputs) or 0,
    )
    _OPEN[seat] = _Open(started, runtime, baseline)
    return started


def warm(
    seat: Seat, batches: Sequence[Batch], at_least_s: float, at_most_s: float, _progress: Progress
) -> Warm:
    """Run once as a service would, bind the batches, and call until two windows' medians differ little."""
    held = _OPEN[seat]
    held.batches = batches
    if held.peaks and held.rows not in held.peaks:
        _forget_peak()
    began = time.perf_counter()
    if seat.way != "graph":  # whose capture comes with the first bound call
        _with_copies(held.runtime, batches[0])
    held.first_s = held.first_s or time.perf_counter() - began
    _must_be(seat, held.runtime)
    held.calls = _bound(seat, held)
    call = held.calls[0]
    began, before, calls, stable = time.perf_counter(), float("inf"), 1, False
    while (spent := time.perf_counter() - began) < at_most_s:
        window = [_time(call) for _ in range(WARM_WINDOW)]
        calls += WARM_WINDOW
        now = median(window)
        stable = abs(now - before) <= STABLE_WITHIN * before
        before = now
        if stable and spent >= at_least_s:
            break
    for other in held.calls[1:]:
        for _ in range(EACH_SHAPE):
            other()
    return Warm(held.first_s, before / 1e9, calls, stable)


def block(seat: Seat, which: int, calls: int, _progress: Progress) -> tuple[int, ...]:
    """Nanoseconds of each of ``calls`` calls in a row on one batch, after some that are not counted.

    Those bring back the caches that another contender used meanwhile: a model that races alone and one that
    races beside others are timed alike. The clock is read once a call, so that a block is all calls.
    """
    bound = _OPEN[seat].calls
    call = bound[which % len(bound)]
    back = time.perf_counter() + COLD_S
    call()
    while time.perf_counter() < back:
        call()
    collecting = gc.isenabled()
    gc.disable()
    try:
        stamps = [time.perf_counter_ns()]
        for _ in range(calls):
            call()
            stamps.append(time.perf_counter_ns())
    finally:
        if collecting:
            gc.enable()
    return tuple(after - before for before, after in pairwise(stamps))


def window(seat: Seat, seconds: float, callers: int, _progress: Progress) -> Window:
    """So many callers, each calling again as soon as it is answered, for some seconds; batches in turn."""
    held = _OPEN[seat]
    own = [held.calls, *(_bound(seat, held) for _ in range(callers - 1))]
    done, took = [0] * callers, [1] * callers
    together = threading.Barrier(callers)

    def work(number: int) -> None:
        mine = own[number]
        mine[0]()
        together.wait()
        count, began = 0, time.perf_counter_ns()
        until = began + int(seconds * 1e9)
        while time.perf_counter_ns() < until:
            mine[count % len(mine)]()
            count += 1
        done[number], took[number] = count, time.perf_counter_ns() - began

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, callers)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    return Window(tuple(done), tuple(took))


def peak_memory(seat: Seat, _progress: Progress) -> int | None:
    """Bytes at the peak, beyond those after the imports; None where nobody can tell.

    At the first batch size that a process is asked loading the model counts, at any other running alone.
    """
    held = _OPEN[seat]
    peak = _status("VmHWM") if held.baseline else 0
    return held.peaks.setdefault(held.rows, max(0, peak - held.baseline)) if peak else None


def release(_progress: Progress) -> None:
    """Forget the bound calls: they hold input and output buffers."""
    for held in _OPEN.values():
        held.batches, held.calls = (), ()


def leave(_progress: Progress) -> None:
    """Close what was opened here."""
    while _OPEN:
        _OPEN.popitem()[1].runtime.close()


def _opened(seat: Seat) -> Runtime:
    """The model, to be run in the way that was asked for.

    Raises:
        InputError: it cannot be run in that way.
    """
    if seat.way == "graph":
        from study.runtimes.ort import OnnxRuntime

        return OnnxRuntime.open_to_capture(seat.model, seat.machine)
    runtime = open_runtime(seat.model, seat.machine)
    if seat.way == "compiled":
        from study.runtimes.pytorch import PyTorch

        assert isinstance(runtime, PyTorch), f"{seat.model.path} is no torch model"
        runtime.compile()
    return runtime


def _must_be(seat: Seat, runtime: Runtime) -> None:
    """What was asked for, and not silently something else."""
    if seat.way == "compiled":
        from study.runtimes.pytorch import PyTorch

        assert isinstance(runtime, PyTorch)
        runtime.must_be_compiled()


def _bound(seat: Seat, held: _Open) -> list[Callable[[], None]]:
    """A call of each batch. A CUDA graph is captured of one alone: it replays fixed addresses."""
    if seat.way == "copies":
        return [partial(_with_copies, held.runtime, batch) for batch in held.batches]
    return [held.runtime.bind(batch) for batch in held.batches[: 1 if seat.way == "graph" else None]]


def _with_copies(runtime: Runtime, batch: Batch) -> None:
    for array in runtime(batch).values():
        to_numpy(array)


def _time(call: Callable[[], None]) -> int:
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began


def _since_birth() -> float | None:
    """Seconds since this process began."""
    if sys.platform != "linux":
        return None
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _status(key: str) -> int:
    """A line of this process's status, in bytes; 0 where there is none."""
    file = Path("/proc/self/status")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def _forget_peak() -> None:
    """The peak of memory counts from now on: imports may have needed more than they keep."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return
