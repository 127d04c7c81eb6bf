"""Which kinds of errors cost a tagger how much of its F1."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import polars as pl

from diagnose.check import Check
from diagnose.entities import Entities, Spans, entity_metrics, read_entities
from diagnose.entity_errors import KINDS, NONE, Errors, costs_of, errors_of, frequent
from study.errors import SkipError
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_rows
from study.task import Kind
from study.view import View

AROUND = 4
"""Words that are shown before and behind an entity."""


@final
@dataclass(frozen=True, slots=True)
class EntityErrors(Check):
    """What the errors are: missed, spurious, of a wrong type, with wrong words; and what each kind costs."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tokens"})

    least: float = 0.01
    """A cost in F1 that is worth a finding."""
    shown: int = 12
    """Confusions that are listed."""

    def check(self, view: View) -> Record:
        entities = read_entities(view)
        if entities.parted.units < 2:  # noqa: PLR2004 - an interval needs two
            raise SkipError("an interval needs two rows (or groups)")
        entity_metrics(entities)  # there must be entities
        errors = errors_of(entities)
        costs = costs_of(entities, errors)
        title = "What each kind of error costs"
        rows = tuple(
            (name, cost.value, cost.low, cost.high, int(errors.of(name).sum()), KINDS[name])
            for name, cost in costs.items()
        )
        columns = ("kind", "cost in F1", "low", "high", "errors", "what it is")
        told = "How far the F1 of entities would rise without the errors of a kind."
        confusions = self._confusions(view, entities, errors)
        worst = max(costs, key=lambda name: costs[name].value)
        summary = f"{len(errors)} errors; those of the kind '{worst}' ({KINDS[worst]}) cost most: "
        summary += f"{100 * costs[worst].value:.2f} points of F1."
        findings = self._findings(view, entities, errors, worst, costs[worst])
        return Record(
            "entity-errors",
            Verdict.NOTED if findings else Verdict.GOOD,
            summary if len(errors) else "Every entity is found, and none where none is tagged.",
            metrics={f"entity_f1_cost@{name}": cost for name, cost in costs.items()},
            findings=findings,
            tables=tuple(table for table in (Table(title, columns, rows), confusions) if table.rows),
            pictures=(Picture(title, "bars", title, told),),
        )

    def _confusions(self, view: View, entities: Entities, errors: Errors) -> Table:
        """A line a confusion, the most frequent first, with the words of one example."""
        cases = frequent(entities, errors, self.shown)
        examples = [int(which[0]) for *_, which in cases]
        rows_of = entities.parted.position[errors.row[examples]] if examples else np.zeros(0, dtype=np.int64)
        table = view.table("predictions").filter(pl.col("position").is_in(pl.Series(rows_of).implode()))
        known = {
            one: (name, words) for one, name, words in table.select("position", "id", "word").collect().rows()
        }
        lines: list[tuple[Cell, ...]] = []
        for (tagged, found, kind, which), at, position in zip(cases, examples, rows_of.tolist(), strict=True):
            name, words = known[position]
            own, other = (
                _words(spans, int(place), words)
                for spans, place in ((entities.there, errors.there[at]), (entities.found, errors.found[at]))
            )
            around = _around(entities, errors, at, words)
            lines.append((tagged, found, kind, len(which), name, own, other, around))
        columns = ("tagged", "found", "kind", "errors", "such as row", "tagged words", "found words", "in")
        return Table("Most frequent confusions of entities", columns, tuple(lines))

    def _findings(
        self, view: View, entities: Entities, errors: Errors, name: str, cost: Metric
    ) -> tuple[Finding, ...]:
        if not (cost.low > 0 and cost.value >= self.least):
            return ()
        which = errors.of(name)
        rows, counts = np.unique(errors.row[which], return_counts=True)
        worst = entities.parted.position[rows[np.argsort(-counts, kind="stable")]]
        return (
            Finding(
                f"{int(which.sum())} errors of entities are of one kind: {KINDS[name]}.",
                name,
                rows=len(rows),
                effect=cost,
                certainty=cost.level,
                do="Look at the confusions below: some may be wrong tags.",
                show=show_rows(view, worst),
            ),
        )


def _words(spans: Spans, place: int, words: list[str]) -> str:
    return "" if place == NONE else " ".join(words[int(spans.first[place]) : int(spans.last[place]) + 1])


def _around(entities: Entities, errors: Errors, at: int, words: list[str]) -> str:
    """The words of both entities with some before and behind them."""
    both = [
        (int(spans.first[place]), int(spans.last[place]))
        for spans, place in ((entities.there, errors.there[at]), (entities.found, errors.found[at]))
        if place != NONE
    ]
    start, stop = min(first for first, _ in both), max(last for _, last in both) + 1
    low, high = max(0, start - AROUND), min(len(words), stop + AROUND)
    text = " ".join(words[low:high])
    return f"{'… ' if low else ''}{text}{' …' if high < len(words) else ''}"
