"""Two ONNX models timed beside each other in this process: enough to steer a search."""

import gc
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from export.timing.verdicts import Comparison, differs, noise_floor, own_metrics, ratio
from study.runtime import open_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.examples import Batch
    from study.record import Metric
    from study.subject import Machine, Model

ROUNDS, VISIT_S, MOST_CALLS, AT_MOST_S = 20, 0.01, 50, 6.0


@dataclass(frozen=True, slots=True)
class Paired:
    """Milliseconds of one call, and how many times faster the second is, by rounds in random order.

    The floor is how far the first is from itself in a session of its own.
    """

    first: "Metric"
    second: "Metric"
    speedup: "Metric"
    floor: float

    @classmethod
    def of(cls, first: "Model", second: "Model", batch: "Batch", machine: "Machine") -> Self:
        """Time both on these rows, each with the machine's threads."""
        with ExitStack() as stack:
            calls = [
                stack.enter_context(open_runtime(model, machine)).bind(batch)
                for model in (first, first, second)
            ]
            taken = _rounds(calls, machine.seed)
        medians = [np.median(one, axis=1) for one in taken]
        told = [own_metrics(one, 1)["latency_p50_ms"] for one in (taken[0], taken[2])]
        speedup = ratio(medians[0], medians[2], machine.seed)
        return cls(told[0], told[1], speedup, noise_floor(medians[0], medians[1], machine.seed))

    @property
    def word(self) -> Comparison:
        """What the second is beside the first."""
        return differs(self.speedup, self.floor)


def _rounds(
    calls: "list[Callable[[], None]]", seed: int
) -> "list[np.ndarray[tuple[int, int], np.dtype[np.int64]]]":
    """Nanoseconds by round and call of each."""
    counts, round_s = [], 0.0
    for call in calls:
        call()
        began = time.perf_counter()
        for _ in range(3):
            call()
        each = (time.perf_counter() - began) / 3
        counts.append(max(3, min(MOST_CALLS, int(VISIT_S / max(each, 1e-9)))))
        round_s += each * (counts[-1] + 1)
    rounds = max(5, min(ROUNDS, int(AT_MOST_S / round_s)))
    taken: list[list[list[int]]] = [[] for _ in calls]
    order = random.Random(seed)  # noqa: S311  # an order, no secret
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for which in order.sample(range(len(calls)), len(calls)):
                calls[which]()  # brings back the caches that the others used
                taken[which].append([_time(calls[which]) for _ in range(counts[which])])
    finally:
        if collecting:
            gc.enable()
    return [np.array(one, dtype=np.int64) for one in taken]


def _time(call: "Callable[[], None]") -> int:
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began
