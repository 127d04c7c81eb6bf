"""What was tried, judged by its outputs on rows that no range was taken from."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.examples import Batch
from export.graphs.files import Graph
from export.graphs.taps import tapped
from study.batches import rows_of
from study.record import Cell, Table
from study.task import ROWS, VALUES, Task, decisions, scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

HELD: Final = 1 << 26
"""Bytes of outputs from which on no more rows are judged."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How far one candidate's outputs are from the float model's.

    ``error`` is the root of the squared differences over that of the squared outputs, of the worst output;
    ``changed`` of ``rows`` decisions are others, None where a task decides nothing row by row.
    """

    what: str
    error: float
    changed: int | None
    rows: int

    @property
    def sqnr_db(self) -> float:
        """Signal over noise; infinite where nothing differs."""
        return -20 * math.log10(self.error) if self.error else math.inf


@dataclass(frozen=True, slots=True)
class Judge:
    """The float model's outputs on the rows that were held out."""

    batches: "tuple[Batch, ...]"
    wanted: "tuple[dict[str, NDArray[Any]], ...]"
    task: Task | None
    counts: tuple[int, ...]
    """Of each batch, the rows that are not there to fill it up."""

    @property
    def rows(self) -> int:
        """How many judge."""
        return sum(self.counts)

    @classmethod
    def of(cls, graph: Graph, held: Iterable[Batch], rows: int, task: Task | None) -> "Judge":
        """Run the float model once; ``rows`` is how many there are, without those that fill up a batch."""
        batches: list[Batch] = []
        wanted: list[dict[str, NDArray[Any]]] = []
        counts: list[int] = []
        with tapped(graph, [value.name for value in graph.graph.output]) as run:
            size = 0
            for batch in held:
                if size > HELD:
                    continue
                outputs = run(batch)
                batches.append(batch)
                wanted.append(outputs)
                arrays = (*outputs.values(), *batch.values())
                size += sum(array.nbytes for array in arrays)
                counts.append(min(rows_of(batch), rows - sum(counts)))
        decides = task is not None and task.kind in ROWS and task.kind not in VALUES
        return cls(tuple(batches), tuple(wanted), task if decides else None, tuple(counts))

    def judged(self, what: str, candidate: Graph) -> Trial:
        """How far the candidate is."""
        names = [value.name for value in candidate.graph.output]
        noise, signal = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        changed = 0
        with tapped(candidate, names) as run:
            for batch, wanted, count in zip(self.batches, self.wanted, self.counts, strict=True):
                found = run(batch)
                for name, array in wanted.items():
                    if array.dtype.kind == "f":
                        off, all_of_it = _squares(array, found[name])
                        noise[name] += off
                        signal[name] += all_of_it
                changed += self._changed(wanted, found, count)
        errors = [math.sqrt(noise[name] / signal[name]) for name in names if signal[name]]
        return Trial(what, max(errors, default=0.0), changed if self.task else None, self.rows)

    def _changed(
        self, wanted: "dict[str, NDArray[Any]]", found: "dict[str, NDArray[Any]]", count: int
    ) -> int:
        if self.task is None:
            return 0
        first = np.asarray(decisions(self.task, scored(self.task, wanted)))
        second = np.asarray(decisions(self.task, scored(self.task, found)))
        return int((first != second).reshape(len(first), -1)[:count].any(axis=1).sum())


def _squares(wanted: "NDArray[Any]", found: "NDArray[Any]") -> tuple[float, float]:
    """The squared differences and the squares; lists of another length (found boxes) differ wholly."""
    first, second = wanted.astype(np.float64), found.astype(np.float64)
    if first.shape != second.shape:
        return (float((first[np.isfinite(first)] ** 2).sum()),) * 2
    whole = np.isfinite(first) & np.isfinite(second)
    return float(((first - second)[whole] ** 2).sum()), float((first[whole] ** 2).sum())


def trials_table(title: str, trials: Sequence[Trial], kept: Trial) -> Table:
    """One line a trial, in the order in which they were made."""
    rows: list[tuple[Cell, ...]] = [
        (
            trial.what,
            None if math.isinf(trial.sqnr_db) else trial.sqnr_db,
            trial.error,
            trial.changed,
            trial.rows,
            "kept" if trial is kept else "",
        )
        for trial in trials
    ]
    columns = ("tried", "SQNR (dB)", "relative error", "decisions changed", "rows held out", "")
    return Table(title, columns, tuple(rows))
