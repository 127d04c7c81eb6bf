"""Which kinds of errors cost a detector how much of its average precision."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

from diagnose.average_precision import change, precisions, weights_of
from diagnose.check import Check
from diagnose.detected import read_found, require_objects
from diagnose.tide import TYPES, errors_of, mended
from study.record import Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_figures
from study.task import Kind
from study.view import View


@final
@dataclass(frozen=True, slots=True)
class DetectionErrors(Check):
    """What the errors are, and what each type costs (TIDE, Bolya et al. 2020)."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"detection"})

    least: float = 0.01
    """A cost in average precision that is worth a finding."""

    def check(self, view: View) -> Record:
        found = read_found(view)
        require_objects(found)
        errors = errors_of(found)
        weights = weights_of(len(found), found.groups)
        now = precisions(found, errors.matching, weights).mean()
        costs: dict[str, Metric] = {}
        for name in TYPES:
            cost = change(now, mended(found, errors, name, weights), len(found))
            costs[name] = replace(cost, better="lower")
        rows = tuple(
            (name, costs[name].value, costs[name].low, costs[name].high, errors.count(name), means)
            for name, means in TYPES.items()
        )
        title = "What each type of error costs"
        picture = Picture(title, "bars", title, "How far the mean average precision rises without them.")
        columns = ("type", "cost in average precision", "low", "high", "errors", "what it is")
        worst = max(costs, key=lambda name: costs[name].value)
        findings = self._findings(view, worst, costs[worst], errors.count(worst))
        said = f"At an overlap of a half, errors of type '{worst}' ({TYPES[worst]}) cost most: "
        said += f"{100 * costs[worst].value:.2f} points of mean average precision."
        return Record(
            "detection-errors",
            Verdict.NOTED if findings else Verdict.GOOD,
            said if errors.count(worst) else "There are no errors at an overlap of a half.",
            metrics={f"dap@{name}": cost for name, cost in costs.items()},
            findings=findings,
            tables=(Table(title, columns, rows),),
            pictures=(picture,),
        )

    def _findings(self, view: View, name: str, cost: Metric, count: int) -> tuple[Finding, ...]:
        if not (cost.low > 0 and cost.value >= self.least):
            return ()
        what = f"{count} errors are of one type: {TYPES[name]}."
        return (Finding(what, name, effect=cost, certainty=cost.level, show=show_figures(view)),)
