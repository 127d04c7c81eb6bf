"""The rounds of a race: each process of each contender once a round, in random order, on the same rows."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from export.timing.inputs import Inputs, inputs_of
from export.timing.seats import (
    Seat,
    Started,
    Warm,
    Way,
    Window,
    block,
    leave,
    peak_memory,
    release,
    start,
    warm,
    window,
)
from export.timing.verdicts import median_interval
from study.errors import DiagError
from study.progress import Progress
from study.subject import Machine, Model, Subject
from study.worker import Inline, Worker

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
LIMIT_S = 1800.0
"""No process of a race may be silent for longer."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One model in the race, the worker that reads its rows, and the processes that run nothing but it."""

    name: str
    model: Model
    subject: Subject
    worker: Worker
    processes: tuple[Worker, ...] = ()
    """Empty: the worker runs it too, beside whatever else it holds."""
    way: Way = ""
    """One that is run in another way than its own may fail, and the race goes on without it."""

    @property
    def seats(self) -> tuple[Worker, ...]:
        """Where it runs."""
        return self.processes or (self.worker,)


@dataclass(frozen=True, slots=True)
class Rules:
    """How long to measure: rounds, seconds of one visit, of warming, and of all rounds at most."""

    least_rounds: int = 15
    rounds: int = 40
    few_rounds: int = 5
    """So many whatever they take."""
    visit_s: float = 0.012
    warm_s: float = 0.2
    warm_at_most_s: float = 2.0
    at_most_s: float = 8.0
    patient_s: float = 30.0
    """Of the least rounds, where calls are so slow that they take longer."""
    least_calls: int = 1
    most_calls: int = 200
    narrow: float = 0.02
    """Rounds end when every interval is as narrow, as a share of its middle on either side."""
    callers: tuple[int, ...] = (1,)
    window_s: float = 0.1
    windows: int = 5

    def most_rounds(self, round_s: float) -> int:
        """How many rounds of so many seconds there may be."""
        usual = min(self.rounds, int(self.at_most_s / round_s))
        slow = min(self.least_rounds, int(self.patient_s / round_s))
        return max(self.few_rounds, usual, slow)


RULES = Rules()


@dataclass(frozen=True, slots=True)
class Runner:
    """What one contender showed: starts, warming, and nanoseconds (process, round, call)."""

    started: tuple[Started, ...]
    warm: tuple[Warm, ...]
    nanoseconds: "NDArray[np.int64]"
    peaks: tuple[int, ...] = ()

    @property
    def rounds(self) -> "NDArray[np.float64]":
        """The median call of each (process, round), in nanoseconds."""
        medians: NDArray[np.float64] = np.median(self.nanoseconds, axis=2)
        return medians

    @property
    def pooled(self) -> "NDArray[np.float64]":
        """Of each round: the geometric mean over the processes."""
        means: NDArray[np.float64] = self.rounds.prod(axis=0) ** (1 / len(self.rounds))
        return means

    @property
    def calls(self) -> "NDArray[np.int64]":
        """Nanoseconds (round, call), of all processes."""
        return np.concatenate(list(self.nanoseconds), axis=1)


@dataclass(frozen=True, slots=True)
class Raced:
    """A race at one batch size."""

    batch: int
    runners: tuple[Runner, ...]
    control: "NDArray[np.int64] | None" = None
    """Second visits of the first contender (round, call), where it has one process alone."""
    inputs: Inputs = field(default=Inputs((), ""))
    order: tuple[tuple[int, ...], ...] = ()
    """Of each round: the visits as they came. The processes of the first contender have the first numbers,
    then those of the second, and so on; the control's visit has the last one."""
    shown: tuple[int, ...] = ()
    """Of each round: which batch."""
    windows: tuple[tuple[int, tuple[Window, ...]], ...] = ()
    """Of the last contender: callers, and what they did in each window."""
    steady: bool = True
    """The intervals became narrow before the time was up."""
    contenders: tuple[Contender, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    """Who could not race, and why."""


class Track:
    """A race at one batch size, while it runs."""

    def __init__(self, contenders: Sequence[Contender], machine: Machine, batch: int, rules: Rules) -> None:
        self.contenders, self.batch, self.rules, self.seed = list(contenders), batch, rules, machine.seed
        self.machine = machine
        self.seats: list[tuple[int, Worker, Seat]] = []
        self.dropped: list[tuple[str, str]] = []

    def run(self, progress: Progress) -> Raced:
        """Start, warm, go round, and measure throughput and memory.

        Raises:
            InputError: a model does not run, or not where it was asked to.
            SkipError: nothing says what the inputs look like.
            WorkerError: a process died.
        """
        shown = self._inputs()
        started, warmed = self._warmed(shown, progress)
        names = [one.name for one in self.contenders]
        taken, order, which, steady = self._rounds(warmed, len(shown[0].batches), progress)
        peaks = [_ask(worker, peak_memory, seat) for _, worker, seat in self.seats]
        windows = self._windows(warmed[-1].call_s, progress)
        for _, worker, seat in self.seats:
            _ask(worker, release if seat.own else leave)
        runners = []
        for index in range(len(names)):
            at = [number for number, (owner, _, _) in enumerate(self.seats) if owner == index]
            runners.append(
                Runner(
                    tuple(started[number] for number in at),
                    tuple(warmed[number] for number in at),
                    np.array([taken[number] for number in at], dtype=np.int64),
                    tuple(peak for number in at if (peak := peaks[number]) is not None),
                )
            )
        control = np.array(taken[-1], dtype=np.int64) if len(taken) > len(self.seats) else None
        return Raced(
            batch=self.batch,
            runners=tuple(runners),
            control=control,
            inputs=shown[-1],
            order=tuple(order),
            shown=tuple(which),
            windows=windows,
            steady=steady,
            contenders=tuple(self.contenders),
            dropped=tuple(self.dropped),
        )

    def _warmed(self, shown: Sequence[Inputs], progress: Progress) -> tuple[list[Started], list[Warm]]:
        """Every process started and warmed; who cannot be run in its way is out of the race."""
        started: list[Started] = []
        warmed: list[Warm] = []
        able: list[Contender] = []
        rules = self.rules
        for index, one in enumerate(self.contenders):
            progress.tell(f"warming {one.name}", index, len(self.contenders))
            seats = self._seats(one, index)
            try:
                ready = [_ask(worker, start, seat) for worker, seat in seats]
                warm_s, batches = (rules.warm_s, rules.warm_at_most_s), shown[index].batches
                steady = [_ask(worker, warm, seat, batches, *warm_s) for worker, seat in seats]
            except DiagError as error:
                if not one.way:
                    raise
                self.dropped.append((one.name, str(error)))
                continue
            self.seats += [(len(able), worker, seat) for worker, seat in seats]
            started += ready
            warmed += steady
            able.append(one)
        self.contenders = able
        return started, warmed

    def _seats(self, one: Contender, index: int) -> list[tuple[Worker, Seat]]:
        seats = []
        for number, worker in enumerate(one.seats):
            # In one process the seats of several contenders lie side by side: a number for each.
            own = not isinstance(worker, Inline) and bool(one.processes)
            place = number if own else 100 * index + number
            seats.append((worker, Seat(one.model, self.machine, place, own=own, way=one.way)))
        return seats

    def _inputs(self) -> list[Inputs]:
        """Of each contender; those that read the same rows alike share them."""
        made: dict[object, Inputs] = {}
        shown = []
        for one in self.contenders:
            subject = one.subject
            key = (subject.judged, subject.calibration, subject.training, subject.inputs)
            if key not in made:
                made[key] = _ask(one.worker, inputs_of, subject, self.batch, self.seed)
            shown.append(made[key])
        return shown

    def _rounds(
        self, warmed: Sequence[Warm], batches: int, progress: Progress
    ) -> tuple[list[list[tuple[int, ...]]], list[tuple[int, ...]], list[int], bool]:
        """Visit by visit, until the intervals are narrow or the time is up."""
        rules = self.rules
        visits = list(range(len(self.seats)))
        if all(len(one.seats) == 1 for one in self.contenders):
            visits.append(0)
        calls = self._calls(warmed)
        round_s = sum(warmed[at].call_s * (calls[at] + 1) for at in visits)
        most = rules.most_rounds(round_s)
        taken: list[list[tuple[int, ...]]] = [[] for _ in visits]
        orders: list[tuple[int, ...]] = []
        which: list[int] = []
        chance = random.Random(self.seed)  # noqa: S311  # an order, no secret
        what, steady = f"timing at batch {self.batch}", False
        for number in range(most):
            progress.tell(what, number, most)
            which.append(number % batches)
            orders.append(tuple(chance.sample(range(len(visits)), len(visits))))
            for visit in orders[-1]:
                _, worker, seat = self.seats[visits[visit]]
                taken[visit].append(_ask(worker, block, seat, which[-1], calls[visits[visit]]))
            done = number + 1
            if done >= rules.least_rounds and (done % 5 == 0 or done == most):
                steady = self._narrow(taken, which)
                if steady:
                    break
        progress.tell(what, most, most)
        return taken, orders, which, steady

    def _calls(self, warmed: Sequence[Warm]) -> list[int]:
        """The calls of one visit: enough to fill its time; as many for all processes of a contender."""
        rules, calls = self.rules, []
        for index, _, _ in self.seats:
            each = [warmed[at].call_s for at, (owner, _, _) in enumerate(self.seats) if owner == index]
            wanted = int(rules.visit_s / max(min(each), 1e-9))
            calls.append(max(rules.least_calls, min(rules.most_calls, wanted)))
        return calls

    def _narrow(self, taken: Sequence[Sequence[tuple[int, ...]]], which: Sequence[int]) -> bool:
        """Whether the ratios of the last contender, and its own time, are known well enough."""
        logs = np.log([[float(np.median(calls)) for calls in visit] for visit in taken[: len(self.seats)]])
        owners = np.array([owner for owner, _, _ in self.seats])
        means = [logs[owners == index].mean(axis=0) for index in range(len(self.contenders))]
        shown = np.array(which)
        middles = {batch: float(np.median(means[-1][shown == batch])) for batch in set(which)}
        own = means[-1] - np.array([middles[batch] for batch in which])
        for values in (own, *(other - means[-1] for other in means[:-1])):
            low, high = median_interval(values, self.seed)
            if (high - low) / 2 > self.rules.narrow:
                return False
        return True

    def _windows(self, call_s: float, progress: Progress) -> tuple[tuple[int, tuple[Window, ...]], ...]:
        """Callers that call without pause, the last contender's, in each of its processes in turn."""
        rules = self.rules
        last = [(worker, seat) for owner, worker, seat in self.seats if owner == len(self.contenders) - 1]
        count = rules.windows if call_s < rules.window_s else 1
        measured = []
        for callers in rules.callers:
            progress.tell(f"throughput of {callers} caller{'s' if callers > 1 else ''}", 0, 0)
            done = [
                _ask(worker, window, seat, rules.window_s, callers)
                for _ in range(count)
                for worker, seat in last
            ]
            measured.append((callers, tuple(done)))
        return tuple(measured)


def _ask(worker: Worker, function: Callable[..., T], *arguments: object) -> T:
    return worker.call(function, *arguments, progress=Progress(), limit_s=LIMIT_S)
