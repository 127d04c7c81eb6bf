"""What the flow does next: the steps of a fixed plan, or of one that grows with what was learnt."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from diag.plan import Plan, Step
from diag.request import Part
from study.record import Metric, Record


@dataclass(frozen=True, slots=True)
class Tried:
    """One step that was begun: its model's format (empty: none was made), and what was learnt so far."""

    step: Step
    format: str = ""
    records: tuple[Record, ...] = ()
    looked: frozenset[Part] = frozenset()
    """What was asked of it already."""
    task: str = ""
    """What the outputs mean."""

    def metrics(self) -> dict[str, Metric]:
        """Every metric of its records, by name."""
        return {name: metric for record in self.records for name, metric in record.metrics.items()}

    def record(self, by: str) -> Record | None:
        """The record of that plug-in."""
        return next((record for record in self.records if record.by == by), None)


class Growing(ABC):
    """Decides from what was tried, and from nothing else: the same records give the same plan."""

    @abstractmethod
    def step(self, tried: Sequence[Tried]) -> Step | None:
        """The step after these, all of which are whole; None at the end."""

    @abstractmethod
    def parts(self, tried: Sequence[Tried]) -> frozenset[Part]:
        """What to look at now in the last of these; nothing where it was looked at enough."""

    @abstractmethod
    def beside(self, tried: Sequence[Tried]) -> tuple[int, ...]:
        """The steps that the last of these is timed beside."""

    @abstractmethod
    def says(self, tried: Sequence[Tried]) -> tuple[Record, ...]:
        """What is to be said of the last of these, once it was looked at enough."""


@final
@dataclass(frozen=True, slots=True)
class Fixed(Growing):
    """A plan that was typed: every step is looked at whole."""

    plan: Plan
    asked: frozenset[Part]

    def step(self, tried: Sequence[Tried]) -> Step | None:
        """The next one."""
        return self.plan.steps[len(tried)] if len(tried) < len(self.plan.steps) else None

    def parts(self, tried: Sequence[Tried]) -> frozenset[Part]:
        """All that is asked for, at once."""
        return self.asked - tried[-1].looked

    def beside(self, tried: Sequence[Tried]) -> tuple[int, ...]:
        """The model as it came; where all are given, every one before."""
        last = len(tried) - 1
        given = all(step.parent is None for step in self.plan.steps)
        return tuple(range(last if given else min(last, 1)))

    def says(self, tried: Sequence[Tried]) -> tuple[Record, ...]:
        """Nothing: the records speak."""
        del tried
        return ()
