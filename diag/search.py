"""``diag optimize``: a plan that grows with what was learnt. Pure: the same records give the same plan.

Its steps go through looks in stages, the cheapest first, and end at the first that shows a budget surely
broken. What is only looked at once is the model as it came and the artifact that was chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from diag.candidates import Candidate, best, candidates_of, compared
from diag.choice import nearest, search_record
from diag.growing import Fixed, Growing, Tried
from diag.ladder import Goal, Standing, climb
from diag.plan import AS_IT_CAME, CHOSEN, NEAREST, Plan, Step
from diag.policy import Budget, budgets_record
from diag.request import EVERYTHING, Part, Request
from study.record import Record, Verdict

TIMED: frozenset[Part] = frozenset({"latency"})
STAGES: tuple[frozenset[Part], ...] = (
    frozenset({"size"}),
    frozenset({"glance"}),
    TIMED,
    frozenset({"diagnose"}),
)
"""What a candidate is asked, one after the other."""
LAYERS: frozenset[Part] = frozenset({"sensitivity"})
"""Of calibrated int8 that answers too badly: which layers should stay in float? It takes minutes."""
WHOLE: Mapping[str, frozenset[Part]] = {
    AS_IT_CAME: EVERYTHING | {"glance"},
    CHOSEN: EVERYTHING,
    NEAREST: STAGES[0],
}
"""What is asked at once."""
FAITHFUL = ("onnx", "fuse")
"""Steps that were verified to compute the same: a glance at few rows would tell nothing."""


@final
@dataclass(frozen=True, slots=True)
class Search(Growing):
    """Steps and their settings under joint budgets."""

    goal: Goal

    def step(self, tried: Sequence[Tried]) -> Step | None:
        """The next rung of the ladder; at its end, what was chosen."""
        if not tried:
            return Step(AS_IT_CAME, AS_IT_CAME, None)
        if tried[-1].step.typed in (CHOSEN, NEAREST):
            return None
        plan = Plan(tuple(one.step for one in tried))
        proposal = climb(Standing.of(self.goal, tried))
        if proposal is not None:
            return plan.grown(*proposal, unsaid=self.goal.recovery)
        candidates = candidates_of(tried)
        chosen = best(candidates, self.goal.budgets)
        if chosen is not None:
            return plan.grown(CHOSEN, chosen.index)
        return plan.grown(NEAREST, nearest(candidates, self.goal.budgets).index)

    def parts(self, tried: Sequence[Tried]) -> frozenset[Part]:
        """The next stage; nothing after a budget was surely broken."""
        last = tried[-1]
        if last.step.typed in WHOLE:
            return WHOLE[last.step.typed] - last.looked
        *before, candidate = candidates_of(tried)
        budgets = self.goal.budgets
        stage = _next_stage(candidate, budgets)
        if stage or candidate.typed != "int8" or not candidate.loses(budgets):
            return stage
        return _of_layers(candidate, best(before, budgets)) - last.looked

    def beside(self, tried: Sequence[Tried]) -> tuple[int, ...]:
        """The model as it came, and the one to beat."""
        before = () if tried[-1].step.typed in (CHOSEN, NEAREST) else candidates_of(tried)[:-1]
        if not before:
            return (0,) if len(tried) > 1 else ()
        rival = best(before, self.goal.budgets) or next((one for one in before if one.deployable), None)
        return tuple(dict.fromkeys((0, rival.index))) if rival else (0,)

    def says(self, tried: Sequence[Tried]) -> tuple[Record, ...]:
        """What the budgets say of the artifact; at the end, what was tried and why it lost."""
        candidates = candidates_of(tried)
        last, budgets = candidates[-1], self.goal.budgets
        if last.typed == NEAREST:
            return (search_record(candidates[:-1], last, budgets),)
        if last.typed == CHOSEN:
            kept = budgets_record("budgets", last.readings(budgets), gate=True)
            return (search_record(candidates[:-1], last, budgets), kept)
        if last.tried.step.parent is None or not last.deployable:
            return ()
        return (_told(last, budgets),)


def growing_of(request: Request) -> Growing:
    """What decides the next step of a request."""
    return Search(goal_of(request)) if request.budgets else Fixed(request.plan, request.parts)


def goal_of(request: Request) -> Goal:
    """What a search looks for, and what it may use."""
    training, student = request.training is not None, request.student is not None
    return Goal(request.budgets, training, student, request.machine.device, request.recovery)


def _next_stage(candidate: Candidate, budgets: Sequence[Budget]) -> frozenset[Part]:
    """What is asked next; nothing where a budget is surely broken, or all was asked."""
    if candidate.changed_nothing or candidate.stopped(budgets):
        return frozenset()
    looked = candidate.tried.looked
    return next((one for one in STAGES if not one <= looked and _worth(one, candidate)), frozenset())


def _of_layers(int8: Candidate, rival: Candidate | None) -> frozenset[Part]:
    """Which layers are to blame? With some in float it is no faster, so first it has to beat its rival."""
    if rival is None or compared(int8, rival)[0] == "faster":
        return LAYERS
    return TIMED if int8.latency is None else frozenset()


def _worth(stage: frozenset[Part], candidate: Candidate) -> bool:
    """Whether a candidate is asked this."""
    if "glance" in stage:
        return candidate.tried.step.word not in FAITHFUL
    return candidate.deployable


def _told(candidate: Candidate, budgets: Sequence[Budget]) -> Record:
    """Whether a candidate keeps the budgets, or why it was looked at no further."""
    stopped = candidate.stopped(budgets)
    if candidate.changed_nothing:
        return Record("budgets", Verdict.NOTED, "Looked at no further: the step changed nothing.")
    record = budgets_record("budgets", stopped or candidate.readings(budgets), gate=False)
    return replace(record, summary=f"Stopped early. {record.summary}") if stopped else record
