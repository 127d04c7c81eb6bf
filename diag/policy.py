"""Budgets: what an artifact may lose and cost, judged on the metrics of its records.

A budget without its metric is failed, never passed. The value has to be within the budget; its interval says
how sure that is: an artifact whose interval lies wholly beyond is surely no good, one within whose interval
reaches beyond is passed, and that is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from diag.render.figures import Figure, figure, measure
from diag.render.summary import HEADLINES
from study.record import JSON, Metric, Record, Table, Verdict

Kind: TypeAlias = Literal["drop", "flips", "slice", "latency", "size"]
State: TypeAlias = Literal[
    "within", "within, the interval reaches beyond", "beyond", "surely beyond", "missing"
]
FLAGS: Mapping[Kind, str] = {
    "drop": "--max-drop",
    "flips": "--max-flips",
    "slice": "--max-slice-drop",
    "latency": "--max-latency",
    "size": "--max-size",
}
QUALITY: tuple[Kind, ...] = ("drop", "flips", "slice")
PREFERRED = {"regression": ("mae", "rmse", "r2")}
"""Headline metrics whose change is measured row by row, before those of the report."""
CLOCKS: tuple[Kind, ...] = ("latency",)
"""Read from a clock: measured again they are never the same."""
SLACK = 1e-9
"""What floating point adds to a difference that is just the budget."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most of something that an artifact may have: a share, milliseconds or bytes."""

    kind: Kind
    most: float
    metric: str = ""
    """The bare metric that is read, where the kind leaves a choice: ``latency_p90_ms``."""

    @property
    def flag(self) -> str:
        """How it was typed."""
        return FLAGS[self.kind]


@dataclass(frozen=True, slots=True)
class Figures:
    """The metrics of an artifact, and those of the model as it came."""

    metrics: Mapping[str, Metric]
    origin: Mapping[str, Metric]
    task: str
    itself: bool = False
    """This is the model as it came, which has lost nothing."""

    @property
    def headline(self) -> str:
        """The metric that says how good the model as it came is; empty where nothing says it."""
        names = (*PREFERRED.get(self.task, ()), *HEADLINES.get(self.task, ()))
        return next((name for name in names if name in self.origin), "")


@dataclass(frozen=True, slots=True)
class Reading:
    """A budget with what the artifact has of it; no metric: nobody measured it."""

    budget: Budget
    metric: Metric | None
    of: str
    """What was read, in words."""

    @property
    def state(self) -> State:
        """The value decides, and the interval says how sure that is."""
        if self.metric is None:
            return "missing"
        most = self.budget.most + SLACK * max(1.0, abs(self.budget.most))
        if self.metric.low > most:
            return "surely beyond"
        if self.metric.value > most:
            return "beyond"
        return "within, the interval reaches beyond" if self.metric.high > most else "within"

    @property
    def passed(self) -> bool:
        """Within the budget by its value."""
        return self.state.startswith("within")

    @property
    def words(self) -> str:
        """``--max-flips 1 %: newly wrong 2.3 % [1.4, 3.8], beyond``."""
        budget = f"{self.budget.flag} {self.most.text}"
        shown = self.shown
        return f"{budget}: {self.of} {shown.short if shown else 'was not measured'}, {self.state}"

    @property
    def shown(self) -> Figure | None:
        """What the artifact has."""
        return _figure(self.budget, self.metric) if self.metric else None

    @property
    def most(self) -> Figure:
        """The budget as a number with its unit."""
        return _figure(self.budget, Metric.exact(self.budget.most, 0))


def _figure(budget: Budget, metric: Metric) -> Figure:
    if budget.kind == "latency":
        return figure("latency_p50_ms", metric)
    if budget.kind == "size":
        return figure("size_bytes", metric)
    if budget.kind == "flips" or metric.unit == "%":
        return figure("agreement", replace(metric, unit=""))
    return figure("worst_slice_drop", replace(metric, unit="points"))


def judged(budgets: Sequence[Budget], figures: Figures) -> tuple[Reading, ...]:
    """Each budget read on an artifact."""
    return tuple(Reading(budget, *_read(budget, figures)) for budget in budgets)


def _read(budget: Budget, figures: Figures) -> tuple[Metric | None, str]:
    metrics = figures.metrics
    if budget.kind in QUALITY and figures.itself:
        return Metric.exact(0.0, 0, better="lower"), "the model as it came"
    if budget.kind == "drop":
        return drop(figures), f"drop of the {measure(figures.headline).label}" if figures.headline else "drop"
    if budget.kind == "flips":
        return flips(metrics)
    name = budget.metric or {"slice": "worst_slice_drop", "size": SIZE}.get(budget.kind, LATENCY)
    return metrics.get(name), measure(name).label


LATENCY = "latency_p50_ms"
SIZE = "size_bytes"


def drop(figures: Figures) -> Metric | None:
    """How much of the headline metric was lost since the model as it came; above zero is worse.

    Of a share, the difference (0.005 is half a point); of anything else (an error, a perplexity) its relative
    change. The paired difference where a record has it, else the difference of both, whose interval is wider.
    """
    name = figures.headline
    before, after = figures.origin.get(name), figures.metrics.get(name)
    if before is None or after is None:
        return None
    sign = (
        -1.0 if (before.better if before.better != "neither" else measure(name).better) == "higher" else 1.0
    )
    change = figures.metrics.get(f"{name}@change")
    if change is None:
        low, high = after.low - before.high, after.high - before.low
        change = Metric(after.value - before.value, low, high, min(before.n, after.n))
    share = measure(name).kind == "percent"
    scale = sign if share else sign / abs(before.value) if before.value else 0.0
    if not scale:
        return None
    ends = sorted((change.low * scale, change.high * scale))
    unit = "points" if share else "%"
    value = change.value * scale + 0.0  # no minus before a zero
    return Metric(value, ends[0], ends[1], change.n, unit, "lower", change.level)


def flips(metrics: Mapping[str, Metric]) -> tuple[Metric | None, str]:
    """Rows that are newly wrong; where answers are not right or wrong, those that changed."""
    wrong = metrics.get("negative_flip_rate")
    if wrong is not None:
        return wrong, "newly wrong"
    same = metrics.get("agreement")
    if same is None:
        return None, "newly wrong"
    changed = Metric(
        1 - same.value, max(0.0, 1 - same.high), min(1.0, 1 - same.low), same.n, "", "lower", same.level
    )
    return changed, "answers changed"


def budgets_record(by: str, readings: Sequence[Reading], *, gate: bool) -> Record:
    """What each budget says; where it is a ``gate``, one that was failed is a fault.

    What passes a gate was within its budgets before: a clock fails it only where its interval says so.
    """
    again = CLOCKS if gate else ()
    failed = [
        one for one in readings if not one.passed and not (one.budget.kind in again and one.state == "beyond")
    ]
    doubtful = [one for one in readings if one not in failed and one.state != "within"]
    said = failed or doubtful
    summary = "; ".join(one.words for one in said) if said else "All budgets are kept."
    if doubtful and not failed:
        summary = f"All budgets are kept, though not surely: {summary}."
    elif failed:
        summary = f"Not kept: {summary}."
    bad, good = (Verdict.BAD, Verdict.GOOD) if gate else (Verdict.NOTED, Verdict.NOTED)
    rows = tuple(
        (
            one.budget.flag,
            one.most.text,
            one.of,
            one.shown.text if one.shown else None,
            one.shown.interval if one.shown else None,
            one.state,
        )
        for one in readings
    )
    table = Table("Budgets", ("budget", "at most", "what is read", "is", "interval", "state"), rows)
    return Record(by, bad if failed else good, summary, tables=(table,))


def to_json(budgets: Sequence[Budget]) -> list[JSON]:
    """The budgets as a report keeps them."""
    return [{"kind": one.kind, "most": one.most, "metric": one.metric} for one in budgets]


def from_json(data: list[JSON]) -> tuple[Budget, ...]:
    """The budgets that were kept."""
    from typing import cast

    return tuple(Budget(**cast("dict[str, str]", one)) for one in data)  # type: ignore[arg-type]
