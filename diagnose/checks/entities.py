"""How well a tagger finds entities."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from diagnose.check import Check
from diagnose.entities import Entities, entity_metrics, f1_change, read_entities, scores
from diagnose.fallen import points_fallen
from study.bootstrap import bootstrap
from study.errors import SkipError, counted
from study.record import Cell, Finding, Picture, Record, Table, Verdict
from study.statistics import count_units, share_of
from study.task import Kind
from study.view import View

LONG = 3
"""Entities of so many words or more are told together."""


@final
@dataclass(frozen=True, slots=True)
class EntitiesFound(Check):
    """Which entities are found: all words and the type must be right (as seqeval counts by default)."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tokens"})

    drop: float = 0.01
    """A drop of the F1 since the model as it came that matters."""

    def check(self, view: View) -> Record:
        entities = read_entities(view)
        if entities.parted.units < 2:  # noqa: PLR2004 - an interval needs two
            raise SkipError("an interval needs two rows (or groups)")
        metrics = entity_metrics(entities)
        f1 = metrics["entity_f1"]
        summary = f"The F1 of entities is {100 * f1.value:.2f} % [{100 * f1.low:.2f}, {100 * f1.high:.2f}]: "
        summary += (
            f"{len(entities.there)} are tagged ({entities.scheme.name}) in {len(entities.parted)} rows "
        )
        summary += f"and {len(entities.found)} found"
        verdict, findings = Verdict.NOTED, list[Finding]()
        change = None if view.origin is None else f1_change(read_entities(view.origin), entities)
        if change is not None:
            metrics["entity_f1@change"] = change
            summary += f". Against the model as it came: {100 * change.value:+.2f} points"
            summary += f" [{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
            if change.high < 0 and change.value <= -self.drop:
                fault = points_fallen(view, "The F1 of entities", change, change.n, recovers=False)
                verdict, findings = Verdict.BAD, [fault]
            elif change.low > -self.drop:
                verdict = Verdict.GOOD
        types, lengths = _types(entities), _lengths(entities)
        pictures = [Picture(types.title, "bars", types.title, "The types of entities, the worst first.")]
        if lengths.rows:
            told = "Whether entities of several words are found as well."
            pictures.append(Picture(lengths.title, "bars", lengths.title, told))
        tables = tuple(table for table in (types, lengths) if table.rows)
        return Record(
            "entities", verdict, f"{summary}.", "", metrics, tuple(findings), tables, tuple(pictures)
        )


def _types(entities: Entities) -> Table:
    """A line a type that occurs, the worst first."""
    total = entities.sums.sum(axis=0, keepdims=True)
    there, found, _ = np.split(total[0].astype(np.int64), 3)
    precision, recall, f1 = (one[0] for one in scores(total))
    low, high = bootstrap(entities.sums, lambda sums: scores(sums)[2], groups=entities.parted.groups)
    rows: list[tuple[Cell, ...]] = []
    for at in np.argsort(np.where(np.isfinite(f1), f1, np.inf), kind="stable").tolist():
        if not np.isfinite(f1[at]):
            continue
        ends = (float(np.fmin(low[at], f1[at])), float(np.fmax(high[at], f1[at])))
        shares = tuple(float(one[at]) if np.isfinite(one[at]) else None for one in (precision, recall))
        rows.append(
            (entities.scheme.types[at], float(f1[at]), *ends, *shares, int(there[at]), int(found[at]))
        )
    columns = ("type", "F1", "low", "high", "precision", "recall", "entities", "found")
    return Table("F1 of each type of entity", columns, tuple(rows))


def _lengths(entities: Entities) -> Table:
    """How many of the tagged entities are found whole and with their type, by their words."""
    there, groups = entities.there, entities.parted.groups
    words = np.minimum(there.last - there.first + 1, LONG)
    hits = np.isin(there.keys, entities.found.keys)
    owner = there.row if groups is None else groups[there.row]
    rows: list[tuple[Cell, ...]] = []
    for length in range(1, LONG + 1):
        inside = words == length
        if count_units(int(inside.sum()), owner[inside]) < 2:  # noqa: PLR2004 - an interval needs two
            continue
        share = share_of(hits[inside], groups=owner[inside], better="higher")
        name = f"{length} or more words" if length == LONG else counted(length, "word")
        rows.append((name, share.value, share.low, share.high, int(inside.sum())))
    return Table("Recall by words of the entity", ("words", "recall", "low", "high", "entities"), tuple(rows))
