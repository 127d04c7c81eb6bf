"""What a search tries, cheapest first: each rung looks at what was tried and proposes steps, or none."""

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from diag.candidates import Candidate, best, candidates_of, compared, fastest
from diag.growing import Tried
from diag.policy import LATENCY, SIZE, Budget
from study.record import Record

Proposal: TypeAlias = tuple[str, int]
"""A step as typed, and the index of the step that it is made from."""
LINEAR_SHARE = 0.5
"""With this share of the parameters in linear layers, 4-bit weights are worth a try."""

CHEAP = ("onnx", "fuse", "int8-dynamic", "int8", "fp16")
"""What is tried whatever the records say, as far as the device allows."""
RATIOS = (0.3, 0.5, 0.7, 0.85)
"""Of channels that go, tried in this order."""
CLOSE = 0.15
"""Ratios no farther apart are not worth another fit."""
MOST_AIMS, NEAR, SURE = 2, 0.08, 0.97
"""Fits towards one latency or size; how near below it no other is worth it; what to aim at, if beyond."""
AMOUNTS = {LATENCY: "latency={:.4g}ms", SIZE: "size={:.0f}B"}
"""What pruning may be asked to reach."""
EXCLUDED = re.compile(r"exclude=([^\s:,()|\"']+)")


@dataclass(frozen=True, slots=True)
class Goal:
    """What is looked for, and what there is to reach it with."""

    budgets: tuple[Budget, ...]
    training: bool = False
    student: bool = False
    device: str = "cpu"
    recovery: str = ""
    """How what was pruned and the student are trained, as settings of their steps."""

    def has(self, *kinds: str) -> bool:
        """Whether there is a budget of one of these kinds."""
        return any(budget.kind in kinds for budget in self.budgets)

    @property
    def reach(self) -> dict[str, float]:
        """The milliseconds and bytes of the budgets, by the metric."""
        names = {"size": SIZE, "latency": LATENCY}
        found = {one.metric or names.get(one.kind, ""): one.most for one in self.budgets}
        return {name: found[name] for name in AMOUNTS if name in found}

    def taught(self, typed: str) -> str:
        """A step that trains, with how."""
        return f"{typed}:{self.recovery}" if self.recovery else typed


@dataclass(frozen=True, slots=True)
class Standing:
    """What was tried, and where that leaves the search."""

    goal: Goal
    candidates: tuple[Candidate, ...]

    @classmethod
    def of(cls, goal: Goal, tried: Sequence[Tried]) -> "Standing":
        """Of the steps that are whole."""
        return cls(goal, candidates_of(tried))

    def find(self, typed: str, parent: int) -> Candidate | None:
        """That step, if it was tried."""
        return next(
            (one for one in self.candidates if (one.typed, one.tried.step.parent) == (typed, parent)), None
        )

    @property
    def base(self) -> Candidate | None:
        """The float ONNX model; None where there is none."""
        came = self.candidates[0]
        found = came if came.deployable else self.find("onnx", 0)
        return found if found and found.made else None

    @property
    def best(self) -> Candidate | None:
        """The one to keep so far."""
        return best(self.candidates, self.goal.budgets)

    @property
    def whole(self) -> Candidate | None:
        """The fastest with all channels whose answers are kept, be it too slow or too large."""
        budgets = self.goal.budgets
        able = [one for one in self.candidates if one.deployable and not one.changed_nothing]
        return fastest([one for one in able if self._has_all_channels(one) and not one.loses(budgets)])

    @property
    def tail(self) -> tuple[str, ...]:
        """The steps after the export that led to it."""
        whole, found = self.whole, []
        while whole and self.base and whole.index != self.base.index:
            found.append(whole.typed)
            whole = self.candidates[whole.tried.step.parent or 0]
        return tuple(reversed(found))

    def _has_all_channels(self, one: Candidate) -> bool:
        """Whether no other module but the model as it came stands before it."""
        parent = one.tried.step.parent
        if parent is None:
            return True
        return one.deployable and self._has_all_channels(self.candidates[parent])

    def gains(self, one: Candidate) -> bool:
        """Whether it is faster than the model with all its channels, or smaller where a size is asked for."""
        whole = self.whole
        if whole is None or compared(one, whole)[0] == "faster":
            return True
        return self.goal.has("size") and (one.size or 0.0) < (whole.size or 0.0)

    @property
    def trains(self) -> bool:
        """Whether a module can be changed and fitted."""
        return self.goal.training and self.candidates[0].tried.format == "pytorch"

    @property
    def reached(self) -> bool:
        """All budgets are kept, one of latency or size among them: nothing dearer needs to be tried."""
        return self.best is not None and self.goal.has("latency", "size")


Rung: TypeAlias = Callable[[Standing], Iterator[Proposal]]


def exported(standing: Standing) -> Iterator[Proposal]:
    """ONNX."""
    if not standing.candidates[0].deployable:
        yield "onnx", 0


def fused(standing: Standing) -> Iterator[Proposal]:
    """Transformer fusions, which change no number."""
    if standing.base:
        yield "fuse", standing.base.index


def quantized(standing: Standing) -> Iterator[Proposal]:
    """Eight bits, of the float model and of the fused one where that is faster."""
    base = standing.base
    if base is None:
        return
    merged = standing.find("fuse", base.index)
    quicker = merged if merged and merged.made and compared(merged, base)[0] == "faster" else None
    for one in (base, quicker):
        if one is not None:
            yield "int8-dynamic", one.index
            yield "int8", one.index


def halved(standing: Standing) -> Iterator[Proposal]:
    """Half precision: quicker on a GPU alone; on a processor it only halves the file."""
    small = standing.goal.has("size") and standing.best is None
    if standing.base and (standing.goal.device != "cpu" or small):
        yield "fp16", standing.base.index


def in_four_bits(standing: Standing) -> Iterator[Proposal]:
    """Four bits, where linear layers hold most of the parameters."""
    base = standing.base
    dynamic = standing.find("int8-dynamic", base.index) if base else None
    share = dynamic.figures.metrics.get("parameters_in_int8@audit") if dynamic else None
    if base and share and share.value >= LINEAR_SHARE:
        yield "int4", base.index


def kept_in_float(standing: Standing) -> Iterator[Proposal]:
    """Calibrated int8 again, without the layers that cost most, where all of them cost too much."""
    for one in standing.candidates:
        if one.typed == "int8" and one.made and one.loses(standing.goal.budgets):
            again = with_left_in_float(one)
            if again:
                yield again, one.tried.step.parent or 0


def with_left_in_float(one: Candidate) -> str:
    """The same step with the layers in float that the sensitivity of its layers names; empty: none."""
    record: Record | None = one.tried.record("sensitivity")
    told = next((found.do for found in record.findings if EXCLUDED.search(found.do)), "") if record else ""
    names = EXCLUDED.search(told)
    settings = [text for text in one.typed.split(":")[1:] if not text.startswith("exclude=")]
    return ":".join([one.tried.step.word, f"exclude={names[1]}", *settings]) if names else ""


def pruned(standing: Standing) -> Iterator[Proposal]:
    """Fewer channels, recovered on the training rows, and then the steps that served the whole model best."""
    if not standing.trains:
        return
    if standing.goal.reach:
        yield from _pruned_to_reach(standing)
        return
    known: dict[float, bool] = {}
    while (ratio := next_ratio(known)) is not None:
        chain = yield from _chain(standing, f"prune:{ratio:g}")
        if not chain:
            return
        known[ratio] = not chain[-1].loses(standing.goal.budgets)
        if known[ratio] and not standing.gains(chain[-1]):
            return  # fewer channels and nothing won: still fewer would only cost answers


def _pruned_to_reach(standing: Standing) -> Iterator[Proposal]:
    """Down to the latency and the size of the budgets; once more where the artifact lies elsewhere."""
    budgets = standing.goal.reach
    aims = dict(budgets)
    steps = "+".join(typed.partition(":")[0] for typed in standing.tail)
    for _ in range(MOST_AIMS):
        words = [AMOUNTS[name].format(most) for name, most in aims.items()]
        words += [f"then={steps}"] if steps else []
        chain = yield from _chain(standing, ":".join(["prune", *words]))
        got = {name: chain[-1].value(name) for name in budgets} if chain else {}
        room = [most / value for name, most in budgets.items() if (value := got.get(name))]
        if len(room) < len(budgets) or 1 <= min(room) < 1 + NEAR:
            return
        if min(room) < 1:
            if chain[-1].loses(standing.goal.budgets):
                return  # still fewer channels would only cost more answers
            aims = {name: min(aim, _seen_by(chain[0], name) or aim) * SURE for name, aim in aims.items()}
        aims = {name: aim * min(room) for name, aim in aims.items()}


def _seen_by(prune: Candidate, name: str) -> float | None:
    """What the step took for the figure; it times its model beside one other alone."""
    seen = prune.figures.metrics.get(f"{name}@onnx_after_pruning")
    return seen.high if seen else None


def next_ratio(known: Mapping[float, bool]) -> float | None:
    """Ratios rise while the answers are kept, and then close in on the one that just keeps them."""
    if not known:
        return RATIOS[0]
    low = max((ratio for ratio, kept in known.items() if kept), default=0.0)
    high = min((ratio for ratio, kept in known.items() if not kept), default=None)
    if high is None:
        return next((ratio for ratio in RATIOS if ratio > low), None)
    return round((low + high) / 2, 2) if high - low > CLOSE else None


def distilled(standing: Standing) -> Iterator[Proposal]:
    """The student, where one is given, and then the steps that served the whole model best."""
    if standing.goal.student and standing.trains:
        yield from _chain(standing, "distill")


def _chain(standing: Standing, typed: str) -> Generator[Proposal, None, tuple[Candidate, ...]]:
    """A changed module, exported and quantized: as far as that was worth it, empty where it was not made.

    None is begun where all budgets are kept; one that was is finished, since what is left of it is cheap.
    """
    made: list[Candidate] = []
    if standing.reached and standing.find(standing.goal.taught(typed), 0) is None:
        return ()
    for word in (standing.goal.taught(typed), "onnx", *standing.tail):
        parent = made[-1].index if made else 0
        yield word, parent
        found = standing.find(word, parent)
        if found is None or not found.made:
            return ()
        made.append(found)
        if not found.deployable and found.stopped(standing.goal.budgets):
            break
    return tuple(made)


RUNGS: tuple[Rung, ...] = (exported, fused, quantized, halved, in_four_bits, kept_in_float, pruned, distilled)
"""In order; the first step that one proposes and that was not tried yet is tried next."""


def climb(standing: Standing) -> Proposal | None:
    """The next step to try; None where nothing is left."""
    for rung in RUNGS:
        for typed, parent in rung(standing):
            if standing.find(typed, parent) is None:
                return typed, parent
    return None
