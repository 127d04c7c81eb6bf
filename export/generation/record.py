"""How fast a language model writes with a key/value cache: reading the prompt, and each token, apart.

Prefill computes all tokens of a prompt at once and is bound by arithmetic; decode computes one token a call
and is bound by reading the weights and the cache (Pope et al., 2022). One number for both says neither.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from export.generation.timing import LEAST_WRITTEN, Entry, Ready, Visit, ready, release, visit
from export.size import readable
from export.timing.race import Contender
from export.timing.verdicts import differs, noise_floor, own_metrics, ratio
from study.errors import DiagError
from study.progress import Progress
from study.record import Cell, Metric, Picture, Record, Table, Verdict
from study.subject import Machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

BY: Final = "generation"
MOST_ROUNDS, LEAST_ROUNDS = 25, 5
AT_MOST_S: Final = 6.0
"""Of a race; beyond it fewer tokens are written, and then fewer rounds run."""
PHASES: Final = ("prefill", "decode", "without a cache")


@dataclass(frozen=True, slots=True)
class Timed:
    """Nanoseconds (round, call) of one contender."""

    prefill: "NDArray[np.int64]"
    decode: "NDArray[np.int64]"
    again: "NDArray[np.int64]"

    @classmethod
    def of(cls, visits: Sequence[Visit]) -> "Timed":
        """One visit a round."""
        prefill = np.array([[one.prefill] for one in visits], np.int64)
        again = np.array([[one.again] for one in visits], np.int64)
        return cls(prefill, np.array([one.decode for one in visits], np.int64), again)

    @property
    def phases(self) -> "tuple[NDArray[np.int64], ...]":
        """In the order of ``PHASES``."""
        return self.prefill, self.decode, self.again


def generation(contenders: Sequence[Contender], machine: Machine, progress: Progress) -> tuple[Record, ...]:
    """How the last contender writes, beside the first one; nothing of models that do not write texts."""
    task = contenders[-1].subject.task
    if task is None or task.kind != "language":
        return ()
    raced = [contenders[0], contenders[-1]] if len(contenders) > 1 else [contenders[-1]]
    try:
        made, timed, control = _raced(raced, machine, progress)
    except DiagError as error:
        return (Record.skipped(BY, str(error)),)
    metrics, told = _own(made[-1], timed[-1], machine.seed)
    if len(raced) > 1:
        ratios, compared = _compared(raced, timed, control, machine.seed)
        metrics |= ratios
        told.extend(compared)
    table = _table(raced, made, timed, machine.seed)
    picture = Picture(table.title, "bars", table.title, "Median time of a call of each, with its interval.")
    return (
        Record(
            BY,
            Verdict.NOTED,
            " ".join(told),
            metrics=metrics,
            tables=(table,),
            pictures=(picture,),
        ),
    )


def _raced(
    raced: Sequence[Contender], machine: Machine, progress: Progress
) -> tuple[list[Ready], list[Timed], Timed]:
    """Rounds in random order, the first contender twice in each: its second visits are the control."""
    entries = [Entry(one.model, one.subject, machine, 1) for one in raced]
    workers = {id(one.seats[0]): one.seats[0] for one in raced}.values()
    try:
        made = [
            one.seats[0].call(ready, entry, progress=Progress())
            for one, entry in zip(raced, entries, strict=True)
        ]
        visits = [*range(len(raced)), 0]
        count, rounds = _amount([made[index] for index in visits])
        taken: list[list[Visit]] = [[] for _ in visits]
        order = random.Random(machine.seed)  # noqa: S311  # an order, no secret
        for _ in progress.over(range(rounds), "timing generation", rounds):
            for at in order.sample(range(len(visits)), len(visits)):
                index = visits[at]
                taken[at].append(
                    raced[index].seats[0].call(visit, entries[index], count, progress=Progress())
                )
    finally:
        for worker in workers:
            worker.call(release, progress=Progress())
    timed = [Timed.of(one) for one in taken]
    return made, timed[:-1], timed[-1]


def _amount(made: Sequence[Ready]) -> tuple[int, int]:
    """The tokens of a visit and the rounds: fewer tokens where the least rounds would take too long."""
    most = min(len(one.visit.decode) for one in made)
    fixed_s = sum(2 * one.visit.prefill + one.visit.again for one in made) / 1e9
    token_s = sum(float(np.mean(one.visit.decode)) for one in made) / 1e9
    count = max(LEAST_WRITTEN, min(most, int((AT_MOST_S / LEAST_ROUNDS - fixed_s) / token_s)))
    return count, max(LEAST_ROUNDS, min(MOST_ROUNDS, int(AT_MOST_S / (fixed_s + count * token_s))))


def _own(made: Ready, timed: Timed, seed: int) -> tuple[dict[str, Metric], list[str]]:
    """The figures of one model, and what they say."""
    metrics = {"bytes_per_token@decode": Metric.exact(made.bytes_per_token, 1, "B", "lower")}
    for phase, times, tokens in (("prefill", timed.prefill, made.prompt), ("decode", timed.decode, 1)):
        own = own_metrics(times, tokens, seed)
        rate = own.pop("throughput_per_s")
        own["throughput_tokens_per_s"] = Metric(rate.value, rate.low, rate.high, rate.n, "tokens/s", "higher")
        metrics |= {f"{name}@{phase}": metric for name, metric in own.items()}
    again = own_metrics(timed.again, 1, seed)["latency_p50_ms"]
    metrics["latency_p50_ms@without_cache"] = again
    metrics["speedup@cache"] = ratio(_medians(timed.again), _medians(timed.decode), seed)
    reading = (
        f"Prefill of {made.prompt} tokens takes {_ms(metrics['latency_p50_ms@prefill'])}, "
        f"{metrics['throughput_tokens_per_s@prefill'].value:,.0f} tokens a second."
    )
    writing = (
        f"Decode takes {_ms(metrics['latency_p50_ms@decode'])} a token, "
        f"{metrics['throughput_tokens_per_s@decode'].value:,.0f} tokens a second; without a cache a token "
        f"costs a call on the whole text, {_ms(again)} at {made.prompt} tokens."
    )
    return metrics, [reading, writing, f"The cache takes {readable(made.bytes_per_token)} a token."]


def _compared(
    raced: Sequence[Contender], timed: Sequence[Timed], control: Timed, seed: int
) -> tuple[dict[str, Metric], list[str]]:
    """A speed ratio and a sentence for each phase."""
    first, last = raced[0].name, raced[-1].name
    ratios, told = {}, []
    for phase, slow, fast, same in zip(
        PHASES[:2], timed[0].phases, timed[-1].phases, control.phases, strict=False
    ):
        speedup = ratio(_medians(slow), _medians(fast), seed)
        floor = noise_floor(_medians(slow), _medians(same), seed)
        word = differs(speedup, floor)
        than = "than" if word != "no measurable difference" else "from"
        ratios[f"speedup@{phase}"] = speedup
        told.append(
            f"{phase.capitalize()} of {last}: {word} {than} {first} ({speedup.value:.3g}x, 95 % interval "
            f"{speedup.low:.3g} to {speedup.high:.3g}; noise floor {floor:.1%})."
        )
    return ratios, told


def _table(raced: Sequence[Contender], made: Sequence[Ready], timed: Sequence[Timed], seed: int) -> Table:
    """One line a contender and phase."""
    rows: list[tuple[Cell, ...]] = []
    for one, prepared, times in zip(raced, made, timed, strict=True):
        for phase, taken, tokens in zip(PHASES, times.phases, (prepared.prompt, 1, 1), strict=True):
            own = own_metrics(taken, tokens, seed)
            p50, rate = own["latency_p50_ms"], own["throughput_per_s"].value
            line = (p50.value, p50.low, p50.high, rate, p50.n, prepared.provider)
            rows.append((f"{one.name}, {phase}", *line))
    title = f"Writing after a prompt of {made[-1].prompt} tokens"
    columns = ("model and phase", "median ms", "low", "high", "tokens a second", "calls", "run by")
    return Table(title, columns, tuple(rows))


def _medians(times: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Of each round."""
    medians: NDArray[np.float64] = np.median(times, axis=1)
    return medians


def _ms(metric: Metric) -> str:
    return f"{metric.value:.3g} ms [{metric.low:.3g}, {metric.high:.3g}]"
