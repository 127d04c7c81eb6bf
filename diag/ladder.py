"""What a search tries, cheapest first: each rung looks at what was tried and proposes steps, or none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from diag.candidates import Candidate, best, candidates_of, compared
from diag.growing import Tried
from diag.policy import Budget

Proposal: TypeAlias = tuple[str, int]
"""A step as typed, and the index of the step that it is made from."""
LINEAR_SHARE = 0.5
"""With this share of the parameters in linear layers, 4-bit weights are worth a try."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is looked for, and what there is to reach it with."""

    budgets: tuple[Budget, ...]
    training: bool = False
    device: str = "cpu"

    def has(self, *kinds: str) -> bool:
        """Whether there is a budget of one of these kinds."""
        return any(budget.kind in kinds for budget in self.budgets)


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


RUNGS: tuple[Rung, ...] = (exported, fused, quantized, halved, in_four_bits)
"""In order; the first step that one proposes and that was not tried yet is tried next."""


def climb(standing: Standing) -> Proposal | None:
    """The next step to try; None where nothing is left."""
    for rung in RUNGS:
        for typed, parent in rung(standing):
            if standing.find(typed, parent) is None:
                return typed, parent
    return None
